"""Launchers: refused in one line if they cannot work; one job's end is not another's, and none waits forever."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from lwexp.errors import ConfigError
from lwexp.record.describe import cluster_tags
from lwexp.sweep.launchers import registry
from lwexp.sweep.launchers.base import LaunchedJob, loss_reason
from lwexp.sweep.launchers.joblib_launcher import JoblibLauncher
from lwexp.sweep.launchers.registry import check_launcher, parallel_jobs
from lwexp.sweep.launchers.slurm_queue import wait_for_results
from tests.helpers.commands import ROOT, Outcome

RunHere = Callable[..., Outcome]
TINY = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=2", "progress=false"]
CONF = ROOT / "conf" / "hydra" / "launcher"


def of(choice: str, **values: Any) -> Any:
    """The config of a sweep with a launcher."""
    own: dict[str, Any] = {"launcher": OmegaConf.load(CONF / f"{choice}.yaml"), "job": {"name": "lwexp"}}
    hydra = {"hydra": {**own, "sweep": {"dir": "sweep"}}}
    return OmegaConf.merge(hydra, {"tracking": {"uri": None}, "device": "cpu", "threads": None}, values)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulates installed packages and commands."""
    there: dict[str, Any] = {"packages": {"joblib", "submitit", "ray"}, "commands": {"sbatch", "squeue"}}
    monkeypatch.setattr(registry, "find_spec", lambda name: name if name in there["packages"] else None)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in there["commands"] else None)
    return there


