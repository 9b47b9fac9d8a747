"""Range tests: the rules beside fastai's, when there is no answer, and that a test leaves nothing behind."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lwexp
from lwexp import ConfigError, make_plan
from lwexp.core.finding.curve import Curve, RangeTest
from lwexp.core.finding.find_lr import patterns_of
from lwexp.core.finding.suggestion import RULES, steepest, suggest
from lwexp.core.patterns import matches
from tests.helpers.commands import GOLDEN
from tests.helpers.tiny_training import flat

FASTAI = json.loads((GOLDEN / "range_tests.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("known", FASTAI["curves"])
def test_rules_suggest_what_fastais_functions_suggest_on_the_same_losses(known: dict[str, Any]) -> None:
    """Golden numbers of fastai 2.8.4: the smoothed loss, and `valley`, `steep` and `minimum`."""
    test = RangeTest(min_lr=FASTAI["min_lr"], max_lr=FASTAI["max_lr"], steps=FASTAI["steps"], diverged=1e9)
    curve = test.run(lambda rates: (each for each in known["losses"]))
    assert curve.smoothed[::10] == pytest.approx(known["smoothed"], abs=2e-5)
    looked = curve.looked_at
    rates, losses = [curve.rates[i] for i in looked], [curve.smoothed[i] for i in looked]
    for name, rule in RULES.items():
        assert rule(rates, losses) == pytest.approx(known[name], rel=1e-12), name


def test_the_steepest_place_is_none_of_the_noise_before_the_loss_falls() -> None:
    """As fastai's function takes it: 2e-6 for one of three seeds of MobileNetV2 on clothing, 3e-3 for another."""
    curve = curve_of(lambda x: 2.5 - 0.3 / (1 + math.exp(-(x + 3))) - 0.1 * (-5.9 < x < -5.83), smoothing=0.9)
    looked = curve.looked_at
    assert steepest([curve.rates[i] for i in looked], [curve.smoothed[i] for i in looked]) < 1e-5
    assert 1e-4 < suggest(curve).rates["steepest"] < 1e-1


def curve_of(loss: Callable[[float], float], noise: float = 0.0, **options: Any) -> Curve:
    """The curve of a `loss` of log10(rate)."""
    draw = random.Random(0)
    test = RangeTest(**options)
    return test.run(lambda rates: (loss(math.log10(lr)) + draw.gauss(0, noise) for lr in rates))


def learns(x: float) -> float:
    return 2.5 - 2 / (1 + math.exp(-2.5 * (x + 3))) + max(0, x + 0.5) ** 3 * 20


@pytest.mark.parametrize(("loss", "noise", "options", "reason"), [
    (lambda x: 2.3, 0.0, {}, "flat: the loss falls by less than 3% from 1.0e-07 to 1.0e[+]01; go higher, max_lr"),
    (lambda x: 2.3, 0.001, {}, "flat: "),
    (lambda x: 2.3 + 10 ** (x + 4), 0.0, {}, "the loss rises from the smallest rates on [(]1.0e-07[)]; start lower"),
    (lambda x: math.nan, 0.0, {}, "the loss diverges within 0 of 100 steps"),
    (lambda x: 2.3 if x < -6 else math.inf, 0.0, {}, "the loss diverges within 13 of 100 steps, at 9.3e-07; start low"),
    (lambda x: 2.3, 1.5, {}, "noisy: the loss falls by .*, its smoothed value varies by .*; .*, or larger batches"),
])  # fmt: skip
def test_curves_without_an_answer_say_why(
    loss: Callable[[float], float], noise: float, options: dict[str, Any], reason: str
) -> None:
    found = suggest(curve_of(loss, noise, **options))
    assert not found.rates
    assert re.match(reason, found.reason), found.reason


