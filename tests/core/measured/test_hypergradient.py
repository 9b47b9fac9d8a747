"""The multiplier's hypergradient against autograd, differences of the loss and a quadratic whose steps are known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lwexp import ConfigError, PlanScheduler, make_plan
from lwexp.core.measured.hypergradient import agreement
from lwexp.training.callbacks import Callback
from tests.core.measured.test_update_ratio import Quadratic
from tests.helpers.tiny_training import Killed, Recorder, close, die_before, flat, load, make_trainer

LR = 0.1


def scheduler_of(model: Quadratic, optimizer: str = "sgd", **options: Any) -> PlanScheduler:
    given = {"every_steps": 1, **options}
    plan = make_plan(model, grouping="per_parameter", decay="hypergradient", lr=LR, decay_options=given)
    return plan.scheduler(plan.optimizer(optimizer), "constant")


def train(scheduler: PlanScheduler, model: Quadratic, steps: int) -> list[float]:
    """The multiplier at each step."""
    found = []
    for _ in range(steps):
        scheduler.measure(model, lambda module, _: module(), [None])
        found.append(scheduler.schedule.rates(scheduler.last_epoch)[1] / LR)
        scheduler.optimizer.zero_grad()
        model().backward()
        scheduler.observe_gradients(model)
        scheduler.optimizer.step()
        scheduler.step()
    return found


curvature = st.floats(0.1, 30)
layers = st.lists(st.tuples(curvature, st.floats(0.1, 10)), min_size=2, max_size=5)


@settings(max_examples=25)
@given(layers, st.floats(0.55, 0.95), st.floats(0, 0.5))
def test_on_a_quadratic_the_multiplier_moves_as_in_closed_form(
    layers: list[tuple[float, float]], mult: float, hyper_lr: float
) -> None:
    """A step multiplies the weights of layer i by 1 - lr * m**i * c; h follows by hand, two steps before it acts."""
    curvatures, sizes = map(list, zip(*layers, strict=True))
    model = Quadratic(curvatures, sizes)
    found = train(scheduler_of(model, mult=mult, hyper_lr=hyper_lr, max_mult=2.0, min_mult=0.1), model, 6)
    w, c = sizes[::-1], curvatures[::-1]
    m, expected, pending = mult, list[float](), list[float]()
    for step in range(6):
        if step >= 2:
            m = min(max(m * math.exp(hyper_lr * pending.pop(0)), 0.1), 2.0)
        expected.append(m)
        before = list(w)
        w = [each * (1 - LR * m**i * c[i]) for i, each in enumerate(w)]
        parts = [(i, c[i] * w[i], w[i] - before[i]) for i in range(len(w))]
        bound = sum(i * abs(g * dw) for i, g, dw in parts)
        pending.append(-sum(i * g * dw for i, g, dw in parts) / bound if bound else 0.0)
    assert found == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25)
@given(layers, st.floats(0.5, 1.2), st.integers(0, 100))
def test_it_is_the_derivative_of_the_loss_by_the_logarithm_of_the_multiplier(
    layers: list[tuple[float, float]], mult: float, seed: int
) -> None:
    """By autograd, through one step of SGD on a loss that couples the layers."""
    count, generator = len(layers), torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(count)]

    def loss(values: list[Tensor]) -> Tensor:
        return torch.stack(values).sum(dim=0).sin().sum() + sum(
            (c / 2 * w.square().sum() for (c, _), w in zip(layers, values, strict=True)), torch.zeros(())
        )

    log_mult = torch.tensor(math.log(mult), dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(loss(weights), weights)
    after = [w - LR * (log_mult * i).exp() * g for i, (w, g) in enumerate(zip(weights, gradients, strict=True))]
    (expected,) = torch.autograd.grad(loss(after), log_mult)
    leaves = [w.detach().requires_grad_() for w in after]
    new = torch.autograd.grad(loss(leaves), leaves)
    changes = [a.detach() - w.detach() for a, w in zip(after, weights, strict=True)]
    h = agreement(new, changes, [*range(count)], [*range(count)])
    bound = sum(i * g.norm() * dw.norm() for i, (g, dw) in enumerate(zip(new, changes, strict=True)))
    assert -h * bound == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
    assert abs(h) <= 1 + 1e-9


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_neither_the_unit_of_the_loss_nor_the_rate_matters(loss: float, rate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients, changes = ([torch.randn(3, 2, generator=generator) for _ in range(4)] for _ in range(2))
    rows, index = [0, 1, 2, 1], [0, 1, 2]
    h = agreement(gradients, changes, rows, index)
    assert agreement([loss * g for g in gradients], [rate * dw for dw in changes], rows, index) == pytest.approx(
        float(h), rel=1e-4
    )


@pytest.mark.parametrize(("curvature", "rises"), [(1.0, True), (17.0, False)])
def test_it_rises_where_steps_agree_and_falls_where_they_overshoot(curvature: float, rises: bool) -> None:
    model = Quadratic([curvature] * 3, [1.0] * 3)
    found = train(scheduler_of(model, mult=0.8, hyper_lr=0.02), model, 5)
    assert found[:2] == pytest.approx([0.8, 0.8])
    factor = math.exp(0.02 if rises else -0.02)
    assert [b / a for a, b in itertools.pairwise(found[1:])] == pytest.approx([factor] * 3, rel=1e-6)


def test_it_stays_within_its_bounds_and_takes_the_mean_of_several_steps() -> None:
    model = Quadratic([1.0] * 3, [1.0] * 3)
    assert train(scheduler_of(model, mult=0.8, hyper_lr=1.0), model, 5)[2:] == pytest.approx([1.0] * 3)
    model = Quadratic([1.0] * 3, [1.0] * 3)
    found = train(scheduler_of(model, mult=0.8, hyper_lr=0.02, every_steps=3), model, 7)
    assert found == pytest.approx([0.8] * 3 + [0.8 * math.exp(0.02)] * 3 + [0.8 * math.exp(0.04)])


OPTIONS: list[dict[str, Any]] = [
    {}, {"accumulate": 2}, {"clip_grad_norm": 0.05}, {"precision": "bf16"}, {"precision": "fp16"},
    {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
]  # fmt: skip


def trainer_of(folder: Any, **options: Any) -> Any:
    given = {"every_steps": 2, "hyper_lr": 0.3, "mult": 0.9, **options.pop("decay_options", {})}
    plan = {"grouping": "top_module", "decay": "hypergradient", "decay_options": given}
    return make_trainer(folder, plan_options=plan, **options)


class Steps(Callback):
    """h of each step from copies of all weights, as the docstring has it."""

    def setup(self, learner: Any, tracker: Any) -> None:
        self.learner, self.before, self.found = learner, dict[str, Tensor](), dict[int, float]()

    def gradients_ready(self, progress: Any) -> None:
        model, up, down = self.learner.model, 0.0, 0.0
        for g in self.learner.plan.groups if self.before else ():
            pairs = [
                (model.get_parameter(n).grad.double(), (model.get_parameter(n).detach() - self.before[n]).double())
                for n in g.parameter_names
            ]
            up -= g.index * sum(float((a * b).sum()) for a, b in pairs)
            sizes = [math.sqrt(sum(float(pair[k].square().sum()) for pair in pairs)) for k in (0, 1)]
            down += g.index * sizes[0] * sizes[1]
        if down and math.isfinite(up / down):  # in fp16 the first steps are skipped
            self.found[progress.step] = up / down
        self.before = {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_in_a_training_it_follows_the_true_steps(tmp_path: Any, options: dict[str, Any]) -> None:
    """Under clipping, accumulation, autocast and a loss scale."""
    steps = Steps()
    trainer = trainer_of(tmp_path, callbacks={"steps": steps}, **options)
    trainer.fit()
    head = trainer.learner.plan.labels[1]
    scales = {step: v for (name, step), v in trainer.tracker.values.items() if name == f"scale/{head}"}
    mult = 0.9
    for step, scale in sorted(scales.items()):
        seen = [steps.found[each] for each in (step - 2, step - 1) if each in steps.found]
        mult = min(max(mult * math.exp(0.3 * sum(seen) / max(len(seen), 1)), 0.5), 1.0)
        assert scale == pytest.approx(mult, rel=1e-4), step
    assert len(set(scales.values())) > 2
    close(trainer)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_with_scales_of_one_a_training_is_that_without(tmp_path: Any, options: dict[str, Any]) -> None:
    plain = make_trainer(tmp_path / "plain", plan_options={"grouping": "top_module", "decay": "none"}, **options)
    plain.fit()
    watched = trainer_of(tmp_path / "watched", decay_options={"min_scale": 1.0, "max_scale": 1.0}, **options)
    watched.fit()
    one, other = plain.learner.model.state_dict(), watched.learner.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert watched.learner.scheduler.measurement.rule._log_mult != math.log(0.9)
    close(plain)
    close(watched)


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_a_killed_training_resumes_exactly(tmp_path: Any, step: int) -> None:
    whole = trainer_of(tmp_path / "whole")
    whole.fit()
    killed = trainer_of(tmp_path / "killed")
    die_before(killed, step)
    with pytest.raises(Killed):
        killed.fit()
    again = load(trainer_of(tmp_path / "killed", tracker=Recorder(killed.tracker.values)))
    again.fit()
    assert flat(again.learner.scheduler.state_dict()) == flat(whole.learner.scheduler.state_dict())
    assert flat(again.learner.model.state_dict()) == flat(whole.learner.model.state_dict())
    assert again.tracker.values == whole.tracker.values
    for trainer in (whole, killed, again):
        close(trainer)


@pytest.mark.parametrize(("options", "said"), [
    ({"hyper_lr": -1.0}, "decay.hyper_lr=-1.0: must be at least 0"),
    ({"mult": 1.2}, "decay.mult=1.2: must be from 0.5 to 1"),
    ({"min_mult": 2.0}, "decay.max_mult=1.0: must be at least 2"),
])  # fmt: skip
def test_a_mistake_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(Quadratic([1.0], [1.0]), decay="hypergradient", decay_options=options)
    assert str(caught.value) == said
