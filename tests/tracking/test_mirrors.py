"""TensorBoard and W&B have what the journal has, alone or beside MLflow, through interruptions."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwexp.config.schema import MLflowConfig, NoTrackingConfig, TensorBoardConfig, WandbConfig
from lwexp.errors import ConfigError, RunError
from lwexp.host.lock import Lock
from lwexp.sync import main as sync
from lwexp.tracking import JournalTracker, mirror, prepare, start
from lwexp.tracking.delivery import RUN_LOCK
from lwexp.tracking.delivery_client import courier
from lwexp.tracking.journal import FILE, Reader, Rows
from lwexp.tracking.mirror import Mirror, MirrorState, read_mirror, state_file
from lwexp.tracking.redelivery import read_run
from tests.helpers.commands import RunHere
from tests.helpers.tracked_runs import steps, until

TENSORBOARD = NoTrackingConfig(tensorboard=TensorBoardConfig(), flush_timeout=60.0)
WANDB = NoTrackingConfig(wandb=WandbConfig(project="lwexp", entity=None, mode="offline"), flush_timeout=60.0)
Point = tuple[str, int, float]


def begin(config: MLflowConfig | NoTrackingConfig, folder: Path) -> JournalTracker:
    params = {"lr": "0.1", "model.name": "resnet18"}
    return start(config, folder=folder, run_name="a/b mult=0.9", params=params, tags={}, description="the **plan**")


def log(tracker: JournalTracker, first: int, last: int) -> None:
    for step in range(first, last):
        tracker.log({"train/loss": 1 / (step + 1), "lr/00_fc": 0.1, "lr/01_conv1": 0.01}, step)


def in_journal(folder: Path) -> list[Point]:
    rows = [entry.value for entry in Reader(folder / FILE).entries() if entry.kind == "rows"]
    return [(key, row.step, value) for row in rows for key, value in zip(row.keys, row.values, strict=True)]


def in_tensorboard(folder: Path) -> list[Point]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = (folder / "tensorboard").rglob("*tfevents*")
    events = [event for path in files for event in LegacyEventFileLoader(str(path)).Load()]
    values = [(v, e.step) for e in events if e.HasField("summary") for v in e.summary.value]
    return [(v.tag, step, v.simple_value) for v, step in values if v.WhichOneof("value") == "simple_value"]


def in_wandb(folder: Path) -> list[Point]:
    from wandb.proto import wandb_internal_pb2

    points = []
    for path in (folder / "wandb").glob("offline-run-*/*.wandb"):
        for content in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                row = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                step = int(float(row["step"]))
                points += [(key, step, float(value)) for key, value in row.items() if "/" in key]
    return points


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, parts with CRCs. W&B's file is one after a header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768  # the rest of a block holds no part
            continue
        length, kind = struct.unpack_from("<4xHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def rounded(points: list[Point]) -> Counter[Point]:
    """TensorBoard keeps 32 bits."""
    return Counter((key, step, round(value, 6)) for key, step, value in points)


@pytest.mark.parametrize(("config", "there"), [(TENSORBOARD, in_tensorboard), (WANDB, in_wandb)], ids=["tb", "wandb"])
def test_a_mirror_alone_has_each_row_of_the_journal_once(config: NoTrackingConfig, there: Any, tmp_path: Path) -> None:
    tracker = begin(config, tmp_path / "run")
    log(tracker, 0, 50)
    tracker.finish("FINISHED")
    found = rounded(there(tmp_path / "run"))
    assert found == rounded(in_journal(tmp_path / "run"))
    assert found.total() == 150


class Slow:
    """A writer that has its rows in a buffer until it is closed, as W&B's own process may; the first close fails."""

    where = "somewhere"

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept, self.buffer, self.closes = folder, [], [], 0
        self.positions: list[int] = []  # the saved ones, as each close began

    def rows(self, rows: Rows) -> None:
        self.buffer.append(rows.step)

    def tags(self, tags: Any) -> None: ...

    def image(self, name: str, path: Path) -> None: ...

    def flush(self) -> None: ...

    def close(self, status: str | None) -> None:
        self.positions.append(read_mirror(self.folder, "wandb").position)
        self.closes += 1
        if self.closes == 1:
            self.buffer = []
            raise RunError("the disk is full")
        self.kept += self.buffer


