"""Update ratios against closed forms: a quadratic whose steps are known, and the steps that a training then makes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lwexp import ConfigError, PlanScheduler, make_plan
from lwexp.core.measured.update_ratio import UpdateRatio, scales_for, update_ratio
from tests.helpers.tiny_training import BATCHES, close, make_trainer

LR = 0.01


class Quadratic(nn.Module):
    """loss = sum over layers of curvature / 2 * ||w||**2; layers are matrices, the last one is the head."""

    def __init__(self, curvatures: list[float], sizes: list[float]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.curvatures = curvatures
        self.layers = nn.ParameterList()
        for size in sizes:
            w = torch.randn(3, 2, generator=generator, dtype=torch.float64)
            self.layers.append(nn.Parameter(w / w.norm() * size))

    def forward(self) -> Tensor:
        parts = [c / 2 * w.square().sum() for c, w in zip(self.curvatures, self.layers, strict=True)]
        return torch.stack(parts).sum()


def scheduler_of(model: nn.Module, optimizer: str = "sgd", **options: Any) -> PlanScheduler:
    given = options.pop("optimizer_options", {})
    plan = make_plan(model, grouping="per_parameter", decay="update_ratio", lr=LR, decay_options=options)
    return plan.scheduler(plan.optimizer(optimizer, **given), "constant", steps=100)


def measured(scheduler: PlanScheduler, model: Quadratic) -> list[float]:
    found = scheduler.measure(model, lambda module, _: module(), [None, None])
    assert found is not None
    return [*found.values()]


positive = st.floats(0.01, 100)
layers = st.lists(st.tuples(positive, positive), min_size=1, max_size=6)


@settings(max_examples=25)
@given(layers, st.floats(0.3, 1.5))
def test_of_sgd_on_a_quadratic_the_scale_is_the_inverse_curvature(
    layers: list[tuple[float, float]], mult: float
) -> None:
    """dw = -lr * c * w, so the ratio is lr * c whatever the size of the weights is."""
    curvatures, sizes = map(list, zip(*layers, strict=True))
    model = Quadratic(curvatures, sizes)
    wanted = [mult**i / c for i, c in enumerate(curvatures[::-1])]
    found = measured(scheduler_of(model, mult=mult), model)
    assert found == pytest.approx([value / max(wanted) for value in wanted], rel=1e-9)
    found = measured(scheduler_of(model, mult=mult, normalize="mean"), model)
    mean = math.exp(sum(map(math.log, wanted)) / len(wanted))
    assert found == pytest.approx([value / mean for value in wanted], rel=1e-9)
    found = measured(scheduler_of(model, mult=mult, ratio=1e-3), model)
    assert found == pytest.approx([1e-3 * value / LR for value in wanted], rel=1e-9)


@settings(max_examples=25)
@given(layers)
def test_of_adams_first_step_the_scale_is_the_size_of_the_weights(layers: list[tuple[float, float]]) -> None:
    """Each weight moves by lr, so the ratio is lr * sqrt(n) / ||w||; all layers have n weights."""
    curvatures, sizes = map(list, zip(*layers, strict=True))
    model = Quadratic(curvatures, sizes)
    found = measured(scheduler_of(model, "adam", mult=1.0, optimizer_options={"eps": 0.0}), model)
    assert found == pytest.approx([size / max(sizes) for size in sizes[::-1]], rel=1e-6)


@settings(max_examples=25)
@given(layers, st.floats(0.3, 1.5), st.sampled_from(["sgd", "adamw", "rmsprop"]))
def test_with_a_ratio_the_step_that_follows_has_it_with_any_optimizer(
    layers: list[tuple[float, float]], mult: float, optimizer: str
) -> None:
    curvatures, sizes = map(list, zip(*layers, strict=True))
    model = Quadratic(curvatures, sizes)
    scheduler = scheduler_of(model, optimizer, mult=mult, ratio=2e-3, every_epochs=None, every_steps=1)
    for _ in range(3):
        measured(scheduler, model)
        before = [w.detach().clone() for w in model.layers]
        scheduler.optimizer.zero_grad()
        model().backward()
        scheduler.optimizer.step()
        scheduler.step()
        moved = [float((w.detach() - b).norm() / b.norm()) for w, b in zip(model.layers, before, strict=True)][::-1]
        assert moved == pytest.approx([2e-3 * mult**i for i in range(len(moved))], rel=1e-6)


TRAININGS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9, "weight_decay": 0.1}},
    {"optimizer": "adam", "accumulate": 2}, {"optimizer": "adamw", "clip_grad_norm": 0.05},
    {"optimizer": "adamw", "precision": "bf16"},
]  # fmt: skip


@pytest.mark.parametrize("options", TRAININGS, ids=str)
def test_steps_of_a_training_have_the_profile(tmp_path: Any, options: dict[str, Any]) -> None:
    """Under clipping, accumulation and autocast, with momentum and weight decay, at every step."""
    chosen = {"mult": 0.7, "ratio": 1e-3, "every_epochs": None, "every_steps": 1}
    trainer = make_trainer(
        tmp_path, policy="constant", **options,
        plan_options={"grouping": "top_module", "decay": "update_ratio", "decay_options": chosen},
    )  # fmt: skip
    model, step = trainer.learner.model, trainer.step
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a trial step draws its own
    steps = 0

    def watched(*arguments: Any) -> Any:
        nonlocal steps
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        results = step(*arguments)
        for g in trainer.learner.plan.groups:
            pairs = [(before[n], model.get_parameter(n).detach() - before[n]) for n in g.parameter_names]
            assert update_ratio(pairs) == pytest.approx(1e-3 * 0.7**g.index, rel=1e-3)
        steps += 1
        return results

    watched.flush = step.flush  # type: ignore[attr-defined]
    trainer.step = watched  # type: ignore[assignment]
    trainer.fit()
    assert steps > BATCHES
    close(trainer)


def test_rows_of_an_embedding_that_do_not_move_do_not_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(1000, 4), nn.Linear(4, 4, bias=False)
            nn.init.ones_(self.embedding.weight)
            nn.init.eye_(self.head.weight)

        def forward(self, index: Tensor) -> Tensor:
            return self.head(self.embedding(index))

    model = Net()
    plan = make_plan(model, decay="update_ratio", lr=LR, decay_options={"mult": 1.0})
    scheduler = plan.scheduler(plan.optimizer("sgd"), "constant", steps=10)
    found = scheduler.measure(model, lambda module, batch: module(batch).sum(), [torch.tensor([7])])
    # of the row that moves ||dw|| = ||w|| * lr, of the head ||dw|| = 4 * lr and ||w|| = 2
    assert found == pytest.approx({"head": 0.5, "embedding": 1.0})


def test_biases_and_norms_go_with_the_next_matrix() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    scheduler = scheduler_of(model, mult=1.0)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(5, 4, generator=generator)
    found = scheduler.measure(model, lambda module, x: module(x).square().mean(), [batch])
    assert found is not None
    assert found["2.bias"] == found["2.weight"] != found["0.weight"]
    assert found["1.bias"] == found["1.weight"] == found["0.bias"] == found["0.weight"]


def test_weights_of_zero_and_a_gradient_of_zero_leave_the_scale() -> None:
    model = Quadratic([1.0, 2.0, 0.0], [1.0, 1.0, 1.0])
    assert measured(scheduler_of(model, mult=1.0), model) == pytest.approx([1.0, 0.5, 1.0])
    with torch.no_grad():
        model.layers[0].zero_()
    assert measured(scheduler_of(model, mult=1.0), model) == pytest.approx([1.0, 1.0, 1.0])
    assert scales_for({0: math.nan, 1: math.inf, 2: 0.0}, dict.fromkeys(range(3), 1.0), normalize="largest") == {}


def test_the_profile_counts_from_the_first_trained_group() -> None:
    model = Quadratic([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    plan = make_plan(
        model, grouping="per_parameter", decay="update_ratio", lr=LR, freeze="layers.2", index_from="trained",
        decay_options={"mult": 0.5},
    )  # fmt: skip
    plan.apply_freeze(model)
    scheduler = plan.scheduler(plan.optimizer("sgd"), "constant", steps=10)
    assert measured(scheduler, model) == pytest.approx([1.0, 1.0, 0.5])


@pytest.mark.parametrize(("options", "said"), [
    ({"ratio": 0.0}, "decay.ratio=0.0: must be above 0"),
    ({"mult": -1.0}, "decay.mult=-1.0: must be above 0"),
    ({"batches": 0}, "decay.batches=0: must be at least 1"),
    ({"normalize": "max"}, "decay.normalize=max: not among the choices; choices: largest, mean"),
])  # fmt: skip
def test_a_mistake_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(Quadratic([1.0], [1.0]), decay="update_ratio", decay_options=options)
    assert str(caught.value).startswith(said)


def test_the_library_and_the_commands_have_the_same_default() -> None:
    assert make_plan(Quadratic([1.0], [1.0]), decay="update_ratio").measured == UpdateRatio().options
