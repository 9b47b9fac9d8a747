"""`from_run=<run>`: a new run, preview or sweep from a run's config, with the command's options on top."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lwexp.experiment.manifest import read_manifest
from lwexp.plots import process
from lwexp.tracking.journal import Reader
from tests.experiment.resumed_runs import RUN, composed, one_line, written
from tests.helpers.commands import RunCommand, RunHere
from tests.helpers.fake_mlflow import FakeMLflow


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


def new_runs(base: Path) -> list[Path]:
    return [folder for folder in (base / "outputs" / "runs").iterdir() if folder != base / "outputs" / "runs" / "first"]


def test_a_new_run_has_the_config_of_the_other_and_the_options_of_the_command(
    lwexp_here: RunHere, tmp_path: Path
) -> None:
    first = [*RUN, "hydra.run.dir=outputs/runs/first", "max_steps=1", "lr=0.5", "mult=0.8", "lr_overrides={head: 0.1}"]
    assert lwexp_here("run", *first).code == 0
    folder = tmp_path / "outputs" / "runs" / "first"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for value in ("outputs/runs/first", str(folder)):
        outcome = lwexp_here("run", f"from_run={value}", "lr=0.25", "policy=cosine")
        assert outcome.code == 0, outcome.err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    old = OmegaConf.load(folder / "config.yaml")
    for run in new_runs(tmp_path):
        kept = OmegaConf.load(run / "config.yaml")
        assert (kept.lr, kept.mult, kept.policy.name, kept.from_run) == (0.25, 0.8, "cosine", str(folder))
        assert kept.lr_overrides == old.lr_overrides
        assert kept.model == old.model
        started = next(entry.value for entry in Reader(run / "journal.lwexp").entries() if entry.kind == "run")
        assert started["tags"]["lwexp.from_run"] == str(folder)
    assert len(new_runs(tmp_path)) == 2


def test_it_takes_a_run_of_an_earlier_version_and_leaves_what_was_of_the_one_run(
    lwexp_here: RunHere, tmp_path: Path
) -> None:
    before = composed(lwexp_here, "model=lstm", "epochs=7", "preview.csv=p.csv", "checkpoint.remap=true")
    defaults = composed(lwexp_here)
    del before["nonfinite"], before["checkpoint"]["keep"], before["from_run"]
    before["sweep"] = {**before["sweep"], "resume": "x", "search": {"study": "s", "storage": "y", "trial": 3}}
    folder = written(tmp_path / "run", before)  # without a journal: nothing of it is resumed
    now = composed(lwexp_here, "from_run=run", "lr=0.5")
    assert (now["epochs"], now["lr"], now["nonfinite"], now["from_run"]) == (7, 0.5, "stop", str(folder))
    assert now["model"] == before["model"]
    for key in ("sweep", "preview", "checkpoint", "resume"):
        assert now[key] == defaults[key], key


def test_a_preview_and_a_sweep_start_from_it_too(
    lwexp_command: RunCommand, lwexp_here: RunHere, tmp_path: Path
) -> None:
    values = composed(lwexp_here, *RUN, "max_steps=1", "lr=0.125", "seed=7")
    folder = written(tmp_path / "run", values)
    outcome = lwexp_here("preview", "from_run=run", "mult=0.5")
    assert outcome.code == 0, outcome.err
    assert "6.250000e-02" in outcome.out
    sweep = lwexp_command("run", "-m", "from_run=run", "mult=0.9,0.8", "hydra.sweep.dir=sweep")
    assert sweep.returncode == 0, sweep.stderr
    manifest = read_manifest(tmp_path / "sweep")
    assert manifest is not None
    assert [point.overrides for point in manifest.points] == [("mult=0.9",), ("mult=0.8",), ("mult=1",)]
    jobs = [OmegaConf.load(tmp_path / "sweep" / str(number) / "config.yaml") for number in range(3)]
    assert [(job.lr, job.seed, job.mult, job.from_run) for job in jobs] == [
        (0.125, 7, mult, str(folder)) for mult in (0.9, 0.8, 1)
    ]
    more = lwexp_command("run", "sweep.resume=sweep", "mult=0.7")
    assert more.returncode == 0, more.stderr
    assert "4 jobs, 1 of them uniform twins (sweep.baseline), 3 finished before" in more.stdout
    assert OmegaConf.load(tmp_path / "sweep" / "3" / "config.yaml").lr == 0.125


def test_code_that_its_config_names_is_not_executed(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path('executed').touch()\n", encoding="utf-8")
    values = composed(lwexp_here, *RUN)
    written(tmp_path / "run", {**values, "grouping": {"name": "custom", "_target_": "evil.f"}})
    for command in (("run",), ("preview",), ("run", "-m", "mult=0.9,0.8")):
        line = one_line(lwexp_here(*command, "from_run=run"))
        assert line.startswith("checkpoint.allow_targets=[]: the run's config would execute evil.f; allow it with ")
    assert not (tmp_path / "executed").exists()
    allowed = shlex.split(line.partition("; allow it with ")[2])
    assert composed(lwexp_here, "from_run=run", *allowed)["grouping"]["_target_"] == "evil.f"
    assert composed(lwexp_here, "from_run=run", "grouping=top_module")["grouping"]["name"] == "top_module"


def test_no_credentials_go_to_a_server_that_only_its_config_names(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "the-key-of-this-machine")
    monkeypatch.setenv("MLFLOW_TESTED_IN", str(tmp_path))
    with FakeMLflow() as server:
        values = composed(lwexp_here, *RUN[:-1], "max_steps=1", f"tracking.uri={server.uri}")
        written(tmp_path / "run", values)
        for command in (("run",), ("run", "-m", "mult=0.9,0.8")):
            line = one_line(lwexp_here(*command, "from_run=run"))
            assert line.startswith(f"tracking.uri={server.uri}: only the folder run names it; to send ")
        assert (server.authorizations, server.runs) == (set(), {})
        assert lwexp_here("preview", "from_run=run").code == 0
        assert lwexp_here("run", "from_run=run", f"tracking.uri={server.uri}").code == 0
        assert len(server.runs) == 1


@pytest.mark.parametrize(("options", "start"), [
    (["from_run=nowhere"], "from_run=nowhere: no such folder, and no MLflow run id; "),
    (["from_run=empty"], "from_run=empty: holds no run; "),
    (["from_run=run", "resume=run"], "from_run=run: starts a new run, and resume continues one; give one of them"),
    (["--config-dir", "run", "--config-name", "config"], "--config-dir=run: is the folder of a run; from_run=run "),
    (["--config-dir", "run"], "--config-dir=run: is the folder of a run; from_run=run "),
    (["--config-dir", "mine", "--config-name", "config"], "--config-dir=mine: has a config.yaml, but lwexp's own of "),
])  # fmt: skip
def test_mistakes_are_one_line(options: list[str], start: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    written(tmp_path / "run", {"lr": 0.5})
    (tmp_path / "run" / "journal.lwexp").touch()
    written(tmp_path / "mine", {"lr": 0.5})
    (tmp_path / "empty").mkdir()
    assert one_line(lwexp_here("run", *options)).startswith(start)
    assert not (tmp_path / "outputs").exists()


def test_a_file_cannot_name_the_run(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("defaults: [config, _self_]\nfrom_run: somewhere\n", encoding="utf-8")
    line = one_line(lwexp_here("run", "--config-dir", ".", "--config-name", "own"))
    assert line == "from_run=somewhere: can be given on the command line only"


def test_a_command_that_is_repeated_resumes_with_it(lwexp_here: RunHere, tmp_path: Path) -> None:
    written(tmp_path / "run", composed(lwexp_here, *RUN, "max_steps=1"))
    command = ["from_run=run", "hydra.run.dir=mine", "resume=auto", "lr=0.5"]
    assert lwexp_here("run", *command).code == 0
    again = lwexp_here("run", *command)
    assert again.code == 0, again.err
    assert "is finished, with a best validation accuracy" in again.out
