from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.tracking import resolve_uri, start
from lwexp.ui import main

SECRET = "s3cr3t-Pa55"


def children(pid: int) -> list[int]:
    """Processes below `pid`, its children's children included; empty where the system has no /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name_end = stat.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(name_end[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [below for child in found for below in children(child)]


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """The part of a line of the process's output that `pattern` finds; fails when the output ends first."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if match := re.search(pattern, line):
            return match[0]
    errors = process.stderr.read() if process.stderr is not None else ""
    raise AssertionError(f"no line with {pattern!r} in {seen}, errors: {errors}")


@pytest.fixture
def odd_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name means something else inside an address; no store is in the environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "My%20Project #1+ü?"


def test_the_page_answers_takes_runs_and_ends_with_its_server_on_ctrl_c(odd_folder: Path) -> None:
    store = MLflowConfig(
        name="mlflow",
        uri=None,
        experiment="lwexp",
        timeout=8.0,
        flush_timeout=10.0,
        rates_every=1,
    )
    record = {"tags": {}, "description": ""}
    start(store, folder=odd_folder / "a", base=odd_folder, run_name="local", params={}, **record).finish("FINISHED")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "lwexp.ui"]
    process = subprocess.Popen(
        command, cwd=odd_folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        link = read_until(process, r"http://\S+")
        server, _, fragment = link.partition("/#")
        assert re.fullmatch(r"http://127\.0\.0\.1:5\d\d\d", server)
        assert fragment == "/experiments/1/runs?workflowType=machine_learning"
        with urllib.request.urlopen(server, timeout=30) as page:
            assert b"<title>MLflow</title>" in page.read()
        if sys.platform == "linux":  # 127.0.0.2 is this machine too: what listens beyond 127.0.0.1 answers there
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(server.replace("127.0.0.1", "127.0.0.2"), timeout=5)

        # the same server takes a run over HTTP, and its own command only prints the link
        remote = MLflowConfig(
            name="mlflow", uri=server, experiment="lwexp", timeout=8.0, flush_timeout=10.0, rates_every=1
        )
        tracker = start(remote, folder=odd_folder / "b", run_name="remote", params={"lr": 0.1}, **record)
        for step in range(1500):
            tracker.log({"lr/00_fc": 0.1, "train/loss": float("nan")}, step)
        (odd_folder / "config.yaml").write_text("lr: 0.1")
        tracker.artifact(odd_folder / "config.yaml", "folder")
        tracker.finish("FINISHED")
        assert (odd_folder / "outputs/mlartifacts" / str(tracker.run_id) / "artifacts/folder/config.yaml").is_file()
        remote_command = [*command, f"tracking.uri={server}"]
        printed = subprocess.run(remote_command, cwd=odd_folder, capture_output=True, text=True, check=True, timeout=60)
        run = f"{server}/#/experiments/1/runs/{tracker.run_id}?workflowType=machine_learning"
        assert printed.stdout == f"MLflow: {link}\nnewest run: {run}\n"
        mistyped = [*remote_command, "tracking.experiment=lwex"]
        refused = subprocess.run(mistyped, cwd=odd_folder, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 2
        assert refused.stderr == "lwexp-ui: tracking.experiment=lwex: not in this store; did you mean lwexp?\n"

        server_processes = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
    left = [pid for pid in server_processes if Path(f"/proc/{pid}").exists()]
    assert left == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server, timeout=5)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=resolve_uri(store, odd_folder))
    run = client.get_run(str(tracker.run_id))
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "remote", {"lr": "0.1"})
    rows = client.get_metric_history(str(tracker.run_id), "lr/00_fc")
    assert sorted(row.step for row in rows) == list(range(1500))


def test_a_server_that_is_killed_with_its_parent_is_not_left_behind(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent has died")
    (tmp_path / "mlflow.db").touch()  # an empty file is an empty database
    command = [sys.executable, "-m", "lwexp.ui", "tracking.uri=sqlite:///mlflow.db"]
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_until(process, "starting MLflow")
    deadline = time.monotonic() + 30
    while not (started := children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the child tells the system in its first line
    process.kill()
    process.communicate()
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started
    assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []


MISTAKES = {
    "--foo": "unrecognized arguments: --foo",
    "--port": "expected one argument",
    "--port abc": "--port=abc: must be a number",
    "--port 0": "--port=0: must be from 1 to 65535",
    "lr=0.1": "lr=0.1: unknown option",
    "tracking.urj=x": "did you mean tracking.uri",
    "tracking.experiment": "written tracking.uri=…",
    "tracking.timeout=soon": "tracking.timeout=soon: must be a number",
    "tracking.timeout=0": "must be above 0",
    "tracking.uri=foo://x": "no such kind of store",
    f"tracking.uri=http://anna:{SECRET}@host:abc": "http://anna:***@host:abc: the port",
    "tracking.uri=sqlite:///nowhere/mlflow.db": "no run has been tracked there yet",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_with_exit_code_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lwexp-ui: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert SECRET not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["tracking.uri=sqlite:///mlflow.db", "--port", str(port)]) == 2
    assert f"--port={port}: cannot be used: Address already in use" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_a_failure_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert main([f"tracking.uri=http://127.0.0.1:{port}"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "is not available" in captured.err
