"""The shapes of policies: what a rate's factor does after the warm-up, as pure functions of the step.

Most fall from 1 to 0 over `steps`, of which the last one (steps - 1) has the end value.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lwexp.errors import ConfigError

from .options import at_least, between, whole
from .torch_policy import plateau, torch_scheduler

Shape = Callable[[int], float]


def constant() -> Shape:
    """The planned rate at every step: factor 1."""
    return lambda step: 1.0


def warmup_exponential(*, k: float) -> Shape:
    """exp(-k * t), t counted from the end of the warm-up, clipped at the floor.

    >>> round(0.01 * warmup_exponential(k=0.01)(100), 14)
    0.00367879441171
    """
    at_least("policy.k", k, 0, strictly=True)
    return lambda step: math.exp(-k * step)


def linear(*, steps: int) -> Shape:
    """1 - t / (steps - 1): linear to the floor.

    >>> [linear(steps=5)(t) for t in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    length = max(steps - 1, 1)
    return lambda step: max(length - step, 0) / length if steps > 1 else 1.0


def cosine(*, steps: int) -> Shape:
    """(1 + cos(pi * t / (steps - 1))) / 2, one half period (SGDR without restarts, arXiv:1608.03983).

    >>> [round(cosine(steps=5)(t), 9) for t in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    return lambda step: (1 + math.cos(math.pi * _progress(step, steps))) / 2


def cosine_restarts(
    *, steps: int, cycles: int | None = None, cycle_steps: int | None = None, cycle_mult: int = 1
) -> Shape:
    """Half cosines from 1 to 0, each of which starts again at 1: SGDR, arXiv:1608.03983.

    The first one takes `cycle_steps` steps, each next one `cycle_mult` times as many, as torch's
    CosineAnnealingWarmRestarts(T_0, T_mult); `cycles` is their number, after which the factor is 0. Without
    `cycle_steps`, the `cycles` (default 1) fill the training, and its last step has the end value.

    >>> [round(cosine_restarts(steps=9, cycle_steps=2, cycle_mult=2)(t), 9) for t in range(7)]
    [1.0, 0.5, 1.0, 0.853553391, 0.5, 0.146446609, 1.0]
    """
    for key, value in (("cycles", cycles), ("cycle_steps", cycle_steps), ("cycle_mult", cycle_mult)):
        if value is not None:
            at_least(f"policy.{key}", value, 1)
    count = cycles if cycles is not None or cycle_steps is not None else 1

    def shape(step: int) -> float:
        if cycle_steps is None:
            progress = _progress(step, steps) * sum(cycle_mult**i for i in range(count or 1))
            position, length = progress, 1
        else:
            position, length = float(step), cycle_steps
        number = 0
        if cycle_mult == 1:
            number, position = divmod(position, length)
        else:
            while position >= length and (count is None or number < count):
                position, length, number = position - length, length * cycle_mult, number + 1
        if count is not None and number >= count:
            return 0.0
        return (1 + math.cos(math.pi * position / length)) / 2

    return shape


def rex(*, steps: int, beta: float = 0.5) -> Shape:
    """(1 - p) / (1 - beta + beta * (1 - p)), p = t / (steps - 1): REX, arXiv:2107.04197, where `beta` is 1/2.

    Above the straight line for `beta` > 0, which it is for 0; `beta` is from 0 up to, but not including, 1.

    >>> [round(rex(steps=5)(t), 9) for t in range(5)]
    [1.0, 0.857142857, 0.666666667, 0.4, 0.0]
    """
    between("policy.beta", beta, 0, 1)
    if beta == 1:
        raise ConfigError("policy.beta", beta, "must be below 1, else the rate never falls")

    def shape(step: int) -> float:
        left = 1 - _progress(step, steps)
        return left / (1 - beta + beta * left)

    return shape


def polynomial(*, steps: int, power: float = 2.0) -> Shape:
    """(1 - t / (steps - 1))**power, `power` > 0."""
    at_least("policy.power", power, 0, strictly=True)
    return lambda step: (1 - _progress(step, steps)) ** power


def step(*, step_size: int, gamma: float = 0.1) -> Shape:
    """gamma ** floor(t / step_size), `step_size` in optimizer steps, as torch's StepLR."""
    at_least("policy.step_size", step_size, 1)
    at_least("policy.gamma", gamma, 0, strictly=True)
    return lambda step: gamma ** (step // step_size)


def multistep(*, milestones: Sequence[float], gamma: float = 0.1, steps: int | None = None) -> Shape:
    """gamma ** (number of milestones reached), as torch's MultiStepLR.

    `milestones` in optimizer steps, or as fractions of the training between 0 and 1.
    """
    at_least("policy.gamma", gamma, 0, strictly=True)
    milestones = [int(each) if each >= 1 and each == int(each) else each for each in milestones]  # as typed
    if not milestones or sorted(milestones) != milestones or milestones[0] <= 0:
        raise ConfigError("policy.milestones", milestones, "needs rising steps from 1 on, e.g. [100,200]")
    fractions = [each for each in milestones if each < 1]
    if fractions and len(fractions) < len(milestones):
        raise ConfigError("policy.milestones", milestones, "has steps and fractions; give one of the two")
    if fractions and steps is None:
        raise ConfigError("policy.milestones", milestones, "are fractions, which need the number of optimizer steps")
    found = [
        max(round(each * (steps or 0)), 1) if fractions else whole(f"policy.milestones.{i}", each)
        for i, each in enumerate(milestones)
    ]
    return lambda step: gamma ** bisect_right(found, step)


def onecycle(*, steps: int, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> Shape:
    """Up from 1/div_factor to 1 over `pct_start` of the steps, then down to 1/(div_factor * final_div_factor).

    Both along half a cosine, as torch's OneCycleLR (super-convergence, arXiv:1708.07120); 1 is the plan's rate.
    """
    between("policy.pct_start", pct_start, 0, 1)
    at_least("policy.div_factor", div_factor, 1)
    at_least("policy.final_div_factor", final_div_factor, 1)
    low, last = 1 / div_factor, 1 / (div_factor * final_div_factor)
    peak = pct_start * steps - 1

    def shape(step: int) -> float:
        if step < peak:
            return _between(low, 1.0, step / peak)
        left = steps - 1 - max(peak, 0.0)
        return _between(1.0, last, min((step - max(peak, 0.0)) / left, 1.0) if left > 0 else 0.0)

    return shape


def inverse_sqrt(*, timescale: int = 1000) -> Shape:
    """sqrt(timescale / (timescale + t)): the transformer's schedule (arXiv:1706.03762), from 1 at the warm-up's end."""
    at_least("policy.timescale", timescale, 1)
    return lambda step: math.sqrt(timescale / (timescale + step))


def wsd(
    *, steps: int, decay_fraction: float = 0.2, decay_shape: Literal["linear", "cosine", "sqrt"] = "linear"
) -> Shape:
    """Warm-up, stable, decay: 1 until the last `decay_fraction` of the steps, then down to the floor.

    The factor over p = 0 to 1 is 1 - p, a half cosine, or 1 - sqrt(p) (arXiv:2405.18392).
    """
    between("policy.decay_fraction", decay_fraction, 0, 1)
    falls: dict[str, Callable[[float], float]] = {
        "linear": lambda p: 1 - p,
        "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
        "sqrt": lambda p: 1 - math.sqrt(p),
    }
    length = max(round(decay_fraction * (steps - 1)), 1)

    def shape(step: int) -> float:
        position = step - (steps - 1 - length)
        return falls[decay_shape](min(max(position / length, 0.0), 1.0)) if decay_fraction and steps > 1 else 1.0

    return shape


def slanted_triangular(*, steps: int, cut_fraction: float = 0.1, ratio: float = 32.0) -> Shape:
    """Linear from 1/ratio up to 1, then slowly linear back down to 1/ratio (ULMFiT, arXiv:1801.06146).

    factor = (1 + p * (ratio - 1)) / ratio with p = t / cut before cut = floor(steps * cut_fraction), and
    p = 1 - (t - cut) / (steps - 1 - cut) after it, so that the last step has the end value.
    """
    between("policy.cut_fraction", cut_fraction, 0, 1)
    at_least("policy.ratio", ratio, 1)
    cut = min(math.floor(steps * cut_fraction), steps - 1)

    def shape(step: int) -> float:
        p = step / cut if step < cut else 1 - min((step - cut) / max(steps - 1 - cut, 1), 1.0)
        return (1 + p * (ratio - 1)) / ratio

    return shape


POLICIES: dict[str, Callable[..., Any]] = {
    "constant": constant,
    "warmup_exponential": warmup_exponential,
    "linear": linear,
    "cosine": cosine,
    "cosine_restarts": cosine_restarts,
    "rex": rex,
    "polynomial": polynomial,
    "step": step,
    "multistep": multistep,
    "onecycle": onecycle,
    "inverse_sqrt": inverse_sqrt,
    "wsd": wsd,
    "slanted_triangular": slanted_triangular,
    "plateau": plateau,
    "torch": torch_scheduler,
}
PolicyName = Literal[  # the keys of POLICIES and ALIASES, for editors and type checkers
    "constant", "warmup_exponential", "linear", "cosine", "cosine_restarts", "rex", "polynomial", "step", "multistep",
    "onecycle", "inverse_sqrt", "wsd", "slanted_triangular", "plateau", "torch",
    "cosine_annealing", "cosine_with_restarts", "sgdr", "multi_step", "one_cycle", "poly", "reduce_lr_on_plateau",
    "warmup_stable_decay",
]  # fmt: skip
BLENDS = {"linear", "cosine", "cosine_restarts", "rex", "polynomial", "wsd"}
ALIASES = {  # names that other libraries have for them
    "cosine_annealing": "cosine",
    "cosine_with_restarts": "cosine_restarts",
    "sgdr": "cosine_restarts",
    "multi_step": "multistep",
    "one_cycle": "onecycle",
    "poly": "polynomial",
    "reduce_lr_on_plateau": "plateau",
    "warmup_stable_decay": "wsd",
}


def _progress(step: int, steps: int) -> float:
    """0 at the first step, 1 at the last of `steps` and after it."""
    return min(step / (steps - 1), 1.0) if steps > 1 else 0.0


def _between(start: float, end: float, p: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * p)) / 2
