"""torch's own schedulers as policies: simulated on a dummy parameter group; all groups follow its lr factor.

This keeps the ratios between groups, whatever the scheduler does to the rate of a group. A scheduler that consists of
others (SequentialLR, ChainedScheduler) takes them as options: `schedulers: [{name: LinearLR, total_iters: 5}, …]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch.optim import Optimizer, lr_scheduler

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.formatting import one_line

from .options import at_least

# Arguments set to the length of the training where the scheduler requires them and the user did not set them.
_LENGTHS = ("total_steps", "T_max")
# The state of ReduceLROnPlateau that depends on observed metrics; the rest are its options.
_SEEN = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class SimulatedScheduler:
    """A torch scheduler over an SGD optimizer with one dummy parameter at rate `lr`; factor = its rate / `lr`."""

    def __init__(self, make: Callable[[Optimizer], lr_scheduler.LRScheduler], lr: float) -> None:
        """`make` builds the scheduler of an optimizer. Raises what `make` raises."""
        self.lr = lr
        # Cyclic schedulers require momentum; nothing is trained here.
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
        self.scheduler = make(self.optimizer)
        self.optimizer.step()  # torch warns when a scheduler steps before its optimizer

    @property
    def factor(self) -> float:
        """The current rate as a fraction of the base rate."""
        return float(self.optimizer.param_groups[0]["lr"]) / self.lr


class TorchPolicy:
    """A torch scheduler as a pure function of the step; simulates as many steps as are requested."""

    def __init__(self, simulated: SimulatedScheduler, every: int) -> None:
        """`every`: optimizer steps between two steps of the scheduler (1, or those of an epoch)."""
        self._simulated = simulated
        self._every = every
        self._factors = [simulated.factor]

    def __call__(self, step: int) -> float:
        """The factor at optimizer step `step`."""
        position = step // self._every
        while len(self._factors) <= position:
            try:
                self._simulated.scheduler.step()
            except ValueError:  # OneCycleLR raises past its total_steps: hold the last value
                self._factors.append(self._factors[-1])
                continue
            self._factors.append(self._simulated.factor)
        return self._factors[position]


class MetricPolicy:
    """A metric-driven scheduler (ReduceLROnPlateau): its factor changes only in `observe`.

    `metric` is the name of the metric. Its state is saved with the scheduler's.
    """

    def __init__(self, simulated: SimulatedScheduler, metric: str) -> None:
        """Start at the scheduler's first factor."""
        self._simulated = simulated
        self.metric = metric

    def __call__(self, step: int) -> float:
        """The current factor, independent of the step."""
        return self._simulated.factor

    def observe(self, value: float) -> None:
        """Step the scheduler with the metric's latest value."""
        self._simulated.scheduler.step(value)  # type: ignore[arg-type]  # ReduceLROnPlateau takes the metric

    def state_dict(self) -> dict[str, Any]:
        """State for an exact resume."""
        rate = float(self._simulated.optimizer.param_groups[0]["lr"])
        return {
            "metric": self.metric,
            "factor": self._simulated.factor,
            "rate": rate,
            "base": self._simulated.lr,
            "scheduler": self._simulated.scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, remap: bool = False) -> None:
        """Restore `state`; with `remap` keep the current options and restore only what was observed."""
        scheduler: Any = self._simulated.scheduler
        saved = dict(state["scheduler"])
        if remap:
            same = state["metric"] == self.metric and saved["mode"] == scheduler.mode
            saved = {key: saved[key] for key in _SEEN} if same else {}
        scheduler.load_state_dict(saved)
        # factor * base is not always the rate, to the last bit
        rate = state["rate"] if state["base"] == self._simulated.lr else state["factor"] * self._simulated.lr
        self._simulated.optimizer.param_groups[0]["lr"] = rate


