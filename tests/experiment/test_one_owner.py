"""A run's folder has one owner at a time: a second command is refused at once and disturbs nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

import lwexp
from lwexp.tracking import run_status
from tests.experiment.resumed_runs import RUN, one_line, same
from tests.helpers.commands import RunHere
from tests.helpers.processes import StartCommand, owning


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose run is about to begin in the folder `here`: it has written nothing yet."""
    with owning(tmp_path / "here") as process:
        yield process


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_command_is_refused_while_the_first_one_begins(
    owner: subprocess.Popen[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    before = files(tmp_path / "here")
    held = f"{tmp_path}/here is in use by process {owner.pid} on "
    for options, key in ((["resume=auto"], "resume=auto"), ([], f"hydra.run.dir={tmp_path}/here")):
        line = one_line(lwexp_here("run", *RUN, "hydra.run.dir=here", *options))
        assert line.startswith(f"{key}: {held}"), line
    with pytest.raises(lwexp.LwexpError, match=held):
        lwexp.run_job(*RUN, "hydra.run.dir=here")
    assert files(tmp_path / "here") == before
    owner.communicate("\n")
    outcome = lwexp_here("run", *RUN, "hydra.run.dir=here", "resume=auto")
    assert outcome.code == 0, outcome.err
    assert not list((tmp_path / "here").glob("owner.*"))


def test_of_two_commands_that_resume_one_run_the_second_is_refused_and_a_killed_first_blocks_nobody(
    start_command: StartCommand, lwexp_here: RunHere, tmp_path: Path
) -> None:
    options = [*RUN, "max_steps=null", "epochs=100000", "hydra.run.dir=here", "resume=auto"]
    process = start_command("run", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        held = f"{tmp_path}/here is in use by process {process.pid} on "
        assert one_line(lwexp_here("run", *options)).startswith(f"resume=auto: {held}")
        assert one_line(lwexp_here("run", "resume=here")).startswith(f"resume={tmp_path}/here: {held}")
        assert lwexp_here("preview", "resume=here").code == 0, "to look is allowed"
        assert process.poll() is None
        assert run_status(tmp_path / "here") is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    outcome = lwexp_here("run", *RUN, "hydra.run.dir=here", "resume=auto", "checkpoint.remap=true")
    assert outcome.code == 0, outcome.err
    assert run_status(tmp_path / "here") == "FINISHED"


@pytest.mark.usefixtures("no_pictures")
def test_a_mistake_frees_the_folder_and_leaves_none(lwexp_here: RunHere, tmp_path: Path) -> None:
    one_line(lwexp_here("run", *RUN, "model=resnet19", "~model.hidden_size", "hydra.run.dir=a/here"))
    with pytest.raises(lwexp.LwexpError, match="resnet19"):
        lwexp.run_job(*RUN, "model=resnet19", "~model.hidden_size", "hydra.run.dir=b/here")
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_copy_is_another_mlflow_run_and_the_original_goes_on_as_the_one_it_was(
    lwexp_here: RunHere, stop_after: Callable[[int | None], None], empty_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    stop_after(2)
    assert lwexp_here("run", *RUN[:-1], "checkpoint.every_steps=1", "hydra.run.dir=here").code == 130
    stop_after(None)
    shutil.copytree(tmp_path / "here", tmp_path / "copy")
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("lwexp")
    assert experiment is not None
    (first,) = client.search_runs([experiment.experiment_id])
    outcome = lwexp_here("run", "resume=copy")
    assert outcome.code == 0, outcome.err
    assert f"{tmp_path}/copy is a copy of {tmp_path}/here, which is still there" in outcome.out
    assert lwexp_here("run", f"resume={first.info.run_id}").code == 0, "an id is that of the original"
    found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    second = found[next(id_ for id_ in found if id_ != first.info.run_id)]
    assert len(found) == 2
    for run in found.values():
        assert run.info.status == "FINISHED"
        steps = [row.step for row in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(6)), "each step once"
    assert second.data.tags["lwexp.copy_of"] == first.info.run_id
    assert second.data.tags["lwexp.folder"] == str(tmp_path / "copy")
    same(tmp_path / "here", tmp_path / "copy")
