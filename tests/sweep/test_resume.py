"""`sweep.resume`: a sweep keeps its own settings, has one owner, and runs no code that only its folder names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lwexp.plots import process
from tests.helpers.commands import Outcome, RunHere
from tests.sweep.test_sweep import ALONE, LSTM, client, family  # noqa: F401

PLAIN = [*LSTM, "tracking=none", "sweep.isolate=false", "sweep.report=false"]
SWEEP = [*PLAIN, "max_steps=1", "mult=0.9,0.8", "seed=0", "hydra.sweep.dir=mine"]
EVIL = """
from pathlib import Path

Path("executed").touch()

def f(index, count):
    return 1.0

class C:
    pass
"""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


def points(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["points"]
    return found


def lines(found: Sequence[dict[str, Any]]) -> set[str]:
    """What each point has been told, in one order."""
    return {" ".join(sorted(point["overrides"])) for point in found}


# -------------------------------------------------------------------------------------------------------- its setting


def test_new_points_have_the_settings_of_the_sweep(lwexp_here: RunHere, tmp_path: Path) -> None:
    own = ["batch_size=256", "data.image_size=8", "max_steps=1", "model.hidden_size=8", "model=lstm"]
    assert lwexp_here("run", "-m", *SWEEP).code == 0
    for how in (["progress=false"], ["threads=1", "device=cpu"], ["checkpoint.keep=1", "sweep.report=false"]):
        outcome = lwexp_here("run", "sweep.resume=mine", *how)
        assert (outcome.code, len(points(tmp_path / "mine"))) == (0, 3), outcome.err

    assert lwexp_here("run", "-m", "sweep.resume=mine", "seed=2").code == 0
    assert lines(points(tmp_path / "mine")) == {
        " ".join(sorted([*own, f"mult={mult}", f"seed={seed}"])) for mult in ("0.9", "0.8", "1") for seed in (0, 2)
    }

    # all seeds so far, and the twins that are there already; another choice ends the options of the former
    assert lwexp_here("run", "-m", "sweep.resume=mine", "decay.mult=0.7").code == 0
    added = points(tmp_path / "mine")[6:]
    assert [point["values"] for point in added] == [
        {"seed": "0", "decay.mult": "0.7"}, {"seed": "2", "decay.mult": "0.7"},
    ]  # fmt: skip
    outcome = lwexp_here("run", "-m", "sweep.resume=mine", "model=lstm", "model.num_layers=2", "seed=0", "mult=1")
    assert outcome.code == 0, outcome.err
    (more,) = points(tmp_path / "mine")[8:]
    assert sorted(more["overrides"]) == sorted([
        "data.image_size=8", "batch_size=256", "max_steps=1", "model=lstm", "model.num_layers=2", "seed=0", "mult=1",
    ])  # fmt: skip


def test_the_folder_of_configs_is_remembered(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "files" / "variant").mkdir(parents=True)
    (tmp_path / "files" / "variant" / "slow.yaml").write_text("# @package _global_\nlr: 0.25\n", encoding="utf-8")
    words = ["+variant=slow", "sweep.baseline=false"]
    assert lwexp_here("run", "-m", "--config-dir", "files", *SWEEP, *words).code == 0
    for again in (["sweep.resume=mine"], ["sweep.resume=mine", "seed=1"]):
        outcome = lwexp_here("run", *again)
        assert outcome.code == 0, outcome.err
    assert "lr: 0.25" in (tmp_path / "mine" / "2" / "config.yaml").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "files")
    outcome = lwexp_here("run", "sweep.resume=mine")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert f"its --config-dir {tmp_path}/files is not there any more; give it again" in outcome.err


# ------------------------------------------------------------------------------------------------------------- no cod


@pytest.fixture
def foreign(lwexp_here: RunHere, tmp_path: Path) -> Any:
    """Resumes a sweep of somebody else, whose `sweep.json` has further overrides, and says how that ended."""
    (tmp_path / "evil.py").write_text(EVIL, encoding="utf-8")
    (tmp_path / "theirs").mkdir()
    files = {
        "decay/code": "name: code\n_target_: evil.f\n", "decay/logs": "# @package hydra.job\nenv_set: {A: '1'}\n",
        "decay/secret": "name: ${oc.env:HOME}\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / "theirs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "theirs" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def resume(
        *typed: str, task: Sequence[str] = (), hydra: Sequence[str] = (), point: Sequence[str] = (), **more: Any
    ) -> Outcome:
        shutil.rmtree(tmp_path / "sweep", ignore_errors=True)
        (tmp_path / "sweep").mkdir()
        saved = [*PLAIN, "max_steps=1", "sweep.baseline=false"]
        manifest = {
            "format": 1, "points": [{"number": 0, "overrides": [*LSTM, "max_steps=1", *point]}], "swept": [],
            "overrides": [*saved, *task], "hydra_overrides": list(hydra), "cwd": str(tmp_path), **more,
        }  # fmt: skip
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(manifest), encoding="utf-8")
        sys.modules.pop("evil", None)
        return lwexp_here("run", *(typed or ["sweep.resume=sweep"]))

    return resume


CALLBACK = "+callbacks={x: {target: evil.C}}"
CODE = {
    "target": {"task": ["decay._target_=evil.f"]},
    "the schema's own name": {"task": ["+decay.target=evil.f"]},
    "mapping": {"task": ["decay={_target_: evil.f}"]},
    "callback": {"task": [CALLBACK]},
    "of a point": {"point": ["decay._target_=evil.f"]},
    "callback of a point": {"point": [CALLBACK]},
    "one of several values": {"task": ["decay._target_=evil.f,evil.g"]},
    "library's": {"task": ["+model.trust_remote_code=true"]},
    "allowed by the file": {"task": ["decay._target_=evil.f", "checkpoint.allow_targets=[evil.f]"]},
    "choice": {"task": ["decay=code"], "config_dir": "theirs"},
    "one of several choices": {"task": ["decay=linear,code"], "config_dir": "theirs"},
    "choice of a point": {"point": ["decay=code"], "config_dir": "theirs"},
}
HYDRA = {
    "search path": {"hydra": ["hydra.searchpath=[file:///tmp]"]},
    "callback": {"hydra": ["+hydra.callbacks.x._target_=evil.C"]},
    "among the others": {"task": ["++hydra.job_logging.handlers.console.class=evil.C"]},
    "of a point": {"point": ["+hydra.job.env_set.A=1"]},
    "commands": {"hydra": ["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[touch executed]"]},
    "address": {"hydra": ["hydra/launcher=ray", "hydra.launcher.ray.init.address=evil:1"]},
    "package": {"task": ["decay@hydra.callbacks.x=custom"]},
    "package of a file": {"task": ["decay=logs"], "config_dir": "theirs"},
    "package of a point's file": {"point": ["decay=logs"], "config_dir": "theirs"},
    "resolver": {"task": ["model.name=${oc.env:HOME}"]},
    "resolver of a file": {"task": ["decay=secret"], "config_dir": "theirs"},
    "resolver of a point's file": {"point": ["decay=secret"], "config_dir": "theirs"},
    "config": {"config_name": "theirs"},
}


@pytest.mark.parametrize("how", CODE)
def test_code_that_a_sweeps_file_names_is_not_executed(how: str, foreign: Any, tmp_path: Path) -> None:
    more = {**CODE[how], **({"config_dir": str(tmp_path / "theirs")} if "config_dir" in CODE[how] else {})}
    outcome = foreign(**more)
    assert not (tmp_path / "executed").exists()
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "error: checkpoint.allow_targets=[]: the sweep's settings would execute " in outcome.err
    assert "; allow it with 'checkpoint.allow_targets=[" in outcome.err


@pytest.mark.parametrize("how", HYDRA)
def test_a_sweeps_file_does_not_set_hydra_itself(how: str, foreign: Any, tmp_path: Path) -> None:
    more = {**HYDRA[how], **({"config_dir": str(tmp_path / "theirs")} if "config_dir" in HYDRA[how] else {})}
    outcome = foreign(**more)
    assert not (tmp_path / "executed").exists()
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert outcome.err.startswith("error: sweep.resume=")


def test_code_is_executed_that_the_command_allows_or_names_itself(foreign: Any, tmp_path: Path) -> None:
    bad = ["decay._target_=evil.f"]
    outcome = foreign("sweep.resume=sweep", "checkpoint.allow_targets=[evil.f]", task=bad, point=bad)
    assert outcome.code == 0, outcome.err
    assert foreign("sweep.resume=sweep", *bad, point=bad).code == 0
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    refused = foreign("-m", *PLAIN, "seed=0,1", "hydra.sweep.dir=sweep", "resume=auto", point=bad)
    assert refused.code == 2
    assert "would execute evil.f" in refused.err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("isolate", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_programs_of_a_resumed_sweep_import_nothing_from_its_folder(isolate: str, foreign: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for name in ("json", "mlflow", "matplotlib", "lwexp"):
        (theirs / f"{name}.py").write_text(f"open('{tmp_path}/executed', 'w')", encoding="utf-8")
    outcome = foreign("sweep.resume=sweep", "tracking=mlflow", f"sweep.isolate={isolate}", cwd=str(theirs))
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("number", [-1, "../../elsewhere", 1.5, True])
def test_a_job_runs_nowhere_but_in_the_sweeps_folder(number: object, foreign: Any, tmp_path: Path) -> None:
    outcome = foreign(points=[{"number": number, "overrides": LSTM}])
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "its sweep.json cannot be read" in outcome.err


# ----------------------------------------------------------------------------------------------------------- one owne


def test_a_sweep_in_use_is_refused_at_once(lwexp_here: RunHere, tmp_path: Path) -> None:
    assert lwexp_here("run", "-m", *SWEEP).code == 0
    script = "from pathlib import Path; from lwexp.host.lock import FolderLock"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{script}; FolderLock(Path('mine')).acquire('a', 'b'); print(flush=True); input()"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        for command in (["sweep.resume=mine", "seed=5"], ["-m", *SWEEP, "resume=auto", "seed=5"]):
            outcome = lwexp_here("run", *command)
            assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
            assert f"{tmp_path}/mine is in use by process {holder.pid} on " in outcome.err
    finally:
        holder.communicate(b"\n")
    assert len(points(tmp_path / "mine")) == 3
    assert lwexp_here("run", "sweep.resume=mine", "seed=5").code == 0
    assert not (tmp_path / "mine" / "owner.json").exists()


def test_a_copied_sweep_is_one_of_its_own(lwexp_here: RunHere, client: MlflowClient, tmp_path: Path) -> None:  # noqa: F811
    assert lwexp_here("run", "-m", *LSTM, *ALONE, "max_steps=1", "seed=0,1", "hydra.sweep.dir=mine").code == 0
    shutil.copytree(tmp_path / "mine", tmp_path / "copy")
    outcome = lwexp_here("run", "sweep.resume=copy", "seed=2")
    assert outcome.code == 0, outcome.err
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids)
    parents = {run.info.run_id: run for run in runs if run.data.tags.get("lwexp.kind") == "sweep"}
    assert len(parents) == 2
    children: dict[str, list[str]] = {parent: [] for parent in parents}
    for run in runs:
        if run.info.run_id not in parents:
            assert run.info.status == "FINISHED"
            assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 1
            children[run.data.tags["mlflow.parentRunId"]].append(run.data.params["seed"])
    assert sorted(map(sorted, children.values())) == [["0", "1"], ["0", "1", "2"]]
