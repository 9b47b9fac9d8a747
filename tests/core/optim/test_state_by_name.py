"""An optimizer's state goes to the parameters of its names, in whatever groups and order they are."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet

Optimizer = torch.optim.Optimizer


def trained(model: nn.Module, optimizer: Optimizer, steps: int = 2, seed: int = 0) -> Optimizer:
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
    return optimizer


def by_name(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    return {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}


def check_equal(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for name, entry in one.items():
        assert entry.keys() == other[name].keys()
        assert all(torch.equal(value, other[name][key]) for key, value in entry.items()), name


PLANS: dict[str, dict[str, Any]] = {
    "same": {},
    "per_parameter": {"grouping": "per_parameter"},
    "renamed": {"grouping": "by_name", "grouping_options": {"patterns": {"late": "head", "early": "*"}}},
    "split": {"no_weight_decay": True},
}


@pytest.mark.parametrize("name", ["adam", "sgd", "lamb"])
@pytest.mark.parametrize("to", PLANS)
def test_state_goes_to_the_parameters_of_its_names(to: str, name: Any) -> None:
    options = {"momentum": 0.9} if name == "sgd" else {}
    model = TinyNet()
    plan = make_plan(model, lr=0.1)
    first = trained(model, plan.optimizer(name, **options))
    file = io.BytesIO()
    torch.save(plan.optimizer_state(first), file)
    file.seek(0)
    other = copy.deepcopy(model)
    new = make_plan(other, lr=0.01, **PLANS[to])
    second = new.optimizer(name, **options)
    found = new.load_optimizer_state(second, torch.load(file, weights_only=True))
    assert found == ((), ())
    check_equal(by_name(other, second), by_name(model, first))
    assert [g["lr"] for g in second.param_groups] == [g["lr"] for g in new.param_groups()]
    for each, optimizer in ((model, first), (other, second)):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
            group.update({"weight_decay": 0.0} if "weight_decay" in group else {})
        trained(each, optimizer, 3, seed=5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_states_of_named_parameters_are_taken_from_torchs_own_optimizers() -> None:
    model = TinyNet()
    first = trained(model, torch.optim.Adam([*model.named_parameters()][::-1], lr=0.1))
    plan = make_plan(model)
    second = torch.optim.Adam(plan.param_groups(param_names=True))
    plan.load_optimizer_state(second, first.state_dict())
    check_equal(by_name(model, second), by_name(model, first))
    names = [name for group in second.param_groups for name in group["param_names"]]
    assert names == plan.names_in(second)


def test_missing_and_unexpected_names_are_refused_or_told() -> None:
    model = TinyNet()
    half = make_plan(model, freeze="head")
    state = half.optimizer_state(trained(model, half.optimizer("adam")))
    plan = make_plan(model, freeze="stem")
    optimizer = plan.optimizer("adam")
    with pytest.raises(
        ConfigError, match=r"^state=param_names: lacks head.bias, head.weight; has also stem.bias, stem.weight"
    ):
        plan.load_optimizer_state(optimizer, state)
    assert not optimizer.state
    found = plan.load_optimizer_state(optimizer, state, strict=False)
    assert sorted(found.missing) == ["head.bias", "head.weight"]
    assert sorted(found.unexpected) == ["stem.bias", "stem.weight"]
    assert len(by_name(model, optimizer)) == 12


def test_what_is_no_state_of_named_parameters_is_refused() -> None:
    model = TinyNet()
    plan = make_plan(model)
    optimizer = trained(model, plan.optimizer("adam"))
    state = plan.optimizer_state(optimizer)
    wider = TinyNet(classes=5)
    other = make_plan(wider)
    for bad, said in (
        (optimizer.state_dict(), r"state=param_groups\[0\]: has no param_names"),
        ({"weights": 1}, "state=dict: must be the state_dict"),
        ([], "state=list: must be the state_dict"),
    ):
        with pytest.raises(ConfigError, match=said):
            plan.load_optimizer_state(optimizer, bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"state=head.bias: the state of head.bias is \[3\], the parameter \[5\]"):
        other.load_optimizer_state(other.optimizer("adam"), state)
    with pytest.raises(ConfigError, match="optimizer=FusedAdam: has parameters that are not in the plan"):
        plan.load_optimizer_state(other.optimizer("adam"), state)
