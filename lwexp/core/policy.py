"""Policies `step -> factor`: how every group's rate changes with the optimizer step (the first is 0).

A policy is a pure function of the step, so all rates are known before training. Each consists of three parts: a
**warm-up** (`lwexp/core/warmup.py`), then a **shape** (`lwexp/core/shapes.py`) that falls from 1 towards 0 over the
remaining steps, and a **floor**. Of T steps in all, the last one (T - 1) has the end value, unless the convention is
another. Metric-driven policies are in `lwexp/core/torch_policy.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError

from .options import at_least, check_options
from .policy_settings import PolicySettings
from .shapes import ALIASES, BLENDS, POLICIES, Shape
from .torch_policy import MetricPolicy
from .warmup import Warmup, count_warmup_steps


@dataclass(frozen=True)
class Policy:
    """factor(t) = warmup(t) for t < its steps, else the shape at t - those steps, bounded by the floor.

    `floor` is the smallest factor. `blends`: the shape is rescaled to run from 1 to the floor (cosine, linear, …), else
    it is clipped at the floor (exponential, step, …). `absolute`: `floor` is a rate common to all groups, as a fraction
    of the base rate.
    """

    shape: Shape
    settings: PolicySettings
    blends: bool = False
    warmup: Warmup = field(default_factory=Warmup)
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
        if step < self.warmup.steps:
            return [self.warmup(step)] * len(floors)
        value = self.shape(step - self.warmup.steps)
        if not self.blends:
            return [max(value, floor) for floor in floors]
        return [floor + (1 - floor) * value if value < 1 else value for floor in floors]


def common(
    *,
    warmup_steps: int = 0,
    warmup_fraction: float | None = None,
    warmup_epochs: float | None = None,
    warmup: Literal["linear", "hold"] | None = None,
    convention: Literal["lwexp", "transformers"] = "lwexp",
    min_lr: float = 0.0,
    floor: Literal["relative", "absolute"] = "relative",
) -> None:
    """The options that every policy takes in addition to its own.

    The warm-up takes `warmup_steps`, or `warmup_fraction` (0 to 1) of the training, rounded up, or `warmup_epochs`.
    `warmup`: factor (t + 1) / warmup_steps for `linear`, 1 for `hold` (default for `warmup_exponential`).
    `convention`: `lwexp` ends a shape at the last step, T - 1; `transformers`, as Hugging Face's schedules and Trainer,
    after it, at T, and a linear warm-up starts from 0: factor t / warmup_steps.
    `min_lr`: the floor of the base rate; that of a group is `min_lr * scale` (`floor=relative`) or `min_lr`
    (`floor=absolute`; it never raises a group above its planned rate).
    """


COMMON = tuple(inspect.signature(common).parameters)


class PolicyOptions(TypedDict, total=False):
    """The options of all policies, for editors and type checkers: those of `common`, then each policy's own."""

    warmup_steps: int
    warmup_fraction: float | None
    warmup_epochs: float | None
    warmup: Literal["linear", "hold"] | None
    convention: Literal["lwexp", "transformers"]
    min_lr: float
    floor: Literal["relative", "absolute"]
    k: float  # warmup_exponential
    cycles: int | None  # cosine_restarts
    cycle_steps: int | None
    cycle_mult: int
    beta: float  # rex
    power: float  # polynomial
    step_size: int  # step
    gamma: float  # step, multistep
    milestones: Sequence[float]  # multistep
    pct_start: float  # onecycle
    div_factor: float
    final_div_factor: float
    timescale: int  # inverse_sqrt
    decay_fraction: float  # wsd
    decay_shape: Literal["linear", "cosine", "sqrt"]
    cut_fraction: float  # slanted_triangular
    ratio: float
    metric: str  # plateau, torch
    mode: Literal["min", "max"]  # plateau
    factor: float
    patience: int
    threshold: float
    cooldown: int
    name: str  # torch
    options: Mapping[str, Any] | None
    interval: Literal["step", "epoch"]


def named(policy: str | Callable[[int], float]) -> str | Callable[[int], float]:
    """`policy`, or the name that it is an alias of. Raises `ConfigError` for what is no policy."""
    if not isinstance(policy, str) and not callable(policy):
        why = "must be a name or a callable step -> factor; its options are keywords, e.g. warmup_steps=5"
        raise ConfigError("policy", policy, why)
    if isinstance(policy, str):
        policy = ALIASES.get(policy, policy)
        if policy not in POLICIES:
            raise UnknownNameError("policy", policy, POLICIES, "no such policy")
    return policy


def make_policy(
    policy: str | Callable[[int], float],
    options: Mapping[str, Any],
    *,
    lr: float,
    steps: int | None,
    steps_per_epoch: int = 1,
    key: str = "policy",
) -> Policy:
    """The policy of a name, or a callable `step -> factor`, with warm-up and floor.

    `lr` is the base rate, `steps` the number of optimizer steps of the training that it is for. Raises `ConfigError`
    with keys below `key`.
    """
    settings = PolicySettings(policy, dict(options), lr, steps, steps_per_epoch, key)
    try:
        return _made(settings)
    except ConfigError as error:
        if error.key.partition(".")[0] != "policy":
            raise
        raise error.renamed(key + error.key.removeprefix("policy")) from error.__cause__


def _made(settings: PolicySettings) -> Policy:
    policy, options, lr = named(settings.policy), settings.options, settings.lr
    steps, steps_per_epoch = settings.steps, settings.steps_per_epoch
    shared = {key: value for key, value in options.items() if key in COMMON}
    own = {key: value for key, value in options.items() if key not in shared}
    shared = check_options(common, shared, "policy")
    min_lr = shared.get("min_lr", 0.0)
    at_least("policy.min_lr", min_lr, 0)
    if min_lr > lr:
        raise ConfigError("policy.min_lr", min_lr, f"the floor is above the base rate lr={lr:g}")
    warmup = Warmup(
        count_warmup_steps(shared, steps, steps_per_epoch),
        shared.get("warmup") or ("hold" if policy == "warmup_exponential" else "linear"),
        from_zero=shared.get("convention") == "transformers",
    )
    left = None if steps is None else max(steps - warmup.steps, 1)
    if left is not None and shared.get("convention") == "transformers":
        left += 1  # the step after the last has the end value
    if isinstance(policy, str):
        shape = _shape(policy, own, {"steps": left, "lr": lr, "steps_per_epoch": steps_per_epoch})
    elif own:
        raise UnknownOptionError(f"policy.{next(iter(own))}", next(iter(own.values())), COMMON)
    else:
        shape = policy
    return Policy(
        shape=shape,
        blends=policy in BLENDS,
        warmup=warmup,
        floor=min_lr / lr,
        absolute=shared.get("floor") == "absolute",
        settings=replace(settings, policy=policy),
    )


def _from_pickle(made: PolicySettings, seen: Mapping[str, Any] | None) -> Policy:
    policy = _made(made)
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