@pytest.mark.parametrize(("choice", "package", "extra"), [
    ("joblib", "joblib", "joblib"), ("submitit_slurm", "submitit", "slurm"), ("ray", "ray", "ray"),
])  # fmt: skip
def test_a_missing_package_is_named_with_what_installs_it(
    choice: str, package: str, extra: str, installed: Any, lwexp_here: RunHere, tmp_path: Path
) -> None:
    installed["packages"] -= {package}
    outcome = lwexp_here("run", "-m", *TINY, f"hydra/launcher={choice}", "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == f"error: hydra/launcher={choice}: needs the package {package}: pip install -e '.[{extra}]'\n"
    assert not list(tmp_path.rglob("*.db"))


@pytest.mark.parametrize(("options", "line"), [
    (["hydra/launcher=joblib", "hydra.launcher.n_jobs=many"], "hydra.launcher.n_jobs=many: should be a valid integer"),
    (["hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], "n_jobs=0: should be greater than or equal to 1"),
    (["hydra/launcher=joblib", "+hydra.launcher.jobs=2"], "launcher.jobs=2: unknown option; did you mean n_jobs?"),
    (["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=1h"], "timeout_min=1h: should be a valid integer"),
    (["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=-1"], "num_gpus=-1: should be greater than or equal"),
])  # fmt: skip
def test_mistakes_in_its_options_are_one_line(
    options: list[str], line: str, installed: Any, lwexp_here: RunHere
) -> None:
    outcome = lwexp_here("run", "-m", *TINY, *options, "seed=0,1")
    assert outcome.code == 2
    assert line in outcome.err
    assert outcome.err.count("\n") == 1


def test_slurm_is_refused_on_a_machine_without_it(installed: Any) -> None:
    installed["commands"] -= {"sbatch"}
    with pytest.raises(ConfigError, match=r"hydra/launcher=submitit_slurm: there is no Slurm here"):
        check_launcher(of("submitit_slurm"))


def test_no_password_reaches_the_files_of_a_slurm_job(installed: Any) -> None:
    check_launcher(of("submitit_slurm", tracking={"uri": "http://host:5000"}))
    with pytest.raises(ConfigError, match=r"anna:\*\*\*@host.*export MLFLOW_TRACKING_URI"):
        check_launcher(of("submitit_slurm", tracking={"uri": "http://anna:s3cret@host:5000"}))


def test_so_many_jobs_run_at_once_on_this_machine() -> None:
    basic = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    assert parallel_jobs(OmegaConf.create({"hydra": {"launcher": basic}})) == 1
    assert parallel_jobs(of("joblib", hydra={"launcher": {"n_jobs": 7}})) == 7
    assert parallel_jobs(of("joblib", threads=10_000)) == 1
    assert parallel_jobs(of("submitit_slurm")) is None
    assert parallel_jobs(of("ray")) is None


def test_jobs_side_by_side_share_the_cores_and_all_results_come_back(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("joblib")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    options = ["tracking=none", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "mult=0.9", "sweep.baseline=false"]
    outcome = lwexp_here("run", "-m", *TINY, *options, "seed=0,1", "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    assert "2 jobs at once, " in outcome.out
    assert "2 jobs: 2 finished" in outcome.out
    assert len(list((tmp_path / "sweep").glob("*/model.safetensors"))) == 2


# ------------------------------------------------------------------------------------------ jobs without accounting


def jobs(count: int) -> list[LaunchedJob]:
    return [LaunchedJob((f"seed={n}",), n, None, None, None, {}, "") for n in range(count)]  # type: ignore[arg-type]


class Handle:
    """submitit's side of a job: its result is a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.job_id = name
        self.paths = SimpleNamespace(result_pickle=folder / f"{name}.pkl", stderr=folder / f"{name}.err")

    def exception(self) -> Exception | None:
        text = self.paths.result_pickle.read_text(encoding="utf-8")
        return Exception(text) if text else None

    def result(self) -> JobReturn:
        return JobReturn(status=JobStatus.COMPLETED, _return_value=self.job_id)


def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A `squeue` that runs `script`, with $LOOK the number of the look."""
    command = tmp_path / "bin" / "squeue"
    command.parent.mkdir()
    counting = f"echo >> {tmp_path}/looks; LOOK=$(($(wc -l < {tmp_path}/looks)))\n"
    command.write_text(f"#!/bin/sh\n{counting}{script}\n", encoding="utf-8")
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho JobId=7 JobState=NODE_FAIL\n", encoding="utf-8")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")


def test_jobs_that_slurm_has_ended_are_lost_and_those_that_it_restarts_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["7_0", "7_1", "7_2", "7_3"]
    handles = [Handle(tmp_path, name) for name in names]
    handles[0].paths.result_pickle.write_text("", encoding="utf-8")
    handles[1].paths.stderr.write_text("srun: x\nslurmstepd-a: error: Exceeded job memory limit\n", encoding="utf-8")
    late = handles[3].paths.result_pickle
    # the last one waits, is between two starts, runs, and leaves a result; once the queue does not answer
    script = f"""
    case $LOOK in
      1) exit 1 ;;
      2) echo "7_1 None"; echo "7_3 PartitionTimeLimit" ;;
      3) ;;
      4|5) echo "7_3 BeginTime" ;;
      *) echo "7_3 None"; [ $LOOK -gt 15 ] && : > {late} ;;
    esac"""
    squeue(tmp_path, monkeypatch, script)
    submitted = {name: (job, handle) for name, job, handle in zip(names, jobs(4), handles, strict=True)}
    results = wait_for_results(submitted, poll_seconds=0.02, gone_seconds=0.1)
    assert loss_reason(results[1]) == f"Slurm ended it: Exceeded job memory limit (job 7_1, {handles[1].paths.stderr})"
    assert loss_reason(results[2]) == f"Slurm ended it: NODE_FAIL (job 7_2, {handles[2].paths.stderr})"
    assert [results[n].return_value for n in (0, 3)] == ["7_0", "7_3"]
    assert "Slurm's job 7_3 waits: PartitionTimeLimit" in caplog.text


def test_a_job_that_submitit_abandons_is_lost_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(tmp_path, monkeypatch, "")
    handle = Handle(tmp_path, "7")
    trace = "Traceback:\n  somewhere\nsubmitit.UncompletedJobError: timed-out too many times.\n----\n"
    handle.paths.result_pickle.write_text(trace, encoding="utf-8")
    results = wait_for_results({"7": (jobs(1)[0], handle)}, poll_seconds=0.02, gone_seconds=0.1)
    assert "timed-out too many times." in loss_reason(results[0])


def test_a_run_on_slurm_leads_to_its_job_and_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_tags() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert cluster_tags() == {"lwexp.slurm.job": "9"}
    monkeypatch.setenv("SUBMITIT_FOLDER", "/sweep/.submitit/%j")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert cluster_tags() == {"lwexp.slurm.job": "7_3", "lwexp.slurm.log": "/sweep/.submitit/7_3"}


def test_a_node_without_the_sweeps_folder_loses_the_job_with_a_reason(tmp_path: Path) -> None:
    job = LaunchedJob(("seed=0",), 0, None, None, None, {}, str(tmp_path / "nowhere"))  # type: ignore[arg-type]
    why = loss_reason(job())
    assert f"cannot enter {tmp_path}/nowhere: No such file or directory" in why
    assert "must be on a disk that all nodes share" in why


def test_a_killed_process_of_the_pool_ends_the_sweep_and_keeps_what_is_done(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    launcher = JoblibLauncher(n_jobs=2)
    launcher.config = of("joblib", hydra={"launcher": {"n_jobs": 2}, "sweep": {"dir": str(tmp_path)}})
    first, killer = launcher.run([Mortal(tmp_path, number) for number in range(2)])  # type: ignore[misc]
    assert first.status == JobStatus.COMPLETED
    assert "was killed" in loss_reason(killer)


class Mortal:
    """Number 1 kills the process that runs it, once number 0 has ended."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number, self.overrides = folder, number, ()

    def __call__(self) -> JobReturn:
        if self.number == 1:
            while not (self.folder / "0").exists():
                time.sleep(0.05)
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / "0").touch()
        return JobReturn(status=JobStatus.COMPLETED, _return_value=self.number)
