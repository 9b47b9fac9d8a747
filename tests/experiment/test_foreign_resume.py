"""`resume` and `sweep.resume` of a folder that came from somebody else: no secret goes to an address that it names."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lwexp.plots import process
from tests.experiment.resumed_runs import RUN, one_line, only_run
from tests.helpers.commands import RunHere
from tests.helpers.fake_mlflow import FakeMLflow

SECRET = "the-key-of-this-machine"
SWEEP = [*RUN, "max_steps=1", "sweep.isolate=false", "sweep.report=false", "mult=0.9,0.8", "hydra.sweep.dir=mine"]


@pytest.fixture(autouse=True)
def machine(lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without secrets; no pictures, which take most of so short a run."""
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TESTED_IN", str(tmp_path))  # a delivery process of its own, which has that home
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
    return tmp_path


@pytest.fixture
def server() -> Iterator[FakeMLflow]:
    with FakeMLflow() as fake:
        yield fake


def foreign_run(lwexp_here: RunHere, machine: Path, uri: str) -> Path:
    """The folder of a finished run that names the store `uri`, which knows nothing of it yet."""
    assert lwexp_here("run", *RUN, "max_steps=1").code == 0
    folder = only_run(machine)
    values = yaml.safe_load((folder / "config.yaml").read_text())
    values["tracking"] = {"name": "mlflow", "uri": uri}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.parametrize("secret", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "file"])
