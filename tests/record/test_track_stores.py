"""`lwexp.track` with stores that are down, named by MLflow's own variables, or whose address has a password."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import lwexp
from lwexp.tracking.delivery_state import read_state
from tests.helpers.commands import Outcome
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_loops import RATES, as_points, only_run, planned, points
from tests.helpers.tracked_runs import SECRET, until

pytestmark = pytest.mark.usefixtures("no_pictures")


def rates(server: FakeMLflow, run_id: str) -> list[tuple[int, str]]:
    """Points of the head's rate as the server has them, as often as it has received them."""
    return sorted(
        (int(row["step"]), float(row["value"]).hex()) for row in server.runs[run_id]["rows"] if row["key"] == RATES[0]
    )


def test_a_server_that_is_down_from_the_start_stops_no_training_and_sync_delivers_all(
    server: FakeMLflow, lwexp_here: Callable[..., Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{probe.getsockname()[1]}"
    plan, optimizer, scheduler = planned(5)
    with lwexp.track(scheduler, uri=down, flush_timeout=0.2) as record:
        for _ in range(5):
            optimizer.step()
            record.step()
            scheduler.step()
    assert record.run_id is None
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert f"the tracking store {down} is not available" in warnings[0]
    assert f"nothing is lost: python -m lwexp.sync {record.folder}" in warnings[-1]
    outcome = lwexp_here("sync", str(record.folder), f"tracking.uri={server.uri}")
    assert (outcome.code, outcome.err) == (0, "")
    (run_id,) = server.runs
    assert server.runs[run_id]["info"]["status"] == "FINISHED"
    expected = as_points(dict(enumerate(plan.lr_table("cosine", steps=5)[:, 0].tolist())))
    assert rates(server, run_id) == expected


def test_a_server_that_goes_away_in_between_gets_each_step_once(server: FakeMLflow) -> None:
    _, optimizer, scheduler = planned(60)
    with lwexp.track(scheduler, uri=server.uri) as record:
        for number in range(60):
            optimizer.step()
            record.step({"a": number})
            scheduler.step()
            if number == 20:
                until(lambda: len(server.runs) == 1)
                server.fail = 503
            if number == 40:
                until(lambda: read_state(record.folder).problem is not None)
                server.fail = None
    assert [step for step, _ in rates(server, str(record.run_id))] == list(range(60))
    assert server.runs[str(record.run_id)]["info"]["status"] == "FINISHED"


def test_mlflows_own_variables_name_store_experiment_and_run(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, optimizer, _ = planned()
    Path("outputs/mlflow.db").rename("other.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    with lwexp.track(plan, optimizer) as record:
        record.step()
    assert only_run(client, "by name").info.run_id == record.run_id
    given = client.create_run("0", run_name="of mlflow run").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with lwexp.track(plan, optimizer) as record:
        record.step()
    assert record.run_id == given
    assert points(client, given, RATES[0]) == as_points({0: 0.1})
    assert not Path("outputs/mlflow.db").exists()


def test_no_secret_of_an_address_is_written(server: FakeMLflow, tmp_path: Path) -> None:
    plan, optimizer, _ = planned()
    address = f"postgresql://anna:{SECRET}@host/db"
    uri = server.uri.replace("://", f"://anna:{SECRET}@")
    record = lwexp.track(plan, optimizer, uri=uri, name=address, params={"data": address}, tags={"data": address})
    record.start()
    record.step()
    record.tag({"more": address})
    assert SECRET not in repr(record)
    record.end("FAILED", f"no route to {address}")
    (run,) = server.runs.values()
    assert run["info"]["status"] == "FAILED"
    assert run["params"]["data"] == run["tags"]["data"] == "postgresql://anna:***@host/db"
    assert SECRET not in str(server.runs)
    assert server.authorizations  # the password was sent to the server that needs it
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
