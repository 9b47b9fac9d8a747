"""Each test names something of MLflow or SQLAlchemy that lwexp uses beyond their documented interfaces."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow.entities import Metric, Run, RunData, RunInfo
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils import validation
from sqlalchemy.exc import NoSuchModuleError

from lwexp.tracking import mlflow_internals as internals
from tests.helpers.fake_mlflow import FakeMLflow

VERSIONS = f"MLflow {mlflow.__version__}, SQLAlchemy {sqlalchemy.__version__}"


def page() -> str:
    """The JavaScript of MLflow's page."""
    files = (Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js").glob("*.js")
    return "".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.skipif(mlflow.__version__.startswith(("3.4.", "3.5.")), reason="its page has one view of experiments")
def test_the_page_knows_the_kind_of_experiment_and_the_view_for_training() -> None:
    text = page()
    for word in (internals.KIND_TAG, internals.KIND, *internals.TRAINING_VIEW.removeprefix("?").split("=")):
        assert word in text, f"{VERSIONS}: its page does not know {word!r}"


def test_the_server_has_the_setting_that_starts_no_jobs() -> None:
    from mlflow import environment_variables

    (name,) = internals.NO_JOBS
    jobs = [word for word in vars(environment_variables) if "JOB_EXECUTION" in word]
    assert not jobs or name in jobs, f"{VERSIONS}: {name} is now one of {jobs}"


def test_the_command_starts_from_python() -> None:
    command = [sys.executable, "-c", internals.RUN_COMMAND, "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert mlflow.__version__ in shown.stdout, f"{VERSIONS}: {internals.RUN_COMMAND!r}"


def test_database_errors_are_logged_by_the_logger_that_is_silenced() -> None:
    module = importlib.import_module(internals.DATABASE_LOGGER)
    loggers = [value.name for value in vars(module).values() if isinstance(value, logging.Logger)]
    assert internals.DATABASE_LOGGER in loggers, f"{VERSIONS}: it logs with {loggers}"


def test_the_last_step_of_a_metric_is_in_the_message_of_a_run() -> None:
    info = RunInfo("1", "0", "me", "RUNNING", 0, None, "active", "file:///a")
    run = Run(info, RunData([Metric("a", 1.0, 0, 7), Metric("b", 2.0, 0, 3)]))
    assert internals.last_steps(run) == {"a": 7, "b": 3}, VERSIONS


def test_mlflow_accepts_up_to_its_limits_and_no_more() -> None:
    """MLflow's own limits, by its own validation."""
    assert validation.MAX_ENTITY_KEY_LENGTH == internals.MAX_KEY, VERSIONS
    assert internals.MAX_PARAM == validation.MAX_PARAM_VAL_LENGTH, VERSIONS
    assert internals.MAX_TAG == validation.MAX_TAG_VAL_LENGTH, VERSIONS
    assert internals.MAX_ROWS == validation.MAX_METRICS_PER_BATCH, VERSIONS
    columns = importlib.import_module("mlflow.store.tracking.dbmodels.models").SqlRun.__table__.columns
    assert columns["name"].type.length == internals.MAX_NAME, VERSIONS


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "MLFLOW_TRACKING_TOKEN"), (403, "MLFLOW_TRACKING_TOKEN"), (404, "may not be an MLflow server"),
     (500, "the server's own log")],
)  # fmt: skip
def test_the_status_of_an_answer_is_in_the_message(status: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with FakeMLflow() as server:
        server.fail, server.body = status, "no answer of MLflow's"
        with pytest.raises(MlflowException) as caught:
            MlflowClient(tracking_uri=server.uri).get_run("1")
    assert hint in internals.reason_of(str(caught.value)), f"{VERSIONS}: {caught.value}"


def test_the_reason_of_a_refused_connection_is_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException) as caught:
        MlflowClient(tracking_uri="http://127.0.0.1:9").get_run("1")
    reason = internals.reason_of(str(caught.value))
    assert "refused" in reason, f"{VERSIONS}: {caught.value}"
    assert "Caused by" not in reason, f"{VERSIONS}: {caught.value}"


def test_the_dialect_that_is_missing_ends_the_message() -> None:
    with pytest.raises(NoSuchModuleError) as caught:
        sqlalchemy.create_engine("postgresql+no_such_driver://host/runs")
    assert internals.missing_dialect(caught.value) == "postgresql.no_such_driver", f"{VERSIONS}: {caught.value}"


def test_an_autoflush_in_front_of_a_message_is_dropped(empty_store: Path) -> None:
    """SQLAlchemy puts it before the database's own words where a query writes what waits."""
    from sqlalchemy.orm import Session, declarative_base, mapped_column

    class Row(declarative_base()):  # type: ignore[misc]
        __tablename__ = "missing"
        id = mapped_column(sqlalchemy.Integer, primary_key=True)

    with Session(sqlalchemy.create_engine(f"sqlite:///{empty_store}")) as session:
        session.add(Row(id=1))
        with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
            session.query(Row).all()
    assert str(caught.value).startswith("(raised as a result of"), f"{VERSIONS}: {caught.value}"
    assert internals.reason_of(str(caught.value)) == "(sqlite3.OperationalError) no such table: missing", VERSIONS
