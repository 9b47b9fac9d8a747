"""Policies `step -> factor`: how every group's rate changes with the optimizer step (the first is 0).

A policy is a pure function of the step, so all rates are known before training. Each consists of three parts: a
**warm-up** of `warmup_steps`, then a **shape** that falls from 1 towards 0 over the remaining steps, and a **floor**.
Of T steps in all, the last one (T - 1) has the end value. Metric-driven policies are in
`lwexp/core/torch_policy.py`.
"""

from __future__ import annotations

import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError

from .options import at_least, between, check_options
from .policy_settings import PolicySettings
from .torch_policy import MetricPolicy, plateau, torch_scheduler

Shape = Callable[[int], float]


@dataclass(frozen=True)
class Policy:
    """factor(t) = warm(t) for t < warmup_steps, else the shape at t - warmup_steps, bounded by the floor.

    `floor` is the smallest factor. `blends`: the shape is rescaled to run from 1 to the floor (cosine, linear, …), else
    it is clipped at the floor (exponential, step, …). `absolute`: `floor` is a rate common to all groups, as a fraction
    of the base rate.
    """

    shape: Shape
    settings: PolicySettings
    blends: bool = False
    warmup_steps: int = 0
    warmup: Literal["linear", "hold"] = "linear"
    floor: float = 0.0
    absolute: bool = False

    def __reduce__(self) -> Any:
        """Pickle what it was made of: most shapes are closures."""
        seen = self.shape.state_dict() if isinstance(self.shape, MetricPolicy) else None
        return _from_pickle, (self.settings, seen)

    def __call__(self, step: int) -> float:
        """The factor of optimizer step `step`, with the policy's own floor."""
        return self.above(step, [self.floor])[0]

    def above(self, step: int, floors: Sequence[float]) -> list[float]:
        """The factors for groups whose floors are the fractions `floors` of their rates."""
        if step < self.warmup_steps:
            return [(step + 1) / self.warmup_steps if self.warmup == "linear" else 1.0] * len(floors)
        value = self.shape(step - self.warmup_steps)
        if not self.blends:
            return [max(value, floor) for floor in floors]
        return [floor + (1 - floor) * value if value < 1 else value for floor in floors]


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
    return polynomial(steps=steps, power=1.0)


def cosine(*, steps: int) -> Shape:
    """(1 + cos(pi * t / (steps - 1))) / 2, one half period (SGDR without restarts, arXiv:1608.03983).

    >>> [round(cosine(steps=5)(t), 9) for t in (0, 2, 4)]
    [1.0, 0.5, 0.0]
    """
    return lambda step: (1 + math.cos(math.pi * _progress(step, steps))) / 2


def polynomial(*, steps: int, power: float = 2.0) -> Shape:
    """(1 - t / (steps - 1))**power, `power` > 0."""
    at_least("policy.power", power, 0, strictly=True)
    return lambda step: (1 - _progress(step, steps)) ** power