def torch_scheduler(
    *,
    lr: float,
    steps: int | None,
    steps_per_epoch: int,
    name: str,
    options: Mapping[str, Any] | None = None,
    interval: Literal["step", "epoch"] = "step",
    metric: str = "val/loss",
) -> TorchPolicy | MetricPolicy:
    """Any `torch.optim.lr_scheduler` class by `name`, stepped each optimizer step or each epoch (`interval`).

    `options` are the class's own arguments. One that it requires for the length of the training (`T_max`,
    `total_steps`) or for the peak (`max_lr`) is filled in; for one of several schedulers it is that of its part of the
    training. `metric` is what ReduceLROnPlateau observes after each evaluation.
    """
    every = steps_per_epoch if interval == "epoch" else 1
    count = None if steps is None else -(-steps // every)
    simulated = SimulatedScheduler(
        lambda optimizer: _build(optimizer, name, options or {}, lr, count, "policy.name", "policy.options"), lr
    )
    if isinstance(simulated.scheduler, lr_scheduler.ReduceLROnPlateau):
        return MetricPolicy(simulated, metric)
    return TorchPolicy(simulated, every)


def _build(
    optimizer: Optimizer, name: str, options: Mapping[str, Any], lr: float, count: int | None, named: str, key: str
) -> lr_scheduler.LRScheduler:
    """The scheduler `name` of `optimizer`; `count`: its steps. `named`, `key`: of its name and its options."""
    known = _schedulers()
    if name not in known:
        raise UnknownNameError(named, name, known, "no such class in torch.optim.lr_scheduler")
    scheduler = known[name]
    signature = inspect.signature(scheduler).parameters
    choices = [option for option in signature if option not in ("optimizer", "last_epoch", "verbose")]
    given = dict(options)
    for option, value in given.items():
        if option not in choices:
            raise UnknownOptionError(f"{key}.{option}", value, choices, f"{name} has no such option")
    if given.get("cycle_momentum"):
        raise ConfigError(f"{key}.cycle_momentum", True, "a policy moves rates only, momentum would not follow")
    if "cycle_momentum" in signature:
        given["cycle_momentum"] = False
    if "max_lr" in signature:
        given.setdefault("max_lr", lr)
    if name == "CyclicLR":
        given.setdefault("base_lr", lr / 10)
    for length in _LENGTHS:
        if length in signature and not given.keys() & {length, "epochs"}:
            if count is None:
                raise ConfigError(f"{key}.{length}", None, "must be given when the number of steps is unknown")
            given[length] = max(count - 1, 1) if length == "T_max" else max(count, 2)
    if "schedulers" in signature:
        given["schedulers"] = _parts(optimizer, name, given, lr, count, key)
    try:
        return scheduler(**given) if name == "ChainedScheduler" else scheduler(optimizer, **given)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(key, dict(options), f"{name} refuses: {one_line(error, None)}") from error


def _parts(
    optimizer: Optimizer, name: str, options: Mapping[str, Any], lr: float, count: int | None, key: str
) -> list[lr_scheduler.LRScheduler]:
    """The schedulers that the scheduler `name` consists of, all of `optimizer`."""
    key = f"{key}.schedulers"
    written = options.get("schedulers")
    if not isinstance(written, Sequence) or isinstance(written, str) or not written:
        example = "[{name: LinearLR, total_iters: 5}, {name: CosineAnnealingLR}]"
        raise ConfigError(key, "???" if written is None else written, f"must be a list of schedulers: {example}")
    counts = [count] * len(written)
    if name == "SequentialLR":
        counts = _spans(options.get("milestones"), len(written), count, key.replace("schedulers", "milestones"))
    parts = []
    for i, (each, span) in enumerate(zip(written, counts, strict=True)):
        if not isinstance(each, Mapping) or not isinstance(each.get("name"), str):
            raise ConfigError(f"{key}.{i}", each, "must have the name of a scheduler and its options: {name: LinearLR}")
        if each["name"] == "ReduceLROnPlateau":
            why = f"is metric-driven, so it cannot be a part of {name}; policy=plateau has a warm-up of its own"
            raise ConfigError(f"{key}.{i}.name", each["name"], why)
        own = {option: value for option, value in each.items() if option != "name"}
        if name == "SequentialLR" and i and "schedulers" in own:
            why = "torch can switch to a single scheduler only; put several milestones into one SequentialLR"
            raise ConfigError(f"{key}.{i}.name", each["name"], why)
        parts.append(_build(optimizer, each["name"], own, lr, span, f"{key}.{i}.name", f"{key}.{i}"))
    return parts


def _spans(milestones: Any, parts: int, count: int | None, key: str) -> list[int | None]:
    """How many steps each of the `parts` has that follow one another at `milestones`."""
    if milestones is None:
        raise ConfigError(key, "???", f"must be given: the {parts - 1} steps at which the next scheduler begins")
    is_list = isinstance(milestones, Sequence) and not isinstance(milestones, str)
    whole = is_list and all(isinstance(step, int) and not isinstance(step, bool) for step in milestones)
    if not whole or any(a >= b for a, b in pairwise([0, *milestones])):
        raise ConfigError(key, milestones, "needs rising steps from 1 on, e.g. [100,200]")
    if len(milestones) != parts - 1:
        raise ConfigError(key, milestones, f"{parts} schedulers need {parts - 1} of them")
    spans: list[int | None] = [end - start for start, end in pairwise([0, *milestones])]
    return [*spans, None if count is None else max(count - [0, *milestones][-1], 1)]


def schedulers_with(option: str) -> list[str]:
    """Names of torch's schedulers that take `option`.

    >>> schedulers_with("T_0")
    ['CosineAnnealingWarmRestarts']
    """
    found = {name: inspect.signature(kind).parameters for name, kind in _schedulers().items()}
    return [name for name, parameters in found.items() if option in parameters and option != "optimizer"]


def _schedulers() -> dict[str, type[lr_scheduler.LRScheduler]]:
    """torch's schedulers by name."""
    return {
        key: value
        for key, value in vars(lr_scheduler).items()
        if isinstance(value, type)
        and issubclass(value, lr_scheduler.LRScheduler)
        and not key.startswith("_")
        and key != "LRScheduler"
    }


def torch_lengths(options: Mapping[str, Any]) -> set[str]:
    """Of `steps` and `steps_per_epoch`, those on which the rates of `torch_scheduler(**options)` depend."""
    signature = inspect.signature(getattr(lr_scheduler, options["name"])).parameters
    given = options["options"] or {}
    filled = any(length in signature and not given.keys() & {length, "epochs"} for length in _LENGTHS)
    by_epoch = options["interval"] == "epoch"
    return {key for key, counts in (("steps", filled), ("steps_per_epoch", by_epoch)) if counts}


def plateau(
    *,
    lr: float,
    metric: str = "val/loss",
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 2,
    threshold: float = 1e-4,
    cooldown: int = 0,
) -> MetricPolicy:
    """Multiply by `factor` (0 to 1) when `metric` has not improved for more than `patience` evaluations.

    torch's ReduceLROnPlateau: a change by the fraction `threshold` is an improvement; `cooldown` evaluations after a
    cut are not counted; `mode` is `max` for metrics to maximize.
    """
    if not 0 < factor < 1:
        raise ConfigError("policy.factor", factor, "must be above 0 and below 1")
    at_least("policy.patience", patience, 0)
    at_least("policy.cooldown", cooldown, 0)
    at_least("policy.threshold", threshold, 0)
    options: dict[str, Any] = {
        "mode": mode,
        "factor": factor,
        "patience": patience,
        "threshold": threshold,
        "cooldown": cooldown,
    }
    # ReduceLROnPlateau ignores changes below eps=1e-8; the factor must follow at any base rate.
    return MetricPolicy(
        SimulatedScheduler(lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, **options, eps=0.0), lr), metric
    )
