from __future__ import annotations

import logging
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name
from omegaconf import OmegaConf

from lwexp.config import MLflowConfig, NoTrackingConfig
from lwexp.errors import ConfigError, RunError
from lwexp.tracking import (
    NoTracker,
    Tracker,
    check_store,
    end_parent,
    open_hint,
    redact,
    resolve_uri,
    safe_key,
    safe_keys,
    start,
    start_parent,
)
from lwexp.tracking import contact as mlflow_contact
from lwexp.tracking import tracker as mlflow_tracker
from lwexp.tracking.keys import MAX_PARAM, MAX_TAG

SECRET = "s3cr3t-Pa55"


def mlflow_config(uri: str | None, experiment: str = "lwexp", timeout: float = 8.0) -> MLflowConfig:
    return MLflowConfig(name="mlflow", uri=uri, experiment=experiment, timeout=timeout, flush_timeout=10.0)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    start(mlflow_config(f"sqlite:///{path}"), run_name="first", params={}, tags={}, description="").finish("FINISHED")
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> MLflowConfig:
    """A store of the test's own, with one run in experiment lwexp."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return mlflow_config(f"sqlite:///{tmp_path}/outputs/mlflow.db", experiment="mine")


@pytest.fixture
def begin(store: MLflowConfig) -> Iterator[Callable[..., Tracker]]:
    """Starts runs in `store`, and ends those that a test leaves open."""
    begun: list[Tracker] = []

    def begin_run(**changes: Any) -> Tracker:
        given = {"run_name": "run", "params": {}, "tags": {}, "description": "", **changes}
        begun.append(start(store, **given))
        return begun[-1]

    yield begin_run
    for tracker in begun:
        tracker.finish("FAILED")


def reader(config: MLflowConfig) -> MlflowClient:
    return MlflowClient(tracking_uri=config.uri)


def statement(config: MLflowConfig, sql: str) -> None:
    """Run `sql` on the store's file, past MLflow."""
    assert config.uri is not None
    connection = sqlite3.connect(config.uri.removeprefix("sqlite:///"), timeout=20)
    with connection:
        connection.execute(sql)
    connection.close()


# ---------------------------------------------------------------------------------------------------------- delivery


def test_every_row_arrives_exactly_once_with_its_step_time_and_value(
    begin: Callable[..., Tracker], store: MLflowConfig
) -> None:
    names = [f"lr/{index:02d}_group.{index}" for index in range(70)]
    tracker = begin()
    before = time.time_ns() // 1_000_000
    for step in range(100):
        tracker.log({name: step + index / 100 for index, name in enumerate(names)}, step)
    after = time.time_ns() // 1_000_000
    tracker.finish("FINISHED")

    client = reader(store)
    for index, name in enumerate(names):
        rows = client.get_metric_history(tracker.run_id, name)
        assert sorted((row.step, row.value) for row in rows) == [(step, step + index / 100) for step in range(100)]
        times = [row.timestamp for row in sorted(rows, key=lambda row: row.step)]
        assert times == sorted(times)
        assert before <= times[0] <= times[-1] <= after


def test_rows_arrive_while_the_run_goes_on(begin: Callable[..., Tracker], store: MLflowConfig) -> None:
    tracker = begin()
    tracker.log({"train/loss": 0.5}, 0)
    client = reader(store)
    deadline = time.monotonic() + 20
    while not client.get_run(tracker.run_id).data.metrics and time.monotonic() < deadline:
        time.sleep(0.1)
    assert client.get_run(tracker.run_id).data.metrics == {"train/loss": 0.5}
    assert client.get_run(tracker.run_id).info.status == "RUNNING"


def test_values_that_are_no_numbers_survive(begin: Callable[..., Tracker], store: MLflowConfig) -> None:
    tracker = begin()
    for step, value in enumerate([math.nan, math.inf, -math.inf, 1.0]):
        tracker.log({"train/loss": value}, step)
    tracker.finish("FINISHED")
    rows = sorted(reader(store).get_metric_history(tracker.run_id, "train/loss"), key=lambda row: row.step)
    largest = sys.float_info.max  # MLflow's databases hold no infinity
    assert math.isnan(rows[0].value)
    assert [row.value for row in rows[1:]] == [largest, -largest, 1.0]


