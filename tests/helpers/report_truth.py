"""Simulated sweeps whose truth is known, analyzed as a report does.

`python -m tests.helpers.report_truth` prints a table.

The noise of a seed is shared by all settings (initial weights, order of the batches), each run has noise of its own,
and validation and test accuracy of a run are both drawn around what its weights are worth.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lwexp.report.analysis import Analysis, analyze
from lwexp.report.runs import Curve, Sweep, SweepRun
from lwexp.report.statistics import Summary

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, ...]], Floats]
NO_CURVE = Curve(np.array([]), np.array([]))


def normal(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    return random.standard_normal(shape)


def skewed(random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Mean 0, standard deviation 1, a long tail of bad runs."""
    return 1.0 - random.exponential(size=shape)


@dataclass(frozen=True)
class Truth:
    """What is simulated: mean accuracy of uniform rates and the settings' `effects`, at each of `rates` base rates."""

    seeds: int
    effects: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    base: float = 0.95
    rates: Sequence[float] = (0.0,)  # effect of each base rate on all settings
    shared: float = 0.01
    own: float = 0.006
    images: int | None = None  # of each split; None: accuracy is measured without error
    noise: Noise = normal
    missing: float = 0.0  # share of runs that failed


@dataclass
class Found:
    """Shares of simulated sweeps; of those with an interval where runs are missing."""

    mean: float = 0.0  # the interval of the first setting's mean has the truth
    difference: float = 0.0  # so has that of its difference
    together: float = 0.0  # all simultaneous intervals of differences have theirs
    false: float = 0.0  # some claim is false, that of the best of both arms included
    planted: float = 0.0  # the first setting is claimed to be better
    best: float = 0.0  # the report's first words are that its best setting is better
    chosen: float = 0.0  # mean test difference of the chosen setting, less the truth, in accuracy


def accuracies(truth: Truth, random: np.random.Generator) -> Floats:
    """Validation and test accuracy [2, rates, 1 + settings, seeds], uniform rates first."""
    arms, shape = 1 + len(truth.effects), (len(truth.rates), 1 + len(truth.effects), truth.seeds)
    worth = truth.base + np.array([0.0, *truth.effects])[None, :, None] + np.array(truth.rates)[:, None, None]
    worth = worth + truth.shared * truth.noise(random, (len(truth.rates), 1, truth.seeds))
    worth = np.clip(worth + truth.own * truth.noise(random, shape), 0, 1)
    assert worth.shape[1] == arms
    both = np.stack([worth, worth])
    return both if truth.images is None else random.binomial(truth.images, both) / truth.images


def sweep_of(truth: Truth, random: np.random.Generator) -> Sweep:
    values = accuracies(truth, random)
    runs = []
    for rate, arm, seed in np.ndindex(values.shape[1:]):
        failed = random.random() < truth.missing
        point = {"mult": str(1.0 - arm / 100), "lr": str(rate + 1)}
        runs.append(
            SweepRun(
                id=str(len(runs)), name="", status="FAILED" if failed else "FINISHED", started=len(runs), point=point,
                seed=str(seed), arm="layerwise" if arm else "uniform", why="", pruned=False,
                validation=values[0, rate, arm, seed], test=values[1, rate, arm, seed], curve=NO_CURVE, rates=None,
            )
        )  # fmt: skip
    return Sweep("0", "", "FINISHED", 0, ("mult", "lr"), len(runs), runs)


def simulate(truth: Truth, sweeps: int = 1000) -> Found:
    """Analyze so many sweeps, always the same ones."""
    random = np.random.default_rng(0)
    found = [_analyze(truth, analyze(sweep_of(truth, random))) for _ in range(sweeps)]
    return Found(*(float(np.nanmean([getattr(one, part.name) for one in found])) for part in fields(Found)))


def _analyze(truth: Truth, found: Analysis) -> Found:
    def effect(key: tuple[tuple[str, str], ...]) -> float:
        return truth.effects[round((1.0 - float(dict(key)["mult"])) * 100) - 1]

    one = Found()
    parts = [(setting, setting.test_difference, effect(setting.key)) for setting in found.layerwise]
    compared = [(part, true) for _, part, true in parts if part is not None and part.n > 1]
    one.together = all(part.low_all <= true <= part.high_all for part, true in compared if not math.isnan(part.low))
    one.false = any(found.outcome(part) not in (0, np.sign(true)) for part, true in compared)
    first, part, true = next(item for item in parts if dict(item[0].key)["mult"] == "0.99")
    level = truth.rates[int(dict(first.key)["lr"]) - 1]
    assert part is not None
    one.mean = _within(first.test, truth.base + true + level)
    one.difference = _within(part, true)
    one.planted = found.outcome(part) == 1
    if found.best is not None and found.best.test_difference is not None:
        one.best = found.outcome(found.best.test_difference) == 1
        one.chosen = found.best.test_difference.mean - effect(found.best.key)
    if found.best_difference is not None and found.best is not None and found.best_uniform is not None:
        rates = [truth.rates[int(dict(s.base)["lr"]) - 1] for s in (found.best, found.best_uniform)]
        true = effect(found.best.key) + rates[0] - rates[1]
        one.false = one.false or found.outcome(found.best_difference) not in (0, np.sign(round(true, 9)))
    return one


def _within(found: Summary, true: float) -> float:
    return found.low <= true <= found.high if not math.isnan(found.low) else math.nan


def main(sweeps: int) -> None:
    cases = {
        "nothing": Truth(0),
        "nothing, 360 images": Truth(0, images=360),
        "nothing, skewed noise": Truth(0, noise=skewed),
        "nothing, skewed, 360 images, near 100 %": Truth(
            0, base=0.985, noise=skewed, shared=0.004, own=0.004, images=360
        ),
        "nothing, 20 settings": Truth(0, effects=(0.0,) * 20),
        "nothing, 3 base rates": Truth(0, rates=(0.0, 0.01, -0.02)),
        "nothing, a tenth failed": Truth(0, missing=0.1),
        "first +1 point": Truth(0, effects=(0.01, 0.0, 0.0, 0.0)),
        "first +1 point, 360 images": Truth(0, effects=(0.01, 0.0, 0.0, 0.0), images=360),
        "first +1 point, 3 base rates": Truth(0, effects=(0.01, 0.0, 0.0, 0.0), rates=(0.0, 0.01, -0.02)),
        "first +1, third -1 point, 360 images": Truth(0, effects=(0.01, 0.0, -0.01, 0.0), images=360),
    }
    titles = ["truth", "seeds", *(part.name for part in fields(Found))]
    print(f"{sweeps} sweeps each; level 5 %\n| {' | '.join(titles)} |\n| :-- {'| --: ' * (len(titles) - 1)}|")
    for name, case in cases.items():
        for seeds in (3, 5, 6, 10):
            found = simulate(Truth(**{**vars(case), "seeds": seeds}), sweeps)
            shares = [f"{getattr(found, part.name):.3f}" for part in fields(Found)[:-1]]
            print(f"| {name} | {seeds} | {' | '.join(shares)} | {100 * found.chosen:+.2f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
