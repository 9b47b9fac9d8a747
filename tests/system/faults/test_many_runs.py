"""Many runs at once on one store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.faults import stores
from tests.system.faults.stores import SQLite
from tests.system.faults.training import (
    TINY,
    TRACEBACK,
    Launcher,
)
from tests.system.faults.trial import Reference


def at_once(lwexp: Launcher, store: SQLite, reference: Reference, tmp_path: Path, count: int) -> None:
    commands = []
    for number in range(count):
        where = [f"tracking.uri={store.uri}", f"tracking.experiment=at-once-{number}"]
        commands.append(lwexp("run", *TINY, *where, f"hydra.run.dir={tmp_path}/runs/{number}"))
    for command in commands:
        command.succeeded(400)
    late = [number for number in range(count) if stores.only_run(store, f"at-once-{number}").status != "FINISHED"]
    if late:  # the store was too busy for some within tracking.flush_timeout
        print(f"\n{len(late)} of {count} left the rest to lwexp.sync")
        lwexp("sync", *(f"{tmp_path}/runs/{number}" for number in late)).succeeded(400)
    for number in range(count):
        run = stores.only_run(store, f"at-once-{number}")
        assert (run.status, run.missing(reference.rows), run.extra(reference.rows)) == ("FINISHED", [], [])
        assert (run.repeated, run.stale) == (0, [])
    outputs = lwexp.outputs()
    assert "locked" not in outputs, [line for line in outputs.splitlines() if "locked" in line][:3]
    assert TRACEBACK not in outputs


@pytest.mark.slow
def test_4_runs_at_once_on_one_file(lwexp: Launcher, file_store: SQLite, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, file_store, reference, tmp_path, 4)


@pytest.mark.slow
def test_16_runs_at_once_on_one_file(lwexp: Launcher, file_store: SQLite, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, file_store, reference, tmp_path, 16)


@pytest.mark.slow
def test_16_runs_at_once_on_a_file_without_tables(lwexp: Launcher, reference: Reference, tmp_path: Path) -> None:
    at_once(lwexp, SQLite(tmp_path / "new.db"), reference, tmp_path, 16)
