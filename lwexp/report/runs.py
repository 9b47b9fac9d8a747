"""Runs that are compared, as MLflow has them: a sweep's children, or any others."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from .arms import Key
from .statistics import Floats


@dataclass(frozen=True)
class Curve:
    """A validation metric at optimizer steps, both [evaluations]."""

    steps: Floats
    values: Floats


@dataclass(frozen=True)
class SweepRun:
    """A child run; `validation` is of the best weights by validation, NaN if it has none."""

    id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED
    started: int  # milliseconds since the Unix epoch
    point: dict[str, str]  # the swept keys but seed, as typed
    seed: str
    arm: str  # uniform or layerwise, by the rates of its plan; empty where the run failed before it was known
    why: str  # it failed or was pruned, in one line
    pruned: bool
    validation: float
    test: float
    curve: Curve
    rates: tuple[float, float] | None  # planned for the head and for the stem
    base: Key | None = None  # settings that vary in the sweep, those of the arm and seed apart

    @property
    def whole(self) -> bool:
        """Whether the run has trained to its end, so that its metrics can be compared."""
        return self.status == "FINISHED" and not self.pruned


@dataclass(frozen=True)
class Sweep:
    """Runs that are compared, in the order of their start: the children of a parent run, or any others.

    `metric` is that of all their values, without the split; `mode` whether "min" or "max" of it is good, as the runs
    say; None where they do not.
    """

    id: str  # of the parent run; empty where there is not exactly one
    name: str
    status: str
    started: int
    swept: tuple[str, ...]  # the swept keys but seed
    total: int  # jobs in its plan
    runs: list[SweepRun] = field(repr=False)
    searched: int = 0  # trials of a search, excluded because their best settings were repeated
    cautions: tuple[str, ...] = ()  # what limits a comparison of its runs, in sentences
    metric: str = "accuracy"
    mode: str | None = None

    @property
    def label(self) -> str:
        """A name for its report's folder: when it started, and the first digits of its id."""
        return f"{datetime.fromtimestamp(self.started / 1000):%Y-%m-%d_%H-%M-%S}_{self.id[:8]}".rstrip("_")