def test_log_returns_while_the_store_hangs_and_nothing_is_lost(
    begin: Callable[..., Tracker], store: MLflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    deliver = MlflowClient.log_batch

    def hanging(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("metrics"):
            assert answer.wait(30)
        deliver(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", hanging)
    tracker = begin()
    for step in range(2500):
        tracker.log({"a": step}, step)
    assert not reader(store).get_run(tracker.run_id).data.metrics
    answer.set()
    tracker.finish("FINISHED")
    rows = reader(store).get_metric_history(tracker.run_id, "a")
    assert sorted(row.step for row in rows) == list(range(2500))


def test_a_metric_name_that_mlflow_refuses_is_made_safe_and_stays_distinct(
    begin: Callable[..., Tracker], store: MLflowConfig
) -> None:
    tracker = begin()
    tracker.log({"lr/00_a*": 1.0, "lr/00_a?": 2.0}, 0)
    tracker.finish("FINISHED")
    metrics = reader(store).get_run(tracker.run_id).data.metrics
    assert sorted(metrics.values()) == [1.0, 2.0]
    assert "lr/00_a_" in metrics


# ----------------------------------------------------------------------------------------------------------- failure


def test_a_store_that_fails_for_a_while_loses_nothing(begin: Callable[..., Tracker], store: MLflowConfig) -> None:
    tracker = begin()
    statement(store, "ALTER TABLE metrics RENAME TO away")
    for step in range(50):
        tracker.log({"a": 1.0, "b": 2.0}, step)
    time.sleep(1.5)  # at least one delivery fails
    statement(store, "ALTER TABLE away RENAME TO metrics")
    tracker.finish("FINISHED")
    client = reader(store)
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    for name in "ab":
        assert sorted(row.step for row in client.get_metric_history(tracker.run_id, name)) == list(range(50))


def test_a_store_that_fails_for_good_is_told_once_with_the_rows_missing(
    begin: Callable[..., Tracker], store: MLflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_tracker, "PATIENCE_SECONDS", 0.1)
    tracker = begin()
    statement(store, "ALTER TABLE metrics RENAME TO away")
    tracker.log({"a": 1.0, "b": 2.0}, 0)
    with pytest.raises(RunError, match=r"2 of 2 metric rows were not delivered to run run: .*no such table") as caught:
        tracker.finish("FINISHED")
    assert "\n" not in str(caught.value)
    tracker.finish("FINISHED")  # silent: it has been told
    run = reader(store).get_run(tracker.run_id)
    assert run.info.status == "FAILED"
    assert "no such table" in run.data.tags["lwexp.reason"]


def test_log_tells_that_the_store_has_failed(
    begin: Callable[..., Tracker], store: MLflowConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_tracker, "PATIENCE_SECONDS", 0.1)
    tracker = begin()
    statement(store, "ALTER TABLE metrics RENAME TO away")

    def train() -> None:
        for step in range(200):
            tracker.log({"a": 1.0}, step)
            time.sleep(0.1)

    with pytest.raises(RunError, match=r"\d+ of \d+ metric rows were not delivered"):
        train()
    tracker.log({"a": 1.0}, 1000)  # told once
    tracker.finish("FAILED")


def test_killed_does_not_wait_for_a_store_that_hangs(
    begin: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_tracker, "KILLED_PATIENCE_SECONDS", 0.2)
    answer = threading.Event()
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *_args, **_kwargs: answer.wait(30))
    tracker = begin()
    tracker.log({"a": 1.0}, 0)
    with pytest.raises(RunError, match="1 of 1 metric rows were not delivered to run run: no answer"):
        tracker.finish("KILLED")
    answer.set()


# ------------------------------------------------------------------------------------------------- the run's record


def test_a_run_has_its_name_params_tags_description_and_kind(
    begin: Callable[..., Tracker], store: MLflowConfig, tmp_path: Path
) -> None:
    params = {f"key.{index}": index for index in range(250)}
    params |= {"long": "x" * 7000, "none": None, "flag": True, "nested": {"fc": 0.1}, "odd[*]": "1", "text": "a"}  # type: ignore[dict-item]
    tags = {"a": "b", "long": "y" * 9000}
    tracker = begin(run_name="my run", params=params, tags=tags, description="# Plan\n" * 2000)
    tracker.tag({"later": "c"})
    tracker.finish("FINISHED")

    client = reader(store)
    run = client.get_run(tracker.run_id)
    assert run.info.run_name == tracker.run_name == "my run"
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert len(run.data.params) == len(params)
    assert run.data.params["key.249"] == "249"
    assert run.data.params["long"] == "x" * (MAX_PARAM - 1) + "…"
    assert [run.data.params[key] for key in ("none", "flag", "nested", "text")] == ["null", "true", '{"fc": 0.1}', "a"]
    assert run.data.params["odd___"] == "1"
    tags = run.data.tags
    assert (tags["a"], tags["later"], tags["mlflow.runName"]) == ("b", "c", "my run")
    assert tags["long"] == "y" * (MAX_TAG - 1) + "…"
    assert tags["mlflow.note.content"].startswith("# Plan\n")
    assert len(tags["mlflow.note.content"]) == MAX_TAG
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"]
    experiment = client.get_experiment_by_name("mine")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.artifact_location == (tmp_path / "outputs" / "mlartifacts").as_uri()


def test_an_experiment_of_another_kind_becomes_one_of_model_training(
    begin: Callable[..., Tracker], store: MLflowConfig
) -> None:
    client = reader(store)
    made = client.create_experiment("mine", tags={"mlflow.experimentKind": "genai_development_inferred"})
    tracker = begin()
    assert client.get_run(tracker.run_id).info.experiment_id == made
    assert client.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"


def test_artifacts_lie_below_outputs(begin: Callable[..., Tracker], store: MLflowConfig, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "rates.png").write_bytes(b"png")
    (tmp_path / "config.yaml").write_text("lr: 1")
    tracker = begin()
    tracker.artifact(tmp_path / "config.yaml")
    tracker.artifact(tmp_path / "plots", "pictures")
    with pytest.raises(RunError, match=r"missing.txt .* does not exist"):
        tracker.artifact(tmp_path / "missing.txt")
    tracker.finish("FINISHED")
    folder = tmp_path / "outputs" / "mlartifacts" / str(tracker.run_id) / "artifacts"
    assert (folder / "config.yaml").read_text() == "lr: 1"
    assert (folder / "pictures" / "rates.png").read_bytes() == b"png"


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_does_not_finish_has_its_status_and_reason(
    begin: Callable[..., Tracker], store: MLflowConfig, status: Any
) -> None:
    tracker = begin()
    tracker.log({"a": 1.0}, 0)
    tracker.finish(status, "because")
    tracker.finish("FINISHED")  # the first one counts
    run = reader(store).get_run(tracker.run_id)
    assert (run.info.status, run.data.tags["lwexp.reason"], run.data.metrics) == (status, "because", {"a": 1.0})
    with pytest.raises(RunError, match="has ended"):
        tracker.log({"a": 1.0}, 1)


def test_jobs_are_children_of_their_parent_run(begin: Callable[..., Tracker], store: MLflowConfig) -> None:
    parent = start_parent(store, run_name="sweep", tags={"jobs": "1"}, description="before", params={"mult": "0.9,1"})
    child = begin(parent_run_id=parent)
    child.finish("FINISHED")
    client = reader(store)
    assert client.get_run(parent).info.status == "RUNNING"
    end_parent(store, parent, "FINISHED", "| mult | accuracy |")
    end_parent(store, parent, "FAILED")  # the first one counts
    run = client.get_run(parent)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "sweep", {"mult": "0.9,1"})
    assert run.data.tags["mlflow.note.content"] == "| mult | accuracy |\n\nbefore"
    assert client.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent


def test_another_process_may_end_the_parent_run(store: MLflowConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = start_parent(store, run_name="sweep", tags={}, description="", params={})
    monkeypatch.setattr("lwexp.tracking._parents", {})
    end_parent(store, parent, "KILLED")
    assert reader(store).get_run(parent).info.status == "KILLED"


def test_a_deleted_experiment_is_a_mistake_in_one_line(store: MLflowConfig) -> None:
    client = reader(store)
    made = client.create_experiment("mine")
    client.delete_experiment(made)
    with pytest.raises(ConfigError, match=rf"^tracking.experiment=mine: was deleted; .*--experiment-id {made}"):
        start(store, run_name="r", params={}, tags={}, description="")


def test_no_tracking_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    none = NoTrackingConfig(name="none")
    tracker = start(none, run_name="r", params={"a": 1}, tags={}, description="", base=tmp_path)
    tracker.log({"a": 1.0}, 0)
    tracker.artifact(tmp_path / "missing")
    tracker.tag({"a": "b"})
    tracker.finish("FINISHED")
    assert isinstance(tracker, NoTracker)
    assert (tracker.run_id, tracker.run_name) == (None, "r")
    assert start_parent(none, run_name="r", tags={}, description="", params={}) is None
    end_parent(none, None, "FINISHED")
    assert "nothing" in open_hint(none)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------------- processes

SCRIPT = """
import sys
from lwexp.config import MLflowConfig
from lwexp.tracking import start, start_parent
assert "mlflow" not in sys.modules
config = MLflowConfig(name="mlflow", uri=None, experiment="lwexp", timeout=8.0)
parent = start_parent(config, run_name="parent", params={}, tags={}, description="") if "parent" in sys.argv else None
tracker = start(config, run_name=sys.argv[1], params={"a": 1}, tags={}, description="", parent_run_id=parent)
for step in range(300):
    tracker.log({"a": 1.0}, step)
"""


def run_script(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_processes_may_start_at_once_on_a_new_store_and_none_is_left_running(tmp_path: Path) -> None:
    processes = [run_script(tmp_path, "one", "parent"), run_script(tmp_path, "two")]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert outputs == [("", "")] * 2  # nothing of MLflow's chatter either
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("lwexp")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["one", "parent", "two"]
    assert {run.info.status for run in runs} == {"FAILED"}
    for run in runs:
        if run.info.run_name != "parent":
            assert "without finishing" in run.data.tags["lwexp.reason"]
            assert len(client.get_metric_history(run.info.run_id, "a")) == 300


# ---------------------------------------------------------------------------------------------------------- contact


@pytest.fixture
def hung_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://anna:{SECRET}@127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def start_refused(uri: str, timeout: float = 8.0) -> str:
    """The one line that a run with this store ends with, within ten seconds."""
    begun = time.monotonic()
    with pytest.raises(RunError) as caught:
        start(mlflow_config(uri, timeout=timeout), run_name="r", params={}, tags={}, description="")
    assert time.monotonic() - begun < 10
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_server_that_never_answers_is_reported(hung_server: str) -> None:
    message = start_refused(hung_server, timeout=1.0)
    assert "http://anna:***@127.0.0.1" in message
    assert "no answer within 1 s" in message
    assert "tracking.uri=" in message
    assert "tracking=none" in message


def test_a_closed_port_is_reported(closed_port: int) -> None:
    assert "refused" in start_refused(f"http://127.0.0.1:{closed_port}")


def test_a_host_without_an_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in start_refused("http://no-such-host.invalid:5000")


def test_a_database_that_blocks_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    # no driver of a database server is among the test's packages, so the blocking call stands in for one
    released = threading.Event()
    monkeypatch.setattr(mlflow_contact, "_contact_database", lambda *_: released.wait(30))
    assert "no answer within 0.5 s" in start_refused(f"postgresql+psycopg2://anna:{SECRET}@db/runs", timeout=0.5)
    released.set()


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (404, "<html>\n<h1>Not found</h1></html>", "may not be an MLflow server"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "gone"}', "too many 500 error responses"),
    ],
)
def test_a_server_that_refuses_is_reported_with_what_to_do(status: int, body: str, hint: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_args: object) -> None:  # nothing on the terminal
            return

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            message = start_refused(f"http://anna:{SECRET}@127.0.0.1:{server.server_address[1]}", timeout=1.0)
        finally:
            server.shutdown()
            thread.join()
    assert hint in message


def test_limits_set_for_mlflow_are_taken_back(begin: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # the user's own stays
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    begin().finish("FINISHED")
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"


def test_the_root_logger_is_the_users(begin: Callable[..., Tracker]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    begin()
    assert (root.level, list(root.handlers)) == before


# --------------------------------------------------------------------------------------------------------- addresses

MALFORMED = {
    "": "is empty",
    "outputs": "not an address",
    "./mlruns": "plain folders",
    "/data/mlruns": "plain folders",
    "file:///data/mlruns": "plain folders",
    "localhost:5000": "http://localhost:5000",
    "127.0.0.1:5000/x": "begins with http://",
    "htp://host:5000": "did you mean http",
    f"postgres://anna:{SECRET}@host/runs": "did you mean postgresql",
    f"anna:{SECRET}@host:5000": "not an address",
    "ftp://host": "no such kind of store",
    "http:/host:5000": "followed by slashes",
    "sqlite:outputs/mlflow.db": "followed by slashes",
    "sqlite://": "names no file",
    "sqlite:///": "names no file",
    "sqlite:///:memory:": "gone when the run ends",
    "sqlite://outputs/mlflow.db": "three slashes",
    "sqlite:///outputs/": "is a folder",
    "http://": "names no host",
    "http://:5000": "names no host",
    "http://host:abc": "port must be",
    f"http://anna:{SECRET}@host:99999": "port must be",
    "http://host:0": "port must be",
    "http://my host:5000": "cannot be the name of a host",
    f"http://anna:{SECRET} x@my_host?:5000": "***",
    "http://[::1:5000": "not a valid address",
    "http://host:5000/#/experiments/1": "without what follows",
    f"postgresql://anna:{SECRET}@host:port/runs": "not a valid database address",
    f"postgresql://anna:{SECRET}@host:99999/runs": "port must be",
    f"mysql+pymysql://anna:{SECRET}@host": "names no database",
}


@pytest.mark.parametrize(("uri", "why"), MALFORMED.items(), ids=lambda text: text or "empty")
def test_a_malformed_address_is_a_mistake_in_one_line_without_its_secret(uri: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_uri(mlflow_config(uri), tmp_path)
    message = str(caught.value)
    assert message.startswith("tracking.uri=")
    assert why in message
    assert "\n" not in message
    assert SECRET not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000", "https://mlflow.example.org/prefix", "http://[::1]:5000", "http://my_host",
        f"http://anna:{SECRET}@host:5000", f"postgresql+psycopg2://anna:{SECRET}@host:5432/runs",
        "postgresql:///runs", "mssql+pyodbc://host/runs?driver=x",
    ],
)  # fmt: skip
def test_an_address_of_a_server_stays_as_it_is(uri: str, tmp_path: Path) -> None:
    assert resolve_uri(mlflow_config(uri), tmp_path) == uri


def test_a_relative_database_counts_from_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(mlflow_config(None), tmp_path) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert resolve_uri(mlflow_config("sqlite:///my runs/a.db?timeout=5"), tmp_path) == (
        f"sqlite:///{tmp_path}/my runs/a.db?timeout=5"
    )
    assert resolve_uri(mlflow_config("sqlite:////data/../a.db"), tmp_path) == "sqlite:////a.db"


def test_the_environment_chooses_the_store_unless_the_config_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert resolve_uri(mlflow_config(None), tmp_path) == "http://from-environment:5000"
    assert resolve_uri(mlflow_config("http://from-config"), tmp_path) == "http://from-config"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI=nonsense"):
        resolve_uri(mlflow_config(None), tmp_path)


def test_a_file_that_is_no_database_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database" * 100)
    with pytest.raises(ConfigError, match="is not an SQLite database"):
        check_store(mlflow_config("sqlite:///notes.db"), tmp_path)
    with pytest.raises(ConfigError, match="cannot be made"):
        check_store(mlflow_config("sqlite:///notes.db/runs.db"), tmp_path)
    assert (tmp_path / "notes.db").read_text().startswith("these are notes")


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"anna:\*\*\*@host.*package .*no_such_driver"):
        check_store(mlflow_config(f"postgresql+no_such_driver://anna:{SECRET}@host/runs"), tmp_path)


def test_the_hint_names_both_ways_to_open_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert open_hint(mlflow_config(None), tmp_path) == (
        "open MLflow: python -m lwexp.ui\n"
        f"         or: mlflow ui --backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db"
    )
    hint = open_hint(mlflow_config(f"postgresql+psycopg2://anna:{SECRET}@db/runs", experiment="my own"), tmp_path)
    assert SECRET not in hint
    assert "'tracking.experiment=my own'" in hint


# ------------------------------------------------------------------------------------------------------------ secrets


@given(
    user=st.text("abcxyz0._-", max_size=5),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(lambda text: f"<{text}>"),
    scheme=st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]),
    around=st.sampled_from(["{}", "tracking.uri={}", "failed: {} (timeout)", '["a=1", "uri={}"]']),
)
@example(user="anna", secret="p@ss:w/rd@", scheme="http", around="{}")
def test_no_password_survives_redaction(user: str, secret: str, scheme: str, around: str) -> None:
    hidden = redact(around.format(f"{scheme}://{user}:{secret}@host:5000/runs"))
    assert secret not in hidden
    assert "***@host:5000/runs" in hidden


