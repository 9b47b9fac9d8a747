"""`auto_rgn` and `auto_snr`: the authors' numbers, the paper's formulas, and where those have no answer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwexp import ConfigError, UnknownNameError, make_plan
from lwexp.core.measured.gradients import AutoRGN, AutoSNR
from tests.helpers.golden_networks import Batch, golden_batches, golden_network

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "surgical_finetuning.json").read_text(encoding="utf-8"))
NETWORKS = ["resnet18", "vit_tiny_patch16_224"]
CODE = {"noise": "rows", "normalize": False, "threshold": 0.95, "batches": 5}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def scales(
    model: nn.Module, decay: str, batches: list[Batch], grouping: str = "per_parameter", /, **options: Any
) -> Any:
    plan = make_plan(model, grouping=grouping, decay=decay, decay_options=options)  # type: ignore[arg-type]
    return plan.scheduler(plan.optimizer("adam"), steps=10, steps_per_epoch=5).measure(model, loss, batches)


def is_norm(name: str) -> bool:
    """Of the golden networks: resnet18's are bn and downsample.1, vit's norm, norm1 and norm2."""
    return "bn" in name or "downsample.1" in name or "norm" in name


@pytest.fixture(scope="module", params=NETWORKS)
def of_authors(request: pytest.FixtureRequest) -> tuple[nn.Module, list[Batch], dict[str, dict[str, float]]]:
    """A network, its batches, and what the authors' `get_lr_weights` gave for all of its tensors."""
    return golden_network(request.param), golden_batches(5), GOLDEN[request.param]


def test_relative_gradient_norms_are_the_authors(of_authors: Any) -> None:
    model, batches, golden = of_authors
    largest = max(golden["RGN"].values())
    found = scales(model, "auto_rgn", batches)
    assert found == pytest.approx({name: value / largest for name, value in golden["RGN"].items()}, rel=1e-4)
    assert max(found.values()) == 1
    without = scales(model, "auto_rgn", batches, norms=False)
    rest = {name: value for name, value in golden["RGN"].items() if not is_norm(name)}
    assert {name: value for name, value in without.items() if not is_norm(name)} == pytest.approx(
        {name: value / max(rest.values()) for name, value in rest.items()}, rel=1e-4
    )
    assert {value for name, value in without.items() if is_norm(name)} == {0.0}


def test_the_authors_signal_to_noise_is_an_option(of_authors: Any) -> None:
    model, batches, golden = of_authors
    expected = {name: float(not value < 0.95) for name, value in golden["eb-criterion"].items()}  # one without: 1
    assert scales(model, "auto_snr", batches, **CODE) == expected
    assert 0 < sum(expected.values()) < len(expected)
    without = scales(model, "auto_snr", batches, norms=False, **CODE)
    assert without == {name: 0.0 if is_norm(name) else value for name, value in expected.items()}


# --- the formulas of the paper -------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 3))


def batches_of(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, size, 12, generator=generator)
    return [(each, (each[:, :3].sum(dim=1) > 0).long()) for each in x]


def gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss(model, batch), [*model.parameters()])
    return dict(zip(dict(model.named_parameters()), found, strict=True))


def joined(tensors: dict[str, Tensor], group: str) -> Tensor:
    return torch.cat([tensor.flatten() for name, tensor in tensors.items() if name.startswith(group)]).detach()


def over_largest(values: dict[str, float]) -> dict[str, float]:
    return {name: value / max(values.values()) for name, value in values.items()}


@pytest.mark.parametrize("average", ["norms", "gradients"])
def test_a_group_has_the_norm_of_all_of_its_weights(average: str) -> None:
    model, batches = network(), batches_of(4, 8)
    found = [gradients(model, batch) for batch in batches]
    mean = {name: torch.stack([each[name] for each in found]).mean(dim=0) for name in found[0]}
    expected = {}
    for group in ("5", "4", "2", "1"):
        norms = torch.stack([joined(each, group).norm() for each in ([mean] if average == "gradients" else found)])
        expected[group] = float(norms.mean() / joined(dict(model.named_parameters()), group).norm())
    measured = scales(model, "auto_rgn", batches, "top_module", batches=4, average=average)
    assert measured == pytest.approx(over_largest(expected), rel=1e-5)


def test_signal_and_noise_are_those_over_examples_where_a_batch_is_one() -> None:
    model, batches = network(), batches_of(32, 1)
    found = [gradients(model, batch) for batch in batches]
    expected = {}
    for group in ("5", "4", "2", "1"):
        each = torch.stack([joined(one, group).double() for one in found])
        ratio = each.mean(dim=0).square() / each.var(dim=0)
        expected[group] = float(ratio[each.abs().sum(dim=0) > 0].mean())
    ranked = over_largest(expected)
    for threshold in (value * (1 + shift) for value in ranked.values() for shift in (-1e-4, 1e-4) if value < 1):
        measured = scales(model, "auto_snr", batches, "top_module", batches=32, threshold=threshold)
        assert measured == {group: float(value >= threshold) for group, value in ranked.items()}


def test_the_size_of_the_batches_goes_out_in_the_division() -> None:
    model, images = network(), batches_of(2048, 1)
    pairs = [images[i : i + 8] for i in range(0, 2048, 8)]
    merged = [(torch.cat([x for x, _ in pair]), torch.cat([y for _, y in pair])) for pair in pairs]

    def ratios(batches: list[Batch]) -> dict[int, float]:
        rule = AutoSNR(batches=len(batches))
        plan = make_plan(model, decay=rule)
        seen: dict[int, float] = {}
        rule.measure = lambda probe: seen.update(AutoSNR.ratios(rule, probe)) or {}  # type: ignore[method-assign]
        scheduler = plan.scheduler(plan.optimizer("sgd"), steps=10, steps_per_epoch=5)
        scheduler.measure(model, loss, batches)
        return {i: value / max(seen.values()) for i, value in seen.items()}

    assert ratios(merged) == pytest.approx(ratios(images), rel=0.15)


