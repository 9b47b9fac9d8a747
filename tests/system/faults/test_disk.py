"""A full disk: the run stops with one clear line, and what was whole before stays whole."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.system.faults import stores
from tests.system.faults.disk import fill, small_disk
from tests.system.faults.stores import SQLite
from tests.system.faults.training import TINY, TRACEBACK, Command, Launcher, delivery_processes, until, weights

WIDE = (*TINY, "model.hidden_size=32")  # a checkpoint has some 200 kB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB for the run's folder; the store is elsewhere."""
    try:
        with small_disk(tmp_path / "disk", 12) as disk:
            yield disk
            for pid in delivery_processes(disk):
                until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20, "the delivery process to end")
    except PermissionError as error:
        pytest.skip(str(error))


def run(lwexp: Launcher, store: SQLite, folder: Path, *more: str, **environment: object) -> Command:
    where = [f"tracking.uri={store.uri}", "tracking.experiment=disk", f"hydra.run.dir={folder}"]
    return lwexp("run", *WIDE, *where, *more, environment=environment)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in a run's folder."""
    return max((folder / "checkpoints").glob("*.ckpt"), default=None)


def stopped_clearly(command: Command, folder: Path) -> str:
    """The line that says why the command ended; it ended with code 1 and no traceback."""
    assert command.wait(60) == 1, command.text
    assert TRACEBACK not in command.text
    (line,) = [line for line in command.err.splitlines() if line.startswith("error:")]
    assert "space" in line.lower() or "full" in line.lower(), line
    assert str(folder) in line, line
    return line


@pytest.mark.parametrize("while_it", ["journals", pytest.param("saves_a_checkpoint", marks=pytest.mark.slow)])
def test_a_full_disk_stops_the_run_and_spoils_nothing(
    lwexp: Launcher, file_store: SQLite, empty_file: Path, disk: Path, tmp_path: Path, while_it: str
) -> None:
    folder = disk / "run"
    every = {"journals": 100, "saves_a_checkpoint": 10}[while_it]
    # the last of the journal's pages takes some more steps, so the journal meets the end of the disk between two
    # checkpoints; a checkpoint finds too little room where some is left
    room = {"journals": 0, "saves_a_checkpoint": 1 << 16}[while_it]
    batch = {"journals": 8, "saves_a_checkpoint": 64}[while_it]  # 157 steps an epoch, or 19: its end writes too
    options = [f"checkpoint.every_steps={every}", "checkpoint.every_minutes=null", f"batch_size={batch}", "epochs=3"]

    command = run(lwexp, file_store, folder, *options, FAULTS_STEP_SECONDS=0.01)
    until(lambda: newest(folder) or command.code is not None, 60, "the first checkpoint")
    ballast = fill(disk, room)
    line = stopped_clearly(command, folder)
    print(f"\n{line}")

    kept = newest(folder)
    assert kept is not None
    with zipfile.ZipFile(kept) as archive:
        assert archive.testzip() is None
    assert torch.load(kept, weights_only=True)

    reference = SQLite(Path(shutil.copy(empty_file, tmp_path / "reference.db")))
    run(lwexp, reference, tmp_path / "reference", *options).succeeded()
    expected = stores.only_run(reference, "disk").rows

    def intact() -> stores.Run:
        found = stores.only_run(file_store, "disk")
        assert found.extra(expected) == []
        assert all(expected[place] == value for place, value in found.rows.items())
        assert found.repeated == 0
        return found

    delivered = intact().rows
    assert delivered
    ballast.unlink()
    lwexp("run", f"resume={folder}").succeeded()
    whole = intact()
    assert delivered.items() <= whole.rows.items()
    assert (whole.missing(expected), whole.status, whole.stale) == ([], "FINISHED", [])
    assert weights(folder) == weights(tmp_path / "reference")
    kept_steps = {path.stem for path in (folder / "checkpoints").glob("*.ckpt")}
    assert {path.name.partition(".")[0] for path in (folder / "checkpoints").iterdir()} == kept_steps, "leftovers"


def test_a_disk_that_is_full_from_the_start_refuses_the_run(lwexp: Launcher, file_store: SQLite, disk: Path) -> None:
    (disk / "run").mkdir()
    ballast = fill(disk)
    command = run(lwexp, file_store, disk / "run")
    stopped_clearly(command, disk)
    ballast.unlink()
    run(lwexp, file_store, disk / "run", "resume=auto").succeeded()
    found = [each for each in stores.runs(file_store, "disk") if each.status == "FINISHED"]
    assert len(found) == 1
