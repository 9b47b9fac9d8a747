"""An artifact that its storage does not take: rows and end go on, it is told, and `lwexp.sync` tries again."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from lwexp.sync import main
from lwexp.tracking.artifacts import is_refusal
from lwexp.tracking.delivery_state import read_state
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import begin_in, mlflow_config


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("status", [403, 413])
def test_rows_and_end_go_on_and_sync_tries_again(
    status: int, server: FakeMLflow, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    server.fail_artifacts = status
    tracker = begin_in(mlflow_config(server.uri), Path("outputs/run"))
    for step, name in enumerate(("config.yaml", "best.safetensors")):
        Path("outputs/run", name).write_text(name)
        tracker.artifact(Path("outputs/run", name))
        tracker.log({"a": 1.0}, step)
    tracker.finish("FINISHED")
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"]] == [0, 1]
    assert run["info"]["status"] == "FINISHED"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 2
    for line, name in zip(sorted(lines), ("best.safetensors", "config.yaml"), strict=True):
        assert line.startswith(f"run run: {name} could not be kept with it in {server.uri}: ")
        assert str(status) in line
        assert line.endswith("to try again: python -m lwexp.sync outputs/run")

    assert main([]) == 1, "it still refuses"
    assert capsys.readouterr().err.count(" was not delivered: ") == 2
    server.fail_artifacts = None
    assert main([]) == 0
    assert server.artifacts == {"config.yaml": b"config.yaml", "best.safetensors": b"best.safetensors"}
    assert read_state(Path("outputs/run")).not_kept == {}
    assert [row["step"] for row in run["rows"]] == [0, 1], "and nothing twice"
    capsys.readouterr()
    assert main([]) == 0
    assert capsys.readouterr().out == "nothing is left to deliver (1 runs checked)\n"


def test_a_storage_that_is_well_again_at_the_end_has_all(server: FakeMLflow, caplog: pytest.LogCaptureFixture) -> None:
    server.fail_artifacts = 403
    tracker = begin_in(mlflow_config(server.uri), Path("run"))
    Path("run", "a.txt").write_text("a")
    tracker.artifact(Path("run", "a.txt"))
    tracker.log({"a": 1.0}, 0)
    while not read_state(Path("run")).not_kept:
        tracker.log({"b": 1.0}, 1)
    server.fail_artifacts = None
    tracker.finish("FINISHED")
    assert server.artifacts == {"a.txt": b"a"}
    assert caplog.messages == []


def test_a_file_that_is_gone_is_told_once(server: FakeMLflow, capsys: pytest.CaptureFixture[str]) -> None:
    server.fail_artifacts = 403
    tracker = begin_in(mlflow_config(server.uri), Path("outputs/run"))
    Path("outputs/run/a.txt").write_text("a")
    tracker.artifact(Path("outputs/run/a.txt"))
    tracker.finish("FINISHED")
    Path("outputs/run/a.txt").unlink()
    assert main([]) == 0
    assert capsys.readouterr().out == "nothing is left to deliver (1 runs checked)\n"


@pytest.mark.parametrize(("error", "refused"), [
    (SimpleNamespace(response=SimpleNamespace(status_code=403)), True),  # requests
    (SimpleNamespace(response=SimpleNamespace(status_code=429)), False),
    (SimpleNamespace(response=SimpleNamespace(status_code=503)), False),
    (SimpleNamespace(response={"ResponseMetadata": {"HTTPStatusCode": 403}}), True),  # botocore
    (SimpleNamespace(response={"ResponseMetadata": {"HTTPStatusCode": 500}}), False),
    (SimpleNamespace(status_code=413), True),  # azure
    (SimpleNamespace(code=404), True),  # google
    (SimpleNamespace(code="AccessDenied"), False),
    (SimpleNamespace(), False),
])  # fmt: skip
def test_what_counts_as_a_refusal(error: SimpleNamespace, refused: bool) -> None:
    cause = OSError("upload failed")
    vars(cause).update(vars(error))
    assert is_refusal(cause) is refused
    outer = RuntimeError("wrapped")
    outer.__cause__ = cause
    assert is_refusal(outer) is refused