def step(*, step_size: int, gamma: float = 0.1) -> Shape:
    """gamma ** floor(t / step_size), `step_size` in optimizer steps, as torch's StepLR."""
    at_least("policy.step_size", step_size, 1)
    at_least("policy.gamma", gamma, 0, strictly=True)
    return lambda step: gamma ** (step // step_size)


def multistep(*, milestones: list[int], gamma: float = 0.1) -> Shape:
    """gamma ** (number of milestones reached), `milestones` in optimizer steps, as torch's MultiStepLR."""
    at_least("policy.gamma", gamma, 0, strictly=True)
    if not milestones or sorted(milestones) != list(milestones) or milestones[0] < 1:
        raise ConfigError("policy.milestones", milestones, "needs rising steps from 1 on, e.g. [100,200]")
    return lambda step: gamma ** bisect_right(milestones, step)


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
BLENDS = {"linear", "cosine", "polynomial", "wsd"}


def common(
    *,
    warmup_steps: int = 0,
    warmup: Literal["linear", "hold"] | None = None,
    min_lr: float = 0.0,
    floor: Literal["relative", "absolute"] = "relative",
) -> None:
    """The options that every policy takes in addition to its own.

    `warmup`: factor (t + 1) / warmup_steps for `linear`, 1 for `hold` (default for `warmup_exponential`).
    `min_lr`: the floor of the base rate; that of a group is `min_lr * scale` (`floor=relative`) or `min_lr`
    (`floor=absolute`; it never raises a group above its planned rate).
    """


COMMON = tuple(inspect.signature(common).parameters)


def make_policy(
    policy: str | Callable[[int], float],
    options: Mapping[str, Any],
    *,
    lr: float,
    steps: int | None,
    steps_per_epoch: int = 1,
) -> Policy:
    """The policy of a name, or a callable `step -> factor`, with warm-up and floor.

    `lr` is the base rate, `steps` the number of optimizer steps of the whole training. Raises `ConfigError`.
    """
    if not isinstance(policy, str) and not callable(policy):
        why = "must be a name or a callable step -> factor; its options are keywords, e.g. warmup_steps=5"
        raise ConfigError("policy", policy, why)
    if isinstance(policy, str) and policy not in POLICIES:
        raise UnknownNameError("policy", policy, POLICIES, "no such policy")
    shared = {key: value for key, value in options.items() if key in COMMON}
    own = {key: value for key, value in options.items() if key not in shared}
    shared = check_options(common, shared, "policy")
    warmup_steps = shared.get("warmup_steps", 0)
    at_least("policy.warmup_steps", warmup_steps, 0)
    if steps is not None and warmup_steps > steps:
        why = f"the warm-up is longer than the training of {steps} steps"
        raise ConfigError("policy.warmup_steps", warmup_steps, why)
    min_lr = shared.get("min_lr", 0.0)
    at_least("policy.min_lr", min_lr, 0)
    if min_lr > lr:
        raise ConfigError("policy.min_lr", min_lr, f"the floor is above the base rate lr={lr:g}")
    left = None if steps is None else max(steps - warmup_steps, 1)
    if isinstance(policy, str):
        shape = _shape(policy, own, {"steps": left, "lr": lr, "steps_per_epoch": steps_per_epoch})
    elif own:
        raise UnknownOptionError(f"policy.{next(iter(own))}", next(iter(own.values())), COMMON)
    else:
        shape = policy
    return Policy(
        shape=shape,
        blends=policy in BLENDS,
        warmup_steps=warmup_steps,
        warmup=shared.get("warmup") or ("hold" if policy == "warmup_exponential" else "linear"),
        floor=min_lr / lr,
        absolute=shared.get("floor") == "absolute",
        settings=PolicySettings(policy, dict(options), lr, steps, steps_per_epoch),
    )


def _from_pickle(made: PolicySettings, seen: Mapping[str, Any] | None) -> Policy:
    policy = make_policy(made.policy, made.options, lr=made.lr, steps=made.steps, steps_per_epoch=made.steps_per_epoch)
    if isinstance(policy.shape, MetricPolicy) and seen is not None:
        policy.shape.load_state_dict(seen)
    return policy


def _shape(name: str, options: Mapping[str, Any], known: Mapping[str, Any]) -> Shape:
    """The shape of a named policy from the user's `options` and from what is `known` of the training."""
    function, steps = POLICIES[name], known["steps"]
    annotations = function.__annotations__
    given = {key: value for key, value in known.items() if key in annotations}
    choices = [*COMMON, *(annotations.keys() - known.keys() - {"return"})]
    for key in given.keys() & options.keys():
        raise UnknownOptionError(f"policy.{key}", options[key], choices)
    if "steps" in given and steps is None and "None" not in str(annotations["steps"]):
        raise ConfigError("steps", None, f"the policy {name} needs the number of optimizer steps")
    shape: Shape = function(**check_options(function, {**options, **given}, "policy", choices))
    return shape


def is_metric_driven(policy: Policy) -> bool:
    """Whether the factors depend on metrics, so that they are unknown before training."""
    return isinstance(policy.shape, MetricPolicy)


def _progress(step: int, steps: int) -> float:
    """0 at the first step, 1 at the last of `steps` and after it."""
    return min(step / (steps - 1), 1.0) if steps > 1 else 0.0


def _between(start: float, end: float, p: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * p)) / 2
