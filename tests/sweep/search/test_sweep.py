"""A whole search: its trials, repeats and uniform twins as runs of one sweep, and a search that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lwexp.experiment.manifest import read_manifest
from lwexp.plots import process
from lwexp.sweep.outcome import outcome_of
from tests.helpers.commands import ROOT, RunCommand, RunHere
from tests.helpers.processes import StartCommand
from tests.sweep.test_sweep import client, family  # noqa: F401

optuna = pytest.importorskip("optuna")

from lwexp.sweep.search.study import open_storage  # noqa: E402

LSTM = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "progress=false"]
PLAIN = ["hydra/sweeper=optuna", "hydra.sweeper.uniform_trials=0", "hydra.sweeper.repeat.best=0"]


def trials(folder: Path, name: str = "search") -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(None, folder)).trials


def test_a_search_its_repeats_and_their_uniform_twins_are_runs_of_one_sweep(
    lwexp_here: RunHere,
    client: MlflowClient,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Of the three rates one learns, one stays at chance, which is pruned, and one diverges.

    More trials are asked for than there are values to try.
    """
    outcome = lwexp_here(
        "run", "-m", *LSTM, "sweep.isolate=false", "batch_size=32", "epochs=2", "mult=0.9", "lr=0.05,1e-9,1e38",
        "hydra/sweeper=optuna", "hydra.sweeper.sampler.name=bruteforce", "hydra.sweeper.n_trials=5",
        "hydra.sweeper.pruner={name:threshold,warmup_epochs:0}", "+hydra.sweeper.pruner.options.lower=0.15",
        "hydra.sweeper.uniform_trials=0",
        "hydra.sweeper.repeat={best:2,seeds:[1]}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err  # a trial that failed is a finding
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    parent, children = family(client)
    assert parent.info.status == "FINISHED"
    assert json.loads(parent.data.tags["lwexp.swept"]) == ["mult", "lr", "seed"]
    assert parent.data.tags["lwexp.progress"] == "4 of 5 finished, 1 failed"
    found = {
        name: tuple(run.data.tags.get(f"lwexp.{key}") for key in ("phase", "arm")) for name, run in children.items()
    }
    searched = {f"mult=0.9 lr={lr} seed=0": ("search", "layerwise") for lr in ("0.05", "1e-09", "1e+38")}
    repeats = {"mult=0.9 lr=0.05 seed=1": ("repeat", "layerwise"), "mult=1 lr=0.05 seed=1": ("repeat", "uniform")}
    assert found == {**searched, **repeats}
    for name, run in children.items():
        assert run.info.status == ("FAILED" if "1e+38" in name else "FINISHED")
        assert ("lwexp.pruned" in run.data.tags) == ("1e-09" in name)
        assert ("test/accuracy" in run.data.metrics) == ("lr=0.05" in name)
    pruned = children["mult=0.9 lr=1e-09 seed=0"].data.tags["lwexp.pruned"]
    assert pruned.startswith("at epoch 1, optimizer step 38: val/accuracy 0.1")

    states = {t.user_attrs["lwexp.point"]["values"]["lr"]: t.state.name for t in trials(folder)}
    assert states == {"0.05": "COMPLETE", "1e-09": "PRUNED", "1e+38": "FAIL"}
    (arm,) = json.loads((folder / "search.json").read_text())
    assert arm["trials"] == {"complete": 1, "pruned": 1, "failed": 1}
    assert [best["values"] for best in arm["best"]] == [{"lr": "0.05"}]
    assert "a smaller lr" in next(iter(arm["failures"].values()))
    assert "study search over lr: 1 complete, 1 pruned, 1 failed" in outcome.out


def test_a_search_has_a_uniform_rival_and_resumes_with_more_trials(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
    options = [*LSTM, "sweep.isolate=false", "tracking=none", "batch_size=256", "max_steps=1", "hydra/sweeper=optuna"]
    options += ["hydra.sweeper.n_trials=1", "hydra.sweeper.uniform_trials=1", "hydra.sweeper.repeat={best:1,seeds:[1]}"]
    first = lwexp_here("run", "-m", *options, "decay=cosine", "decay.min_scale=interval(0.1,0.9)")
    assert first.code == 0, first.err
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    work = read_manifest(folder)
    assert work is not None
    # another decay does not use mult, and the rival has none
    assert work.swept == ("decay", "lr", "decay.min_scale", "seed")
    phases = [(point.tags["lwexp.phase"], point.arm, point.baseline) for point in work.points]
    assert phases == [
        ("search", "layerwise", False), ("search", "uniform", False), ("repeat", "layerwise", False),
        ("repeat", "uniform", False), ("repeat", "uniform", True),
    ]  # fmt: skip
    assert [trial.params.keys() for trial in trials(folder, "search-uniform")] == [{"lr"}]
    assert work.points[3].values["lr"] == work.points[1].values["lr"]
    assert work.points[4].values["lr"] == work.points[0].values["lr"]

    again = lwexp_here("run", "-m", f"sweep.resume={folder}", "hydra.sweeper.n_trials=2")
    assert again.code == 0, again.err
    more = read_manifest(folder)
    assert more is not None
    assert more.points[:5] == work.points
    assert more.points[5].tags["lwexp.trial"] == "1"
    assert {point.tags["lwexp.phase"] for point in more.points[6:]} <= {"repeat"}  # none where the best is the same
    assert len(trials(folder)) == 2
    assert len(trials(folder, "search-uniform")) == 1


LOOP = """
import math, sys, time
from pathlib import Path
from hydra.core.override_parser.overrides_parser import OverridesParser
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.search.loop import Arm, Search
from lwexp.sweep.search.space import parse_space
from lwexp.sweep.search.study import Study, make_sampler, open_storage

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def run(points):
    outcomes = []
    for point in points:
        done = folder / f"done-{point.number}"
        if not done.exists():
            time.sleep(seconds)
            done.write_text(f"{point.values['mult']} {point.values['lr']}")
        outcomes.append(Outcome("FINISHED", float(point.values["mult"]) - float(point.values["lr"])))
    return outcomes

space = parse_space(OverridesParser.create().parse_overrides(["mult=interval(0.7,1.0)", "lr=interval(1e-4,1e-1)"]))
study = Study(
    open_storage(None, folder), "search", direction="maximize", sampler=make_sampler("tpe", {"n_startup_trials": 3}, 0),
    pruner=(None, {}), owner=None,
)
arm = Arm(study, space, 12, ("mult", "lr", "seed"))
print("started", flush=True)
Search([arm], seeds=[0], batch=3, first_number=0, run=run).run()
"""


def test_kill_9_at_any_time_leaves_a_study_that_resumes_as_if_undisturbed(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(LOOP, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("calm", "rough"):
        (tmp_path / name).mkdir()
    for pause in (0.05, 0.1, 0.2):
        command = [sys.executable, "loop.py", "rough", "0.04"]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        # Optuna waits 30 s for the lock of a process that was killed with it
        (tmp_path / "rough" / "study.journal.lock").unlink(missing_ok=True)
    for name in ("calm", "rough"):
        subprocess.run([sys.executable, "loop.py", name, "0"], cwd=tmp_path, env=environment, check=True)
    done = {
        name: sorted((p.name, p.read_text()) for p in (tmp_path / name).glob("done-*")) for name in ("calm", "rough")
    }
    planned = [trial for trial in trials(tmp_path / "rough") if trial.user_attrs.keys() != {"lwexp.failure"}]
    assert len(planned) == len(done["rough"]) == len(done["calm"]) == 12
    assert all(trial.state.name == "COMPLETE" for trial in planned)
    if len(planned) == len(trials(tmp_path / "rough")):  # else one was interrupted between ask and plan
        assert done["rough"] == done["calm"]


@pytest.mark.slow
def test_a_search_killed_in_the_middle_and_resumed_runs_each_trial_once(
    lwexp_command: RunCommand, start_command: StartCommand, tmp_path: Path
) -> None:
    options = [*LSTM, *PLAIN, "hydra.sweeper.n_trials=3", "batch_size=256", "epochs=3", "checkpoint.every_steps=1"]
    options += ["tracking=none", "hydra.sweep.dir=outputs/mine"]
    folder = tmp_path / "outputs" / "mine"
    with start_command("run", "-m", *options) as launcher:
        deadline = time.monotonic() + 240
        while not list((folder / "1" / "checkpoints").glob("*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        launcher.send_signal(signal.SIGKILL)
    states = [(trial.state.name, trial.params) for trial in trials(folder)]
    assert [state for state, _ in states] == ["COMPLETE", "RUNNING"]
    first = (folder / "0" / "model.safetensors").stat().st_mtime_ns
    again = lwexp_command("run", "-m", "sweep.resume=outputs/mine")
    assert again.returncode == 0, again.stderr
    after = trials(folder)
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 3
    assert [trial.params for trial in after[:2]] == [params for _, params in states]
    assert (folder / "0" / "model.safetensors").stat().st_mtime_ns == first
    assert [outcome_of(folder / str(number)).attempts for number in range(3)] == [1, 2, 1]
    assert "resuming at optimizer step" in (folder / "1" / "lwexp.log").read_text()
    assert not (folder / "3").exists()