def test_credentials_go_to_no_server_that_only_the_runs_folder_names(
    secret: str, lwexp_here: RunHere, machine: Path, server: FakeMLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.path.relpath(foreign_run(lwexp_here, machine, server.uri), machine)
    if secret == "file":
        (machine / ".mlflow").mkdir()
        lines = f"[mlflow]\nmlflow_tracking_username = anna\nmlflow_tracking_password = {SECRET}\n"
        (machine / ".mlflow" / "credentials").write_text(lines)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
        monkeypatch.setenv(secret, SECRET)
    line = one_line(lwexp_here("run", f"resume={folder}"))
    assert line.startswith(f"tracking.uri={server.uri}: only the folder {folder} names it; to send ")
    assert line.endswith(f" there, give it: tracking.uri={server.uri}")
    assert (server.authorizations, server.runs) == (set(), {})
    assert lwexp_here("preview", f"resume={folder}").code == 0, "a preview sends nothing"
    assert lwexp_here("run", f"resume={folder}", "tracking=none").code == 0

    assert lwexp_here("run", f"resume={folder}", f"tracking.uri={server.uri}").code == 0
    assert len(server.authorizations) == 1
    assert len(server.runs) == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert lwexp_here("run", f"resume={folder}").code == 0


def test_without_credentials_an_own_run_resumes_as_it_was_started(
    lwexp_here: RunHere, machine: Path, server: FakeMLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = [*RUN[:-1], "max_steps=1", f"tracking.uri={server.uri}", "hydra.run.dir=mine"]
    assert lwexp_here("run", *tracked).code == 0
    assert lwexp_here("run", "resume=mine", "max_steps=2").code == 0
    (run,) = server.runs.values()
    assert [row["step"] for row in run["rows"] if row["key"] == "train/loss"] == [0, 1]

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    assert lwexp_here("run", "resume=mine", "max_steps=3").code == 2
    assert lwexp_here("run", *tracked, "max_steps=3", "resume=auto").code == 0, "its own command names the store"
    assert server.authorizations == {f"Bearer {SECRET}"}


def test_the_command_that_resumes_a_run_names_its_store_where_it_must(
    lwexp_here: RunHere, server: FakeMLflow, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    stop_after(2)
    outcome = lwexp_here("run", *RUN[:-1], f"tracking.uri={server.uri}", "hydra.run.dir=mine")
    told = next(line for line in outcome.out.splitlines() if "resume with: " in line).partition("resume with: ")[2]
    assert told == f"python -m lwexp.run resume=mine tracking.uri={server.uri}"
    stop_after(None)
    assert lwexp_here("run", *shlex.split(told)[3:]).code == 0


@pytest.mark.parametrize("uri", ["sqlite:///{home}/.ssh/authorized_keys", "postgresql://anna@127.0.0.1:1/runs"])
def test_no_database_that_only_the_runs_folder_names_is_made_or_contacted(
    uri: str, lwexp_here: RunHere, machine: Path
) -> None:
    folder = foreign_run(lwexp_here, machine, uri.format(home=machine))
    assert one_line(lwexp_here("run", f"resume={folder}")).endswith(f"tracking.uri={uri.format(home=machine)}")
    assert not (machine / ".ssh").exists()


def test_a_server_that_only_the_runs_folder_names_puts_files_nowhere_else(
    lwexp_here: RunHere, machine: Path, server: FakeMLflow
) -> None:
    server.artifact_uri = f"file://{machine}/.ssh"
    outcome = lwexp_here("run", f"resume={foreign_run(lwexp_here, machine, server.uri)}")
    assert outcome.code == 0
    assert "tracking.uri=… with the store's address allows that" in outcome.out
    assert not (machine / ".ssh").exists()


# -------------------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize("way", ["settings", "section", "job", "config_dir", "interpolation"])
def test_credentials_go_to_no_server_that_only_the_sweeps_folder_names(
    way: str, lwexp_here: RunHere, machine: Path, server: FakeMLflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lwexp_here("run", "-m", *SWEEP).code == 0
    file = machine / "mine" / "sweep.json"
    values = json.loads(file.read_text())
    values["overrides"] = [o for o in values["overrides"] if o != "tracking=none"]
    named = {"settings": [f"tracking.uri={server.uri}"], "section": [f"tracking={{uri: '{server.uri}'}}"]}
    values["overrides"] += named.get(way, [])
    if way == "job":
        values["points"][0]["overrides"] += [f"tracking.uri={server.uri}"]
    elif way in ("config_dir", "interpolation"):
        (machine / "files" / "tracking").mkdir(parents=True)
        uri = server.uri if way == "config_dir" else "${.experiment}"
        lines = f"defaults: [mlflow]\nuri: {uri}\nexperiment: sqlite:///outputs/mlflow.db\n"
        (machine / "files" / "tracking" / "theirs.yaml").write_text(lines)
        values["config_dir"] = str(machine / "files")
        values["overrides"] += ["tracking=theirs"]
        values["points"][0]["overrides"] += [] if way == "config_dir" else [f"tracking.experiment={server.uri}"]
    file.write_text(json.dumps(values))
    for point in values["points"]:
        (machine / "mine" / str(point["number"]) / "result.json").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    outcome = lwexp_here("run", "sweep.resume=mine")
    assert outcome.code == 2
    assert (server.authorizations, server.runs) == (set(), {})
    if way in ("settings", "section", "config_dir"):
        line = one_line(outcome)
        assert line.startswith(f"tracking.uri={server.uri}: only the folder mine names it; to send MLFLOW_TRACKING_TO")
        assert lwexp_here("run", "sweep.resume=mine", f"tracking.uri={server.uri}").code == 0
        assert server.authorizations == {f"Bearer {SECRET}"}


def test_without_credentials_an_own_sweep_resumes_as_it_was_started(lwexp_here: RunHere, server: FakeMLflow) -> None:
    tracked = [option for option in SWEEP if option != "tracking=none"]
    assert lwexp_here("run", "-m", *tracked, f"tracking.uri={server.uri}").code == 0
    outcome = lwexp_here("run", "sweep.resume=mine", "seed=1")
    assert outcome.code == 0, outcome.err
    assert len(server.runs) == 1 + 6, "the parent, two settings and their twin with two seeds each"


def test_no_study_is_kept_in_a_database_that_only_the_sweeps_folder_names(lwexp_here: RunHere, machine: Path) -> None:
    pytest.importorskip("optuna")
    search = [*SWEEP[:-2], "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=mine"]
    assert lwexp_here("run", "-m", *search, "hydra.sweeper.uniform_trials=0", "hydra.sweeper.repeat.best=0").code == 0
    file = machine / "mine" / "sweep.json"
    values = json.loads(file.read_text())
    values["hydra_overrides"] += ["hydra.sweeper.storage=postgresql://anna@127.0.0.1:1/x"]
    file.write_text(json.dumps(values))
    assert one_line(lwexp_here("run", "sweep.resume=mine")).startswith(
        "sweep.resume=hydra.sweeper.storage=postgresql://anna@127.0.0.1:1/x: is set by a file of the sweep"
    )
