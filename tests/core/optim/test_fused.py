"""The fused optimizers do what torch's own do, group by group or not, whatever is done to them in between."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lwexp import make_plan
from lwexp.core.optim import fused
from lwexp.core.optim.fused import FUSED
from lwexp.core.optim.kernel_fit import is_half_wrong
from tests.helpers.optimizer_pairs import Pair

CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (torch.optim.Adam, {"maximize": True, "betas": (0.5, 0.9), "eps": 1e-4}),
    (torch.optim.AdamW, {}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"weight_decay": 0.1, "maximize": True}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


@pytest.fixture
def stock_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often torch's own step was taken by ours, since it was last asked."""
    spies = []
    for ours in FUSED.values():
        stock: Any = ours.stock  # type: ignore[attr-defined]
        step = stock.step
        spy = mock.Mock(side_effect=step.__wrapped__ if getattr(step, "hooked", False) else step, spec=step)
        spy.hooked = False
        monkeypatch.setattr(ours, "stock", mock.Mock(step=spy))
        spies.append(spy)

    def taken() -> int:
        count = sum(spy.call_count for spy in spies)
        for spy in spies:
            spy.reset_mock()
        return count

    return taken


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_thousand_steps_end_with_torchs_numbers(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], stock_steps: Callable[[], int]
) -> None:
    pair = Pair(kind, options, torch.float32)
    pair.step(1000)
    assert stock_steps() <= 1, "only the first, which makes the state"
    pair.check()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_other_types_of_numbers(kind: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype) -> None:
    pair = Pair(kind, options, dtype)
    if kind is torch.optim.SGD and is_half_wrong(torch.ones(1, dtype=dtype)):
        for group in pair.theirs.param_groups:
            group["fused"] = None
    pair.step(20)
    for group in pair.theirs.param_groups:
        group["fused"] = True
    pair.check()


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_state_goes_from_torch_to_us_and_back(kind: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    pair = Pair(kind, options, torch.float32)
    pair.step(5)
    ours, theirs = copy.deepcopy(pair.ours.state_dict()), copy.deepcopy(pair.theirs.state_dict())
    pair.ours.load_state_dict(theirs)
    pair.theirs.load_state_dict(ours)
    pair.step(5)
    pair.check()
    file = io.BytesIO()
    torch.save(pair.ours.state_dict(), file)
    file.seek(0)
    pair.theirs.load_state_dict(torch.load(file, weights_only=True))
    pair.step()
    pair.check()


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_loaded_state_goes_on_bit_for_bit(kind: type[torch.optim.Optimizer], options: dict[str, Any]) -> None:
    undisturbed, resumed = Pair(kind, options, torch.float32), Pair(kind, options, torch.float32)
    undisturbed.step(6)
    resumed.step(3)
    again = pickle.loads(pickle.dumps(resumed.ours.state_dict()))
    resumed.ours.load_state_dict(again)
    resumed.step(3)
    for (p, _), (q, _) in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


OPERATIONS = {
    "step": lambda pair: pair.step(),
    "a gradient is missing": lambda pair: (pair.set_gradients(missing=2), [each.step() for each in pair.both]),
    "weight decay": lambda pair: [group.update(weight_decay=0.05) for each in pair.both for group in each.param_groups],
    "weight decay of one": lambda pair: [each.param_groups[1].update(weight_decay=0.2) for each in pair.both],
    "betas as a list": lambda pair: [
        group.update(betas=[0.8, 0.95]) for each in pair.both for group in each.param_groups if "betas" in group
    ],
    "a rate of 0": lambda pair: [each.param_groups[0].update(lr=0.0) for each in pair.both],
    "an integer rate": lambda pair: [each.param_groups[-1].update(lr=1) for each in pair.both],
    "a tensor as rate": lambda pair: [each.param_groups[1].update(lr=torch.tensor(0.01)) for each in pair.both],
    "a closure": lambda pair: [each.step(lambda each=each: gradients_by_closure(each)) for each in pair.both],
    "state forgotten": lambda pair: [each.state.clear() for each in pair.both],
    "state of one forgotten": lambda pair: [each.state.pop(each.param_groups[1]["params"][0], 0) for each in pair.both],
    "a state exchanged": lambda pair: [exchange_state(each) for each in pair.both],
    "a parameter exchanged": lambda pair: [exchange_parameter(each) for each in pair.both],
    "groups merged": lambda pair: [merge(each) for each in pair.both],
    "a group more": lambda pair: [
        each.add_param_group({"params": [nn.Parameter(torch.ones(3, 2))], "lr": 0.5, "name": "more"})
        for each in pair.both
    ],
    "a copy": lambda pair: setattr(pair, "ours", copy_of(pair.ours)),
}


def gradients_by_closure(optimizer: torch.optim.Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = torch.stack([p.square().sum() for group in optimizer.param_groups for p in group["params"]]).sum()
    loss.backward()
    return loss


def exchange_state(optimizer: torch.optim.Optimizer) -> None:
    for p, entry in list(optimizer.state.items()):
        optimizer.state[p] = {
            name: torch.full_like(value, 0.25) if torch.is_tensor(value) and value.ndim else copy.copy(value)
            for name, value in entry.items()
        }


def exchange_parameter(optimizer: torch.optim.Optimizer) -> None:
    group = optimizer.param_groups[1]
    old = group["params"][0]
    group["params"][0] = nn.Parameter(torch.full_like(old, 0.5))
    if old in optimizer.state:
        optimizer.state[group["params"][0]] = optimizer.state.pop(old)


def merge(optimizer: torch.optim.Optimizer) -> None:
    if len(optimizer.param_groups) > 2:
        optimizer.param_groups[1]["params"] += optimizer.param_groups.pop(2)["params"]


def copy_of(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """One that works on the same parameters."""
    made = pickle.loads(pickle.dumps(optimizer))
    for group, copied in zip(optimizer.param_groups, made.param_groups, strict=True):
        for p, q in zip(group["params"], copied["params"], strict=True):
            q.data = p.data
    return made


@given(
    case=st.sampled_from([case for case in CASES if "momentum" not in case[1]]),
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=8),
)
def test_whatever_is_done_in_between_the_numbers_are_torchs(
    case: tuple[type[torch.optim.Optimizer], dict[str, Any]], names: list[str]
) -> None:
    kind, options = case
    pair = Pair(kind, options, torch.float32)
    for name in names:
        OPERATIONS[name](pair)
    pair.step(2)
    pair.check()


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_first_gradient_that_comes_late(nesterov: bool) -> None:
    """torch's fused SGD fails there; its other implementations do not."""
    pair = Pair(torch.optim.SGD, {"momentum": 0.9, "nesterov": nesterov}, torch.float32)
    for group in pair.theirs.param_groups:
        group["fused"] = False
    pair.set_gradients(missing=2)
    for each in pair.both:
        each.step()
    optimizer: Any = pair.ours
    pair.set_gradients()
    before = [p.detach().clone() for p, _ in pair.parameters()]
    optimizer.found_inf = torch.ones(())  # a scaler says that these gradients are bad
    optimizer.step()
    assert all(torch.equal(old, p) for old, (p, _) in zip(before, pair.parameters(), strict=True))
    optimizer.found_inf = torch.zeros(())
    for each in pair.both:
        each.step()
    del optimizer.found_inf
    pair.step(3)
    for p, q in pair.parameters():
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_state_and_gradients_may_be_in_another_order_in_memory(
    kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    """torch's fused kernels take one number for another there; its own other ways do not."""
    pair = Pair(kind, options, torch.float32)
    for group in pair.theirs.param_groups:
        group["fused"] = False
    for step in range(4):
        pair.set_gradients()
        for p, _ in pair.parameters():
            if p.ndim == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)  # after the state was made
                if step == 2:
                    p.grad = p.grad.contiguous(memory_format=torch.channels_last)
        for each in pair.both:
            each.step()
    for p, q in pair.parameters():
        torch.testing.assert_close(p, q)


def test_small_parameters_of_sgd_move_with_their_groups_rates_and_decays() -> None:
    """Joined in one call for each set of options that they share."""
    pair = Pair(torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}, torch.float32)
    pair.step(2)
    for each in pair.both:
        each.param_groups[0]["lr"] = 0.0
    before = pair.ours.param_groups[0]["params"][0].detach().clone()
    pair.step(2)
    assert torch.equal(pair.ours.param_groups[0]["params"][0], before)
    pair.check()


def test_a_parameter_belongs_to_one_group() -> None:
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    for kind in FUSED.values():
        with pytest.raises(ValueError, match="more than one parameter group"):
            kind([{"params": [p]}, {"params": [q, p]}], lr=0.1)
        optimizer: Any = kind([{"params": [p]}], lr=0.1)
        with pytest.raises(ValueError, match="more than one parameter group"):
            optimizer.add_param_group({"params": p})
        optimizer.add_param_group({"params": q, "lr": 0.2})
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(stock_steps: Callable[[], int]) -> None:
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = FUSED[torch.optim.Adam]([p], lr=0.1, fused=True)
    losses = [optimizer.step(lambda: gradients_by_closure(optimizer)) for _ in range(3)]
    assert [loss.item() for loss in losses] == pytest.approx([4.0, 1.9**2, 1.8**2], rel=1e-3)
    assert stock_steps() == 1


def test_hooks_run_once_a_step_around_either_way() -> None:
    pair = Pair(torch.optim.Adam, {}, torch.float32)
    seen: list[str] = []
    pair.ours.register_step_pre_hook(lambda *_: seen.append("before"))
    pair.ours.register_step_post_hook(lambda *_: seen.append("after"))
    handle = register_optimizer_step_post_hook(lambda *_: seen.append("everywhere"))
    try:
        for _ in range(3):
            pair.set_gradients()
            pair.ours.step()
    finally:
        handle.remove()
    assert seen == ["before", "after", "everywhere"] * 3


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_gradient_scaler_unscales_and_leaves_out_bad_steps(
    kind: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    pair = Pair(kind, options, torch.float32)
    pair.step(3)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0) for _ in pair.both]
    for bad in (False, True, False):
        pair.set_gradients()
        for scaler, each in zip(scalers, pair.both, strict=True):
            scaler.scale(torch.ones(()))
            for p in each.param_groups[1]["params"]:
                p.grad *= torch.inf if bad else 8.0
            scaler.step(each)
            scaler.update()
    pair.check()


