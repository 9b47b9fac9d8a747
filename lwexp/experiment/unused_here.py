"""Options that change nothing with these data and this plan; the config alone tells others (`config/unused.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lwexp.config.schema import RunConfig
from lwexp.core.patterns import matches

if TYPE_CHECKING:
    from lwexp.core.schedule import Schedule
    from lwexp.data import DataSource


@dataclass(frozen=True)
class _Case:
    """What the rules look at; `all_steps` would be trained without `max_steps`."""

    config: RunConfig
    source: DataSource
    schedule: Schedule
    all_steps: int


def unused_here(
    config: RunConfig, given: Mapping[str, str], source: DataSource, schedule: Schedule, all_steps: int
) -> Iterator[str]:
    """A line for each option of the command line, `given` with its value as typed, that changes nothing."""
    case = _Case(config, source, schedule, all_steps)
    for key, value in given.items():
        rules = (why for option, why in _RULES.items() if key == option or key.startswith(f"{option}."))
        reason = next((found for rule in rules if (found := rule(case))), None)
        if reason:
            yield f"{key}={value} changes nothing: {reason}"


def _all_absolute(case: _Case, *more: str) -> str | None:
    plan = case.schedule.plan
    absolute = plan.patterns([*case.config.lr_overrides, *more], "lr_overrides")
    trained = [name for group in plan.groups for name in group.optimizer_names]
    covered = all(any(matches(pattern, name) for pattern in absolute) for name in trained)
    return "every trained parameter has an absolute rate" if covered else None


def _lr(case: _Case) -> str | None:
    floors = any(policy.floor for policy in case.schedule.policies)  # fractions of lr
    return None if floors else _all_absolute(case, *(case.config.decay.options.get("rates") or {}))


def _policy(case: _Case) -> str | None:
    if case.schedule.values or any(policy.settings.key == "policy" for policy in case.schedule.policies):
        return None
    return "all groups have a policy of their own at every step"


def _index_from(case: _Case) -> str | None:
    groups = case.schedule.plan.groups
    first = next((g for g in groups if {*g.optimizer_names}.difference(g.frozen_names)), groups[0])
    return "group 0 is trained, so the decay starts there anyway" if first.index == groups[0].index else None


def _unfreeze(case: _Case) -> str | None:
    indices = {g.index for g in case.schedule.plan.groups if g.optimizer_names and not g.frozen}
    return "there is one group to open" if len(indices) == 1 else None


def _epochs(case: _Case) -> str | None:
    most = case.config.max_steps
    return f"max_steps={most} ends the training before" if most is not None and most < case.all_steps else None


def _split(*names: str) -> Callable[[_Case], str | None]:
    """For options of splits that are cut, if there are none of those `names`."""

    def why(case: _Case) -> str | None:
        cut = case.source.cut
        if cut is None or any(name in cut for name in names):
            return None
        own = [name for name in names if name in case.source.info.sizes]
        return f"the data have a {' and a '.join(own)} split of their own" if own else None

    return why


_RULES: dict[str, Callable[[_Case], str | None]] = {
    "lr": _lr,
    "mult": _all_absolute,
    "decay": _all_absolute,
    "policy": _policy,
    "index_from": _index_from,
    "unfreeze.every_epochs": _unfreeze,
    "unfreeze.every_steps": _unfreeze,
    "epochs": _epochs,
    "data.val_fraction": _split("val"),
    "data.test_fraction": _split("test"),
    "data.split_seed": _split("val", "test"),
}
