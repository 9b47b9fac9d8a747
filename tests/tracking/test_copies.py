"""A copied folder becomes a run of its own; a moved one remains the run; an MLflow run has one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.sync import main as sync
from lwexp.tracking import original_of, run_status
from lwexp.tracking.journal import FILE, Reader
from lwexp.tracking.journal import rewrite_run as rewrite
from tests.helpers.tracked_runs import NONE, Begin, begin_in, reader, steps


def ended(begin: Begin, **options: str) -> str:
    """The MLflow id of a run of three steps in the folder `run`."""
    tracker = begin(folder="run", **options)
    for step in range(3):
        tracker.log({"a": float(step)}, step)
    tracker.finish("KILLED")
    return str(tracker.run_id)


def test_a_copy_is_resumed_as_a_new_run_with_all_that_was_recorded(
    begin: Begin, store: MLflowConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ended(begin)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert original_of(tmp_path / "copy") == tmp_path / "run"
    tracker = begin(folder="copy")
    assert f"{tmp_path}/copy is a copy of {tmp_path}/run, which is still there" in caplog.text
    tracker.log({"a": 9.0}, 3)
    tracker.finish("FINISHED")
    assert tracker.run_id not in (None, first)
    assert steps(store, tracker.run_id, "a") == [0, 1, 2, 3]
    assert steps(store, first, "a") == [0, 1, 2]
    client = reader(store)
    assert client.get_run(str(tracker.run_id)).data.tags["lwexp.copy_of"] == first
    assert (client.get_run(first).info.status, client.get_run(str(tracker.run_id)).info.status) == (
        "KILLED",
        "FINISHED",
    )
    assert original_of(tmp_path / "copy") is None, "it is a run of its own from now on"
    begin(folder="copy").finish("FINISHED")
    assert len(client.search_runs([client.get_run(first).info.experiment_id])) == 2


def test_the_original_goes_on_as_the_same_run_while_its_copy_does(
    begin: Begin, store: MLflowConfig, tmp_path: Path
) -> None:
    tracker = begin(folder="run")
    tracker.log({"a": 0.0}, 0)
    tracker.position()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    other = begin(folder="copy")
    for each in (tracker, other):
        each.log({"a": 1.0}, 1)
        each.finish("FINISHED")
    assert tracker.run_id != other.run_id
    for each in (tracker, other):
        assert steps(store, each.run_id, "a") == [0, 1]


@pytest.mark.parametrize("move", [
    lambda run, to: run.rename(to),
    lambda run, to: (shutil.copytree(run, to), shutil.rmtree(run)),  # to another disk
    lambda run, to: (run.rename(to), run.mkdir(), (run / "other").touch()),
    lambda run, to: (run.rename(to), run.symlink_to(to)),
])  # fmt: skip
def test_a_moved_folder_remains_the_run(
    move: Callable[[Path, Path], object], begin: Begin, store: MLflowConfig, tmp_path: Path
) -> None:
    first = ended(begin)
    move(tmp_path / "run", tmp_path / "moved")
    tracker = begin(folder="moved")
    tracker.log({"a": 3.0}, 3)
    tracker.finish("FINISHED")
    assert tracker.run_id == first
    assert steps(store, first, "a") == [0, 1, 2, 3]


def test_a_copy_of_a_moved_and_resumed_folder_is_a_copy_of_where_it_is_now(begin: Begin, tmp_path: Path) -> None:
    ended(begin)
    (tmp_path / "run").rename(tmp_path / "moved")
    begin(folder="moved").finish("KILLED")
    shutil.copytree(tmp_path / "moved", tmp_path / "copy")
    assert original_of(tmp_path / "copy") == tmp_path / "moved"
    shutil.rmtree(tmp_path / "moved")
    assert original_of(tmp_path / "copy") is None


def test_a_run_of_before_is_recognized_by_its_tag(begin: Begin, tmp_path: Path) -> None:
    ended(begin, tags={"lwexp.folder": str(tmp_path / "run")})  # type: ignore[arg-type]
    rewrite(tmp_path / "run", lambda record: {key: value for key, value in record.items() if key != "folder"})
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert original_of(tmp_path / "copy") == tmp_path / "run"
    assert original_of(tmp_path / "run") is None


def test_a_copied_job_that_left_its_sweep_has_no_parent(tmp_path: Path) -> None:
    begin_in(NONE, tmp_path / "sweep").close()
    begin_in(NONE, tmp_path / "sweep" / "0", parent=tmp_path / "sweep").finish("KILLED")
    for target, parent in (("alone", None), ("whole/0", "..")):
        source = tmp_path / "sweep" / ("0" if target == "alone" else ".")
        shutil.copytree(source, tmp_path / target.partition("/")[0])
        begin_in(NONE, tmp_path / target).finish("FINISHED")
        record = next(entry.value for entry in Reader(tmp_path / target / FILE).entries() if entry.kind == "run")
        assert record["parent"] == parent
        assert run_status(tmp_path / target) == "FINISHED"


def test_sync_leaves_a_copy_of_a_running_run_alone(
    begin: Begin, store: MLflowConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = begin(folder="run")
    tracker.log({"a": 0.0}, 0)
    # a process that closes a second descriptor of its lock's file frees the lock
    shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock"))
    assert sync([str(tmp_path / "copy"), f"tracking.uri={store.uri}"]) == 0
    assert f"a copy of {tmp_path}/run, which delivers this run" in capsys.readouterr().out
    assert reader(store).get_run(str(tracker.run_id)).info.status == "RUNNING"
    assert run_status(tmp_path / "copy") is None


def test_a_kill_between_the_two_changes_of_a_copy_leaves_a_copy(begin: Begin, tmp_path: Path) -> None:
    first = ended(begin)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "delivery.json").read_text())["run_id"] == first
    (tmp_path / "copy" / "delivery.json").unlink()
    tracker = begin(folder="copy")
    tracker.finish("FINISHED")
    assert tracker.run_id != first