def test_sparse_gradients_and_capturable_are_left_to_torch(stock_steps: Callable[[], int]) -> None:
    torch.manual_seed(0)
    layer = nn.Embedding(5, 3, sparse=True)
    optimizer = FUSED[torch.optim.SGD](layer.parameters(), lr=0.1)  # without fused=True
    for _ in range(3):
        layer(torch.tensor([1])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert stock_steps() == 3


def test_parameters_without_a_gradient_stay_as_they_are(stock_steps: Callable[[], int]) -> None:
    pair = Pair(torch.optim.AdamW, {}, torch.float32)
    unused = [(p, q) for p, q in pair.parameters()][2]
    before = unused[0].detach().clone()
    for each in pair.both:
        each.step()  # when none has one
    assert stock_steps() == 1
    for _ in range(5):
        pair.set_gradients(missing=2)
        for each in pair.both:
            each.step()
    assert torch.equal(unused[0], before)
    assert stock_steps() <= 1
    pair.check()
    pair.step(2)  # and now it has one
    pair.check()


def test_a_plans_optimizer_takes_them_by_name_and_torchs_own_when_told_to(tiny: nn.Module) -> None:
    plan = make_plan(tiny)
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        assert type(plan.optimizer(name)) is FUSED[kind]
        assert isinstance(plan.optimizer(name), kind)
        for options in ({"fused": False}, {"foreach": True}):
            assert type(plan.optimizer(name, **options)) is kind
        assert type(plan.optimizer(kind)) is kind
    assert fused.FUSED.keys() == {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}
