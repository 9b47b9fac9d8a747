"""Runs that are stopped on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwexp.plots import process
from lwexp.tracking import JournalTracker
from tests.experiment.resumed_runs import RUN, only_run
from tests.helpers.commands import RunHere


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Have the training end as a Ctrl-C at once ends it, without a checkpoint, after so many steps; None: go on."""
    real, left = JournalTracker.log, 0

    def stop(steps: int | None) -> None:
        nonlocal left
        left = steps or 10**9

        def log(self: JournalTracker, metrics: Any, step: int, **options: Any) -> None:
            nonlocal left
            real(self, metrics, step, **options)
            left -= "train/loss" in metrics
            if left == 0:
                raise KeyboardInterrupt

        monkeypatch.setattr(JournalTracker, "log", log)

    return stop


@pytest.fixture
def killed(lwexp_here: RunHere, stop_after: Callable[[int | None], None], tmp_path: Path) -> Path:
    """The folder of a run that was stopped after its second step."""
    stop_after(2)
    outcome = lwexp_here("run", *RUN)
    assert outcome.code == 130, outcome.err
    stop_after(None)
    return only_run(tmp_path)
