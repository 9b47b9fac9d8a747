"""Where a run takes place, and what it was asked for: what the caller of `run_job` knows and a config does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JobPlace:
    """The surroundings of a run."""

    folder: Path  # the run's own
    base: Path  # where relative paths of the config start
    values: Mapping[str, Any]  # the config as plain values, without secrets
    overrides: Sequence[str] = field(default_factory=tuple)  # as the user gave them
    draw_in_process: bool = False  # matplotlib is imported here already
    # writes the run's network for MLflow, and says what MLflow must know of it; None: no MLflow model
    package: Callable[[Path], tuple[Path, dict[str, Any]]] | None = None
