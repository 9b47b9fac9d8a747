"""The rates of a plan's groups as metrics: their names, those of an optimizer now, and those in a journal."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from operator import is_
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from lwexp.core.plan_table import PlanTable
from lwexp.core.present_rates import present_rates, rate_metric
from lwexp.errors import ConfigError
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.journal import Reader

log = logging.getLogger(__name__)

_AT_MOST = 2000  # steps, as many as are plotted


class OptimizerRates:
    """The rates of a plan's groups in optimizers, also in such that were not made from the plan."""

    def __init__(self, plan: PlanTable, optimizers: Optimizer | Iterable[Optimizer] | None) -> None:
        """One or several of anything with `param_groups`; raises `ConfigError` for something else."""
        given: list[Any] = [optimizers] if hasattr(optimizers, "param_groups") else []
        if not given and isinstance(optimizers, Iterable):
            given = list(optimizers)
        if not given or not all(hasattr(optimizer, "param_groups") for optimizer in given):
            why = (
                "must be an optimizer or several, as in lwexp.track(plan, optimizer); lwexp.track(scheduler) needs none"
            )
            raise ConfigError("optimizer", None if optimizers is None else type(optimizers).__name__, why)
        self._plan, self._optimizers = plan, given
        self._groups: list[dict[str, Any]] = []  # as last matched
        self._names: list[tuple[str, int]] = []  # metric of a rate, and the group among those

    @property
    def names(self) -> str:
        """The classes of the optimizers."""
        return ", ".join(type(optimizer).__name__ for optimizer in self._optimizers)

    def read(self) -> dict[str, float]:
        """The rate of every group as it is now, by metric. Raises `ConfigError` where no group is of the plan."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        if len(groups) != len(self._groups) or not all(map(is_, groups, self._groups)):
            self._match(groups)
        present = present_rates(groups)
        return {name: present[i] for name, i in self._names}

    def _match(self, groups: list[dict[str, Any]]) -> None:
        """Name the rates of `groups`; a group that is not in the plan has its own name."""
        positions, labels = self._plan.positions(groups), self._plan.labels
        found = {position for position in positions if position is not None}
        if not found:
            raise ConfigError("optimizer", self.names, "has no group of the plan; build it from plan.param_groups()")
        names = {rate_metric(labels[position]): i for i, position in enumerate(positions) if position is not None}
        for i, position in enumerate(positions):
            if position is None:
                own = rate_metric(str(groups[i].get("name", f"param_group_{i}")))
                names[own if own not in names else rate_metric(f"param_group_{i}")] = i
        missing = [labels[i] for i, g in enumerate(self._plan.groups) if g.optimizer_names and i not in found]
        if missing:
            shown = ", ".join(missing[:5])
            log.warning("no group of the optimizer is %s of the plan, so no rates of it are recorded", shown)
        self._groups, self._names = groups, sorted(names.items())


def recorded_rates(folder: Path, labels: Sequence[str]) -> tuple[list[int], list[list[float]]]:
    """Steps and rates [steps, groups] in the journal of `folder`: all of them, or evenly spaced ones and the last.

    A group that has no rate at a step has 0 there.
    """
    reader = Reader(folder / JOURNAL)
    names = [rate_metric(label) for label in labels]
    columns: dict[tuple[str, ...], list[int | None]] = {}  # by the keys of a row: the group of each
    kept: list[tuple[int, list[float]]] = []
    last, every, count = None, 1, 0
    for entry in reader.entries():
        if entry.kind != "rows":
            continue
        rows = entry.value
        if rows.keys not in columns:
            places = {reader.names[name]: i for i, name in enumerate(names) if name in reader.names}
            columns[rows.keys] = [places.get(key) for key in rows.keys]
        if not any(column is not None for column in columns[rows.keys]):
            continue
        rates = [0.0] * len(names)
        for column, value in zip(columns[rows.keys], rows.values, strict=True):
            if column is not None:
                rates[column] = value
        last = (rows.step, rates)
        if count % every == 0:
            kept.append(last)
        count += 1
        if len(kept) > 2 * _AT_MOST:
            kept, every = kept[::2], 2 * every
    if last is not None and kept[-1] is not last:
        kept.append(last)
    return [step for step, _ in kept], [rates for _, rates in kept]
