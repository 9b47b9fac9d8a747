"""`python -m lwexp.sync`: what earlier runs could not deliver arrives; what still cannot be is one line."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lwexp.config.schema import NoTrackingConfig
from lwexp.experiment.find import NO_RUNS
from lwexp.sync import main
from lwexp.tracking import start
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.journal import FILE
from tests.helpers.fake_mlflow import FakeMLflow

SECRET = "s3cr3t-Pa55"
NONE = NoTrackingConfig(name="none")
Left = Callable[..., Path]


@pytest.fixture
def server() -> Iterator[FakeMLflow]:
    with FakeMLflow() as fake:
        yield fake


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def left(here: Path) -> Left:
    """Makes the folder of a run that was meant for a store and never delivered to it."""

    def make(folder: str, uri: str = "none", end: Any = "FINISHED", parent: str | None = None) -> Path:
        path = here / folder
        tracker = start(
            NONE, folder=path, run_name=Path(folder).name, params={"lr": 0.1}, tags={}, description="",
            parent=here / parent if parent else None,
        )  # fmt: skip
        for step in range(3):
            tracker.log({"a": float(step), "b": 1.0}, step)
        if end is not None:
            tracker.finish(end)
        else:
            tracker.close()  # as if it had been killed
        content = (path / FILE).read_bytes()
        assert b'"where": "none"' in content
        if uri != "none":  # what a run with this store would have written
            from lwexp.tracking.journal import Journal, Reader

            entries = list(Reader(path / FILE).entries())
            (path / FILE).unlink()
            journal = Journal(path)
            for entry in entries:
                if entry.kind == "rows":
                    journal.rows(dict(zip(entry.value.keys, entry.value.values, strict=True)), entry.value.step)
                elif entry.kind != "keys":
                    journal.write(entry.kind, {**entry.value, **({"where": uri} if entry.kind == "run" else {})})
            journal.close()
        return path

    return make


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def rows_of(run: dict[str, Any]) -> list[tuple[str, int]]:
    return sorted((row["key"], int(row["step"])) for row in run["rows"])


ALL = [(key, step) for key in "ab" for step in range(3)]


def test_nothing_to_do(here: Path, left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr() == (f"{NO_RUNS}\n", "")
    left("outputs/a", server.uri)
    left("outputs/b")  # tracking=none: not to be delivered
    assert main([]) == 0
    capsys.readouterr()
    assert main([]) == 0
    assert capsys.readouterr() == ("nothing is left to deliver (2 runs checked)\n", "")
    assert len(server.runs) == 1


def test_runs_that_were_left_behind_are_delivered(
    left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    left("outputs/done", server.uri)
    left("outputs/deep/down/failed", server.uri, "FAILED")
    left("outputs/killed", server.uri, None)
    assert main([]) == 0
    captured = capsys.readouterr()
    assert sorted(captured.out.splitlines()) == [
        f"done (outputs/done): 6 metric rows delivered to {server.uri}, FINISHED",
        f"failed (outputs/deep/down/failed): 6 metric rows delivered to {server.uri}, FAILED",
        f"killed (outputs/killed): 6 metric rows delivered to {server.uri}, KILLED",
    ]
    assert captured.err == ""
    runs = {run["info"]["run_name"]: run for run in server.runs.values()}
    assert {name: run["info"]["status"] for name, run in runs.items()} == {
        "done": "FINISHED", "failed": "FAILED", "killed": "KILLED",
    }  # fmt: skip
    for run in runs.values():
        assert rows_of(run) == ALL
        assert run["params"] == {"lr": "0.1"}
    assert "died unexpectedly" in runs["killed"]["tags"]["lwexp.reason"]


def test_the_parent_of_a_sweep_comes_before_its_jobs(left: Left, server: FakeMLflow) -> None:
    left("outputs/a_sweep", server.uri, None)
    for job in range(2):
        left(f"outputs/a_sweep/{job}", server.uri, parent="outputs/a_sweep")
    assert main([]) == 0
    runs = {run["info"]["run_name"]: run for run in server.runs.values()}
    assert sorted(runs) == ["0", "1", "a_sweep"]
    for job in "01":
        assert runs[job]["tags"]["mlflow.parentRunId"] == runs["a_sweep"]["info"]["run_id"]
    assert runs["a_sweep"]["info"]["status"] == "KILLED"


def test_a_job_named_alone_brings_its_parent_along(left: Left, server: FakeMLflow) -> None:
    left("outputs/sweep", server.uri)
    left("outputs/sweep/0", server.uri, parent="outputs/sweep")
    assert main(["outputs/sweep/0"]) == 0
    runs = {run["info"]["run_name"]: run for run in server.runs.values()}
    assert runs["0"]["tags"]["mlflow.parentRunId"] == runs["sweep"]["info"]["run_id"]


def test_a_running_run_is_not_delivered(
    here: Path, left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    left("outputs/run", server.uri, None)
    tracker = start(NONE, folder=here / "outputs/run", run_name="", params={}, tags={}, description="")
    assert main(["outputs/run", f"tracking.uri={server.uri}"]) == 0
    assert capsys.readouterr().out == "run (outputs/run): still running, 0 of 6 metric rows delivered so far\n"
    assert server.runs == {}
    tracker.finish("FINISHED")


def test_a_store_that_is_down_is_one_line_for_each_run(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    left("outputs/a", uri)
    left("outputs/b", uri)
    assert main([]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"lwexp-sync: a (outputs/a): 6 metric rows are left: the tracking store {uri} is not")
    assert "refused" in lines[1]


def test_a_store_that_fails_midway_is_one_line_and_the_next_time_has_the_rest(
    left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    left("outputs/run", server.uri)
    server.fail = 503
    assert main(["tracking.flush_timeout=0.1"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("lwexp-sync: run (outputs/run): 6 metric rows are left: ")
    assert captured.err.count("\n") == 1
    server.fail = None
    assert main([]) == 0
    (run,) = server.runs.values()
    assert rows_of(run) == ALL


def test_a_run_without_tracking_is_delivered_on_request(
    left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    left("outputs/run")
    assert main([]) == 0
    assert server.runs == {}
    capsys.readouterr()
    assert main(["outputs/run", f"tracking.uri={server.uri}"]) == 0
    assert capsys.readouterr().out == f"run (outputs/run): 6 metric rows delivered to {server.uri}, FINISHED\n"
    (run,) = server.runs.values()
    assert rows_of(run) == ALL


def test_a_password_that_is_not_kept_is_asked_for_and_the_others_go_on(
    left: Left, server: FakeMLflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = server.uri.replace("http://", "http://anna:***@")
    left("outputs/a", shown)
    left("outputs/b", server.uri)
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"lwexp-sync: tracking.uri={shown}: its password is not kept")
    assert "MLFLOW_TRACKING_URI" in captured.err
    assert captured.err.count("\n") == 1
    assert len(server.runs) == 1

    monkeypatch.setenv("MLFLOW_TRACKING_URI", shown.replace("***", SECRET))
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"a (outputs/a): 6 metric rows delivered to {shown}, FINISHED\n"
    assert len(server.runs) == 2


def test_the_password_of_a_run_is_printed_nowhere(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    left("outputs/a")
    uri = f"http://anna:{SECRET}@127.0.0.1:{closed_port()}"
    assert main(["outputs", f"tracking.uri={uri}"]) == 1
    assert main(["outputs", f"tracking.uri={uri}/?a"]) == 2
    assert main(["outputs", f"tracking.url={uri}"]) == 2
    assert main([f"traking.uri={uri}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 4
    assert SECRET not in captured.out + captured.err


def test_a_run_of_a_local_database_is_delivered_from_another_folder(
    left: Left, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = left("outputs/run", f"sqlite:///{here}/outputs/mlflow.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main([str(folder)]) == 0
    assert "6 metric rows delivered" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []
    client = MlflowClient(tracking_uri=f"sqlite:///{here}/outputs/mlflow.db")
    run = client.get_run(str(read_state(folder).run_id))
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"a": 2.0, "b": 1.0})


def test_twice_at_once_delivers_once(left: Left, server: FakeMLflow, here: Path) -> None:
    for name in "abc":
        left(f"outputs/{name}", server.uri)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(main([]))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(codes) == 2
    assert main([]) == 0
    assert len(server.runs) == 3
    for run in server.runs.values():
        assert rows_of(run) == ALL
        assert run["info"]["status"] == "FINISHED"


def test_damage_is_reported_and_costs_no_other_run(
    left: Left, server: FakeMLflow, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, word in {"a": b'"id"', "b": b'"names"'}.items():
        path = left(f"outputs/{name}", server.uri) / FILE
        content = bytearray(path.read_bytes())
        content[content.index(word)] ^= 1
        path.write_bytes(content)
    shutil.copytree(left("outputs/c", server.uri), here / "outputs" / "empty")
    (here / "outputs" / "empty" / FILE).write_bytes(b"lwexp")  # killed before its first record
    (here / "outputs" / "d").mkdir()
    (here / "outputs" / "d" / FILE).write_bytes(b"notes of mine")
    assert main([]) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert "outputs/a/journal.lwexp: the record that names the run is damaged; 6 metric rows" in lines[0]
    assert "outputs/d/journal.lwexp" in lines[1]
    assert "is not a metrics journal" in lines[1]
    damaged, whole = captured.out.splitlines()
    assert damaged.startswith(f"b (outputs/b): 0 metric rows delivered to {server.uri}, FINISHED, ")
    assert re.search(r", skipped \d+ damaged bytes of its journal$", damaged)
    assert whole == f"c (outputs/c): 6 metric rows delivered to {server.uri}, FINISHED"


MISTAKES = {
    "nowhere": "folder=nowhere: there is no such folder; did you mean nowhere2?",
    "nowhere2": "folder=nowhere2: holds no run's journal",
    "tracking.urj=x": "did you mean tracking.uri",
    "tracking.experiment=x": "tracking.experiment=x: unknown option",
    "tracking.timeout=soon": "tracking.timeout=soon: must be a number",
    "tracking.flush_timeout=0": "must be above 0",
    "--foo": "unrecognized arguments: --foo",
    "lr=0.1": "lr=0.1: unknown option",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_with_exit_code_2(
    arguments: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "nowhere2").mkdir()
    assert main([arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lwexp-sync: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_wrong_address_is_a_mistake(left: Left, capsys: pytest.CaptureFixture[str]) -> None:
    left("outputs/a")
    assert main(["outputs/a", "tracking.uri=foo://x"]) == 2
    assert "no such kind of store" in capsys.readouterr().err
