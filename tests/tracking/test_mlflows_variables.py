"""MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID, as users and `mlflow run` set them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError
from tests.helpers.tracked_runs import begin_in, reader, steps


@pytest.fixture
def unnamed(store: MLflowConfig, monkeypatch: pytest.MonkeyPatch) -> MLflowConfig:
    """A store whose config names no experiment."""
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return store.model_copy(update={"experiment": None})


def experiment_of(config: MLflowConfig, run_id: str | None) -> str:
    client = reader(config)
    return str(client.get_experiment(client.get_run(str(run_id)).info.experiment_id).name)


def test_the_experiment_is_that_of_the_config_then_of_the_environment_then_lwexp(
    unnamed: MLflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(name: str, config: MLflowConfig) -> str:
        tracker = begin_in(config, tmp_path / name)
        tracker.finish("FINISHED")
        return experiment_of(unnamed, tracker.run_id)

    assert begin("default", unnamed) == "lwexp"
    given = reader(unnamed).create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", given)
    assert begin("id", unnamed) == "by id"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    assert begin("name", unnamed) == "by name"
    assert begin("config", unnamed.model_copy(update={"experiment": "mine"})) == "mine"


def test_an_experiment_id_that_does_not_exist_is_a_mistake(
    unnamed: MLflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "987654")
    with pytest.raises(ConfigError, match=r"^MLFLOW_EXPERIMENT_ID=987654: there is no such experiment"):
        begin_in(unnamed, tmp_path / "run")


def test_the_run_of_mlflow_run_is_used_once_and_not_by_jobs(
    unnamed: MLflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = reader(unnamed)
    given = client.create_run("0", run_name="of mlflow run", tags={"mlflow.source.type": "PROJECT"})
    monkeypatch.setenv("MLFLOW_RUN_ID", given.info.run_id)
    tracker = begin_in(unnamed, tmp_path / "sweep", params={"lr": 0.1}, tags={"mine": "yes"})
    job = begin_in(unnamed, tmp_path / "sweep" / "0", parent=tmp_path / "sweep")
    tracker.log({"a": 1.0}, 3)
    assert tracker.run_id == given.info.run_id
    assert job.run_id != given.info.run_id
    with pytest.raises(ConfigError, match=r"^MLFLOW_RUN_ID=.*is another run of lwexp already"):
        begin_in(unnamed, tmp_path / "second")
    job.finish("FINISHED")
    tracker.finish("FINISHED")
    run = client.get_run(given.info.run_id)
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "of mlflow run", {"lr": "0.1"})
    assert run.data.tags["mine"] == "yes"
    assert steps(unnamed, given.info.run_id, "a") == [3]
    assert client.get_run(str(job.run_id)).data.tags["mlflow.parentRunId"] == given.info.run_id


@pytest.mark.parametrize(
    ("run_id", "why"), [("0" * 32, "there is no such run"), ("", None), ("deleted", "was deleted")]
)
def test_a_run_that_cannot_be_used(
    run_id: str, why: str | None, unnamed: MLflowConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run_id == "deleted":
        run_id = str(reader(unnamed).create_run("0").info.run_id)
        reader(unnamed).delete_run(run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    if why is None:
        begin_in(unnamed, tmp_path / "run").finish("FINISHED")
        return
    with pytest.raises(ConfigError, match=rf"^MLFLOW_RUN_ID={run_id}: {why}"):
        begin_in(unnamed, tmp_path / "run")