def test_tokens_are_hidden_and_what_is_no_secret_stays() -> None:
    assert redact("https://t0ken@host/x?api_key=abc&a=1") == "https://***@host/x?api_key=***&a=1"
    for text in ("sqlite:////data/a:b@c.db", "postgresql://anna@host/runs", "http://host:5000 mail@me", "lr=0.1"):
        assert redact(text) == text


def test_a_password_is_written_to_no_store(begin: Callable[..., Tracker], tmp_path: Path) -> None:
    uri = f"postgresql://anna:{SECRET}@host/runs"
    tracker = begin(
        run_name="r", params={"tracking.uri": uri, "all": {"uri": uri}},
        tags={"overrides": f"tracking.uri={uri} lr=1"}, description=f"`{uri}`",
    )  # fmt: skip
    tracker.finish("FAILED", f"could not reach {uri}")
    for path in (tmp_path / "outputs").iterdir():
        assert SECRET.encode() not in path.read_bytes(), path


# -------------------------------------------------------------------------------------------------------------- names

names = st.text(st.sampled_from("ab./ *?[]:\n\té\u0301\ud800-_") | st.characters(), max_size=300)


@given(names)
@example("../../etc/passwd")
@example("...")
@example("a" * 251)
@example("a" * 240 + "/" * 20 + "b" * 20)
def test_a_safe_key_is_accepted_by_mlflow_and_stays_as_it_is(name: str) -> None:
    key = safe_key(name)
    _validate_metric_name(key)  # raises
    assert 0 < len(key) <= MAX_ENTITY_KEY_LENGTH
    assert safe_key(key) == key