def test_a_mirror_is_complete_once_the_tool_has_closed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = begin(NoTrackingConfig(), tmp_path / "run")
    log(tracker, 0, 5)
    tracker.finish("FINISHED")
    (length,) = [run.length for run in [read_run(tmp_path / "run" / FILE)] if run is not None]
    writer = Slow(tmp_path / "run")
    monkeypatch.setattr(mirror, "_open", lambda *args, **options: writer)
    written = Mirror(tmp_path / "run", "wandb", {}, RUN_LOCK)
    with pytest.raises(RunError) as failed:
        written.run()
    written.fail(failed.value)
    assert read_mirror(tmp_path / "run", "wandb") == MirrorState(problem="the disk is full")
    Mirror(tmp_path / "run", "wandb", {}, RUN_LOCK).run()
    assert max(writer.positions) < length
    assert writer.kept == [0, 1, 2, 3, 4]
    state = read_mirror(tmp_path / "run", "wandb")
    assert (state.position, state.rows, state.status, state.problem) == (length, 15, "FINISHED", None)


def test_tensorboard_beside_mlflow_has_the_same(store: MLflowConfig, tmp_path: Path) -> None:
    tracker = begin(store.model_copy(update={"tensorboard": TensorBoardConfig()}), tmp_path / "run")
    log(tracker, 0, 20)
    tracker.finish("FINISHED")
    assert steps(store, str(tracker.run_id), "train/loss") == [*range(20)]
    assert rounded(in_tensorboard(tmp_path / "run")) == rounded(in_journal(tmp_path / "run"))


def test_rows_arrive_while_the_run_continues(tmp_path: Path) -> None:
    tracker = begin(TENSORBOARD, tmp_path / "run")
    log(tracker, 0, 5)
    until(lambda: len(in_tensorboard(tmp_path / "run")) == 15)
    tracker.finish("FINISHED")


def test_tensorboard_has_params_plan_pictures_and_status(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

    tracker = begin(TENSORBOARD, tmp_path / "run")
    Image.new("RGB", (30, 20)).save(tmp_path / "run" / "rates.png")
    tracker.artifact(tmp_path / "run" / "rates.png")
    tracker.finish("FAILED", "a reason")
    (folder,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert folder.name == "a_b mult=0.9"
    found = EventAccumulator(str(folder)).Reload()
    assert found.Tags()["images"] == ["rates"]
    assert b"the **plan**" in found.Tensors("plan")[0].tensor_proto.string_val[0]
    sent = found.summary_metadata
    begun, ended = (
        plugin_data_pb2.HParamsPluginData.FromString(sent[f"_hparams_/session_{name}_info"].plugin_data.content)
        for name in ("start", "end")
    )
    assert begun.session_start_info.hparams["lr"].number_value == 0.1
    assert begun.session_start_info.hparams["model.name"].string_value == "resnet18"
    assert ended.session_end_info.status == api_pb2.STATUS_FAILURE


def test_a_killed_delivery_process_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "restart_seconds", 0.1)
    tracker = begin(TENSORBOARD, tmp_path / "run")
    log(tracker, 0, 30)
    until(lambda: bool(in_tensorboard(tmp_path / "run")))
    assert courier._process is not None
    os.kill(courier._process.pid, signal.SIGKILL)
    log(tracker, 30, 60)
    tracker.finish("FINISHED")
    found, journal = rounded(in_tensorboard(tmp_path / "run")), rounded(in_journal(tmp_path / "run"))
    assert found.keys() == journal.keys()  # some may be there twice


def test_a_run_whose_process_died_is_resumed_or_completed_by_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = begin(NoTrackingConfig(), tmp_path / "run")
    log(tracker, 0, 10)
    tracker.close()  # as if it had been killed
    tracker = begin(TENSORBOARD, tmp_path / "run")  # resumed with TensorBoard, which gets everything
    log(tracker, 5, 20)
    tracker.finish("FINISHED")
    assert rounded(in_tensorboard(tmp_path / "run")) == rounded(in_journal(tmp_path / "run"))
    assert sorted(step for key, step, _ in in_tensorboard(tmp_path / "run") if key == "train/loss") == [*range(20)]

    (tmp_path / "run" / state_file("tensorboard")).unlink()
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    assert sync([str(tmp_path / "run")]) == 0
    assert "TensorBoard has 60 metric rows: tensorboard --logdir ." in capsys.readouterr().out
    assert rounded(in_tensorboard(tmp_path / "run")) == rounded(in_journal(tmp_path / "run"))
    assert sync([str(tmp_path / "run")]) == 0
    assert "nothing is left to deliver" in capsys.readouterr().out


def test_a_copy_of_a_run_has_its_own_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = begin(TENSORBOARD, tmp_path / "run")
    log(tracker, 0, 5)
    tracker.finish("KILLED")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "copy" / state_file("tensorboard")).unlink()
    assert sync([str(tmp_path / "copy")]) == 0
    assert "nothing is left to deliver" in capsys.readouterr().out, "the original's"
    tracker = begin(TENSORBOARD, tmp_path / "copy")
    log(tracker, 5, 8)
    tracker.finish("FINISHED")
    assert sorted(step for key, step, _ in in_tensorboard(tmp_path / "copy") if key == "train/loss") == [*range(8)]
    assert {step for _, step, _ in in_tensorboard(tmp_path / "run")} == {*range(5)}