def test_a_test_ends_where_the_loss_diverges_and_a_tenth_of_where_it_rises_is_suggested() -> None:
    curve = curve_of(learns)
    assert curve.diverged
    assert len(curve) < 100
    assert curve.smoothed[-1] > 4 * min(curve.smoothed) >= curve.smoothed[-2]
    back = 10 * suggest(curve).rates["divergence"]
    assert back < curve.rates[-1], "the smoothed loss is later"
    assert learns(math.log10(back / 1.5)) < 2.5 < learns(math.log10(back * 1.5)), "the loss is where it started"
    whole = suggest(curve_of(learns, max_lr=0.1))
    assert "divergence" not in whole.rates
    assert whole.notes["divergence"] == "the loss does not rise above its start up to 1.0e-01"
    assert whole.notes["minimum"] == "the loss still falls at 1.0e-01"


def test_repeats_make_an_answer_of_a_noisy_curve() -> None:
    """The reason says how many may do."""
    weak = {"loss": lambda x: 2.3 - 0.4 / (1 + math.exp(-2 * (x + 3))), "noise": 1.0}
    alone = suggest(curve_of(**weak))  # type: ignore[arg-type]
    assert alone.reason.startswith("noisy"), alone
    assert suggest(curve_of(**weak, repeats=100)).rates["valley"] == pytest.approx(1e-3, rel=20)  # type: ignore[arg-type]


@pytest.mark.parametrize(("options", "message"), [
    ({"min_lr": 0}, "find.min_lr=0: "),
    ({"min_lr": 1.0, "max_lr": 0.1}, "find.max_lr=0.1: must be above find.min_lr=1"),
    ({"steps": 5}, "find.steps=5: "), ({"repeats": 0}, "find.repeats=0: "), ({"smoothing": 1}, "find.smoothing=1: "),
    ({"diverged": 1}, "find.diverged=1: "),
])  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RangeTest(**options).check()
    assert str(refused.value).startswith(message)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 2))


X = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
BATCHES = [(X[i : i + 16], (X[i : i + 16, :2] > 0).float()) for i in (0, 16, 32)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return flat(copy.deepcopy([model.state_dict(), optimizer.state_dict(), gradients, torch.get_rng_state()]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("trained", [0, 3])
def test_everything_is_afterwards_what_it_was(optimizer: str, trained: int) -> None:
    """Weights, running statistics, gradients, the optimizer's state, also where it has none, and the generator."""
    model = network()
    plan = make_plan(model, grouping="top_module", mult=0.5, lr=0.05)
    made = plan.optimizer(optimizer, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    for _ in range(trained):
        made.zero_grad()
        loss(model, BATCHES[0]).backward()
        made.step()
    before, entries = state(model, made), len(made.state)
    found = lwexp.find_lr(model, plan, made, loss, BATCHES, groups=True, steps=60)
    assert state(model, made) == before
    assert len(made.state) == entries
    assert found.base.curve.diverged or len(found.base.curve) == 60
    assert lwexp.find_lr(model, plan, made, loss, BATCHES, steps=60).base == found.base, "it is repeatable"


def test_in_a_test_rates_are_the_plans_times_a_factor_and_others_rest_while_a_group_is_tested() -> None:
    model = network()
    plan = make_plan(model, mult=0.5, lr=0.1, freeze=["1"])
    optimizer = plan.optimizer("sgd")
    seen: list[list[float]] = []
    optimizer.register_step_pre_hook(lambda made, *_: seen.append([g["lr"] for g in made.param_groups]))
    found = lwexp.find_lr(model, plan, optimizer, loss, BATCHES, groups=True, steps=30, min_lr=1e-4, max_lr=1e-2)
    assert [g.name for g in plan.groups] == ["4", "1", "0"]
    assert sorted(found.groups) == [0, 2], "the frozen group is not tested"
    steps = len(seen) // 3
    assert seen[0] == pytest.approx([1e-4, 0.25e-4])
    assert all(a == pytest.approx(4 * b) for a, b in seen[:steps])
    assert all(b == 0 < a for a, b in seen[steps : 2 * steps])
    assert all(a == 0 < b for a, b in seen[2 * steps :])
    assert seen[steps + 1][0] == pytest.approx(found.groups[0].curve.rates[1])


def test_the_rates_of_groups_are_reached_by_factors_of_the_new_base_rate() -> None:
    model = network()
    before = {"0": 3.0}
    plan = make_plan(model, mult=0.5, lr=0.1, lr_mults=before)
    found = lwexp.find_lr(model, plan, plan.optimizer("adam"), loss, BATCHES, groups=True, max_lr=100.0)
    lr = found.lr()
    assert lr is not None
    factors = found.lr_mults(before=before)
    again = make_plan(model, mult=0.5, lr=lr, lr_mults={**before, **factors})
    answered = {i: each.rates["valley"] for i, each in found.groups.items() if each.rates}
    assert answered
    for i, own in answered.items():
        assert again.groups[i].lr == pytest.approx(own)


def test_patterns_cover_a_group_and_nothing_else() -> None:
    model = network()
    names = [name for name, _ in model.named_parameters()]
    for members in (names[:1], names[1:3], names):
        found = patterns_of(members, names)
        assert [n for n in names if any(matches(p, n) for p in found)] == members


@pytest.mark.parametrize(("batches", "message"), [
    (iter(BATCHES), "batches=list_iterator: can be read once only"), ([], "batches=.*: has no batch"),
])  # fmt: skip
def test_batches_that_cannot_be_used_are_refused(batches: Any, message: str) -> None:
    model = network()
    plan = make_plan(model)
    with pytest.raises(ConfigError, match=message):
        lwexp.find_lr(model, plan, plan.optimizer("adam"), loss, batches)
    with pytest.raises(lwexp.UnknownNameError, match="valey"):
        lwexp.find_lr(model, plan, plan.optimizer("adam"), loss, BATCHES).lr("valey")


def test_the_decay_finder_gives_groups_the_rates_that_their_tests_suggest() -> None:
    """`normalize=null`: whatever the base rate is; else in proportion."""
    rates: dict[str | None, list[float]] = {}
    for normalize in (None, "mean", "largest"):
        model = network()
        options = {"normalize": normalize, "max_lr": 100.0, "min_scale": 0.0, "max_scale": None}
        plan = make_plan(model, decay="finder", decay_options=options, lr=0.02, freeze=["1"])
        scheduler = plan.scheduler(plan.optimizer("adam"), "constant")
        found = lwexp.find_lr(model, plan, scheduler.optimizer, loss, BATCHES, groups=True, max_lr=100.0)
        before = state(model, scheduler.optimizer)
        scheduler.measure(model, loss, BATCHES)
        own = [each.rates["valley"] for each in found.groups.values()]
        assert len(own) == 2
        rates[normalize] = [scheduler.group_lr(i) for i in found.groups]
        assert rates[normalize][0] / rates[normalize][1] == pytest.approx(own[0] / own[1])
        after = state(model, scheduler.optimizer)
        assert [after[0], after[2], after[3]] == [before[0], before[2], before[3]]
        if normalize is None:
            assert rates[None] == pytest.approx(own)
    assert math.prod(rates["mean"]) == pytest.approx(0.02**2)
    assert max(rates["largest"]) == pytest.approx(0.02)
    with pytest.raises(ConfigError, match=r"decay\.steps=3"):
        make_plan(network(), decay="finder", decay_options={"steps": 3})


def test_a_measured_decay_names_the_groups_without_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A loss that depends on nothing: all stay at the base rate, and the log says so."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    plan = lwexp.make_plan(model, decay="finder", decay_options={"steps": 30})
    scheduler = plan.scheduler(plan.optimizer("sgd"), steps_per_epoch=1)
    scheduler.measure(model, lambda model, x: 1.0 + 0 * model(x).sum(), [torch.ones(2, 4)] * 31)
    assert set(scheduler.rates()) == {plan.lr}
    assert "no range test of 1, 0 has an answer (flat" in caplog.text