def test_mlflow_refuses_what_is_not_made_safe() -> None:
    for name in ("a*", "a[0]", "/a", "a//b", "..", "a/"):
        with pytest.raises(MlflowException):
            _validate_metric_name(name)


@given(st.lists(names, max_size=12))
@example(["a_", "a*", "a?"])
@example(["a" * 300, "a" * 301])
@example(["a*", "a?", safe_keys(["a*", "a?"])[0]])
def test_safe_keys_are_as_many_as_the_names(given_names: list[str]) -> None:
    keys = safe_keys(given_names)
    assert len(keys) == len(given_names)
    assert len(set(keys)) == len(set(given_names))
    for name, key in zip(given_names, keys, strict=True):
        _validate_metric_name(key)
        assert len(key) <= MAX_ENTITY_KEY_LENGTH
        if safe_key(name) == name:
            assert key == name


def test_common_names_of_parameters_stay_readable() -> None:
    names = ["lr/00_fc", "lr/61_conv1.weight", "train/loss"]
    assert safe_keys(names) == names
    assert safe_keys(["lr/03_blocks.*.norm1"]) == ["lr/03_blocks._.norm1"]


# --------------------------------------------------------------------------------------------------------------- conf


def test_the_files_of_the_config_group_are_what_the_schema_takes() -> None:
    conf = Path(__file__).parent.parent / "conf" / "tracking"
    mlflow, none = (dict(OmegaConf.load(conf / f"{name}.yaml")) for name in ("mlflow", "none"))  # type: ignore[arg-type]
    assert MLflowConfig.model_validate(mlflow) == mlflow_config(None)
    assert NoTrackingConfig.model_validate(none).name == "none"