def test_norms_left_out_follow_their_group() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3))
    batches = batches_of(5, 8)
    per_tensor = scales(model, "auto_rgn", batches, norms=False)
    assert per_tensor["1.1.weight"] == per_tensor["1.1.bias"] == 0.0
    grouped = scales(model, "auto_rgn", batches, "top_module", norms=False)
    with_norms = scales(model, "auto_rgn", batches, "top_module")
    assert [*grouped] == ["2", "1"]
    assert 0 < grouped["1"] != with_norms["1"]


@pytest.mark.parametrize("decay", ["auto_rgn", "auto_snr"])
def test_a_new_adam_at_each_measurement_is_an_option(decay: str) -> None:
    batches, (batch,) = batches_of(8, 8), batches_of(1, 16)
    expected = network()
    for _ in range(2):
        adam = make_plan(expected, grouping="per_parameter", decay="none", lr=0.01).optimizer("adam")
        for _ in range(2):
            adam.zero_grad()
            loss(expected, batch).backward()
            adam.step()
    model = network()
    options = {"every_epochs": None, "every_steps": 2, "min_scale": 1.0, "max_scale": 1.0, "reset_optimizer": True}
    plan = make_plan(model, grouping="per_parameter", decay=decay, lr=0.01, decay_options=options)  # type: ignore[arg-type]
    scheduler = plan.scheduler(plan.optimizer("adam"), steps=10)
    for _ in range(4):
        scheduler.measure(model, loss, batches)
        scheduler.optimizer.zero_grad()
        loss(model, batch).backward()
        scheduler.optimizer.step()
        scheduler.step()
    for ours, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, other)
    other_plan = make_plan(model, decay=decay, decay_options=options)  # type: ignore[arg-type]
    refused = other_plan.scheduler(other_plan.optimizer("adagrad"), steps=10)
    with pytest.raises(ConfigError, match=r"decay\.reset_optimizer=True: Adagrad does not"):
        refused.measure(model, loss, batches)


# --- a new head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["auto_rgn", "auto_snr"])
def test_a_new_head_is_compared_only_if_asked_for(decay: str) -> None:
    model, batches = network(), batches_of(8, 8)
    with torch.no_grad():
        model[5].weight.mul_(1e-3)
        model[5].bias.mul_(1e-3)
    paper = scales(model, decay, batches, "top_module", new=["5"], include_new=True)
    apart = scales(model, decay, batches, "top_module", new=["5"])
    assert paper["5"] == apart["5"] == 1.0
    if decay == "auto_rgn":
        assert max(value for name, value in paper.items() if name != "5") < 0.01
        assert max(value for name, value in apart.items() if name != "5") == 1.0
    assert scales(model, decay, batches, "top_module") == paper, "without `new` there is none"


# --- where the formulas have no answer -----------------------------------------------------------------------------


def test_weights_that_are_zero_have_no_relative_norm() -> None:
    model = network()
    with torch.no_grad():
        model[4].bias.zero_()
    found = scales(model, "auto_rgn", batches_of(5, 8))
    assert found["4.bias"] == 1.0
    others = [value for name, value in found.items() if name != "4.bias"]
    assert max(others) == 1.0
    assert all(math.isfinite(value) for value in others)


class Unused(nn.Module):
    """A layer that the loss does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("decay", ["auto_rgn", "auto_snr"])
def test_what_the_loss_does_not_depend_on_rests(decay: str) -> None:
    assert scales(Unused(), decay, batches_of(8, 8), "top_module") == {"used": 1.0, "unused": 0.0}


@pytest.mark.parametrize("decay", ["auto_rgn", "auto_snr"])
@pytest.mark.parametrize("value", [0.0, math.nan])
def test_without_a_gradient_scales_stay(decay: str, value: float) -> None:
    model = network()
    plan = make_plan(model, decay=decay, decay_options={"every_epochs": None, "every_steps": 1})  # type: ignore[arg-type]
    scheduler = plan.scheduler(plan.optimizer("sgd"), steps=10)
    first = scheduler.measure(model, loss, batches_of(8, 8))
    scheduler.optimizer.step()
    scheduler.step()
    again = scheduler.measure(model, lambda m, b: loss(m, b) * value, batches_of(8, 8))
    assert again == first


def test_the_same_examples_in_every_batch_are_no_noise() -> None:
    (batch,) = batches_of(1, 16)
    orders = [torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    shuffled = [(batch[0][order], batch[1][order]) for order in orders]
    assert set(scales(network(), "auto_snr", shuffled, "top_module", threshold=0.5).values()) == {1.0}


@pytest.mark.parametrize(
    ("rule", "options", "key", "kind"),
    [
        (AutoRGN, {"batches": 0}, "decay.batches", ConfigError),
        (AutoSNR, {"threshold": 1.5}, "decay.threshold", ConfigError),
        (AutoSNR, {"threshold": -1.0, "normalize": False}, "decay.threshold", ConfigError),
        (AutoSNR, {"batches": 2}, "decay.batches", ConfigError),
    ],
)
def test_mistakes_name_the_option(rule: type, options: dict[str, Any], key: str, kind: type[ConfigError]) -> None:
    with pytest.raises(kind) as error:
        rule(**options)
    assert error.value.key == key


def test_an_unknown_choice_has_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="gradients"):
        make_plan(network(), decay="auto_rgn", decay_options={"average": "gradient"})  # type: ignore[arg-type]