def test_sync_says_that_another_process_writes_a_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mirror, "_LOCK_SECONDS", 0.1)
    tracker = begin(TENSORBOARD, tmp_path / "run")
    log(tracker, 0, 5)
    tracker.finish("FINISHED")
    with Lock(tmp_path / "run" / mirror.lock_file("tensorboard")) as lock:
        assert lock.acquire(10)
        (tmp_path / "run" / state_file("tensorboard")).unlink()  # with the lock: the delivery process may still come
        assert sync([str(tmp_path / "run")]) == 1
    said = capsys.readouterr()
    assert said.err.endswith("TensorBoard: another process is writing it\n")
    assert not said.out


def test_a_killed_run_has_its_end_in_both_after_one_sync(store: MLflowConfig, tmp_path: Path) -> None:
    tracker = begin(store.model_copy(update={"tensorboard": TensorBoardConfig()}), tmp_path / "run")
    log(tracker, 0, 5)
    tracker.close()  # as if it had been killed
    (tmp_path / "run" / state_file("tensorboard")).unlink()
    assert sync([f"tracking.uri={store.uri}", str(tmp_path / "run")]) == 0
    (run,) = [read_run(tmp_path / "run" / FILE)]
    assert run is not None
    assert read_mirror(tmp_path / "run", "tensorboard").position == run.length


def test_a_mirror_that_cannot_write_stops_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    caplog.set_level("INFO")
    tracker = begin(TENSORBOARD, tmp_path / "run")
    log(tracker, 0, 5)
    tracker.finish("FINISHED")
    assert "15 of 15 metric rows not written to TensorBoard (tensorboard in the run's folder is a link" in caplog.text
    assert not [*(tmp_path / "elsewhere").iterdir()]
    assert sync([str(tmp_path / "run")]) == 1
    assert "TensorBoard: tensorboard in the run's folder is a link to another place" in capsys.readouterr().err
    (tmp_path / "run" / "tensorboard").unlink()
    assert sync([str(tmp_path / "run")]) == 0
    assert rounded(in_tensorboard(tmp_path / "run")) == rounded(in_journal(tmp_path / "run"))


def test_wandb_online_without_a_key_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_LWEXP_TEST", "1")  # so that a new delivery process starts, with this environment
    online = NoTrackingConfig(wandb=WandbConfig(project="p", entity=None, mode="online"), flush_timeout=60.0)
    tracker = begin(online, tmp_path / "run")
    log(tracker, 0, 2)
    until(lambda: read_mirror(tmp_path / "run", "wandb").problem is not None)
    tracker.finish("FINISHED")
    problem = str(read_mirror(tmp_path / "run", "wandb").problem)
    assert "tracking.wandb.mode=offline keeps the run in its folder" in problem
    assert "\n" not in problem


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracking=wandb: needs the package wandb: pip install 'lwexp\[wandb\]'"):
        prepare(WANDB)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["tracking=[mlflow,tensorbord]"], "tracking=tensorbord: no such choice; did you mean tensorboard?"),
        (
            ["tracking=wandb", "tracking.wandb.mode=offlin"],
            "tracking.wandb.mode=offlin: should be 'online'",
        ),
        (["tracking=tensorboard", "tracking.uri=x"], "tracking.uri=x: unknown option"),
    ],
    ids=["choice", "mode", "option"],
)
def test_a_mistake_is_one_line(lwexp_here: RunHere, arguments: list[str], line: str) -> None:
    outcome = lwexp_here("run", "model=lstm", *arguments)
    assert outcome.code == 2
    assert line in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_the_command_records_in_both(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", "model=lstm", "tracking=[mlflow,tensorboard]", "max_steps=3", "tracking.rates_every=2")
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert "TensorBoard has" in outcome.out
    assert "tensorboard --logdir outputs/runs" in outcome.out
    found = in_tensorboard(folder)
    assert sorted(step for key, step, _ in found if key == "lr/00_head") == [0, 2]
    assert rounded(found) == rounded(in_journal(folder))
