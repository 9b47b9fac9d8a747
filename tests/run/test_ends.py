"""The edges of a run: signals before it starts and while Python ends, and what a killed one leaves of its files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lwexp.host.lock import Lock
from tests.experiment.resumed_runs import RUN, one_line
from tests.helpers.commands import RunHere
from tests.helpers.processes import StartCommand

ENDING = """
import atexit, os, signal
import hydra.experimental.callback
import lwexp

class AtExit(lwexp.Callback):
    # signals that come while Python is ending, in an exit handler as torch has some
    def __init__(self, number, training=None):
        self.training = training
        for _ in range(2):
            atexit.register(os.kill, os.getpid(), number)

    def gradients_ready(self, progress):
        if self.training is not None:
            os.kill(os.getpid(), self.training)

class Constructed(lwexp.Callback):
    def __init__(self, number):
        os.kill(os.getpid(), number)

class HydraStarts(hydra.experimental.callback.Callback):
    def on_job_start(self, config, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(autouse=True)
def ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ending.py").write_text(ENDING, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("ending", None)


@pytest.mark.parametrize(("number", "training", "code"), [
    (signal.SIGTERM, None, 0),
    (signal.SIGINT, None, 0),
    (signal.SIGTERM, signal.SIGTERM, 143),
    (signal.SIGINT, signal.SIGINT, 130),
    (signal.SIGTERM, signal.SIGINT, 130),
])  # fmt: skip
def test_a_signal_while_python_is_ending_prints_nothing_and_keeps_the_exit_code(
    number: signal.Signals, training: signal.Signals | None, code: int, start_command: StartCommand
) -> None:
    second = "" if training is None else f", training: {int(training)}"
    options = [*RUN, "max_steps=1", f"callbacks={{end: {{_target_: ending.AtExit, number: {int(number)}{second}}}}}"]
    process = start_command("run", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    assert "Exception ignored" not in err
    if training is None:
        assert err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_interrupted_before_it_starts_leaves_no_folder(
    number: signal.Signals, lwexp_here: RunHere, tmp_path: Path
) -> None:
    callback = f"callbacks={{end: {{_target_: ending.Constructed, number: {int(number)}}}}}"
    assert lwexp_here("run", *RUN, callback).code == (143 if number == signal.SIGTERM else 130)
    assert not (tmp_path / "outputs").exists()


def test_neither_does_one_that_is_interrupted_while_hydra_sets_up(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *RUN, "+hydra.callbacks.late={_target_: ending.HydraStarts}")
    assert (outcome.code, outcome.err) == (143, "interrupted\n")
    assert not (tmp_path / "outputs").exists()


def test_nor_one_that_fails_in_a_part_of_the_users(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text("def net(num_classes, in_chans):\n    raise ArithmeticError('no')\n")
    outcome = lwexp_here("run", *RUN[2:], "model=custom", "model._target_=breaking.net")
    assert outcome.code != 0
    assert not (tmp_path / "outputs").exists()


def test_what_was_killed_before_its_run_started_is_named(lwexp_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "here" / ".hydra").mkdir(parents=True)
    line = one_line(lwexp_here("run", "resume=here"))
    assert line.startswith("resume=here: holds a command that was stopped before its run started; ")
    assert lwexp_here("run", *RUN, "max_steps=1", "hydra.run.dir=here").code == 0, "and can be started there"


@pytest.mark.parametrize("delivering", [False, True])
def test_temporary_files_of_killed_processes_are_removed_and_those_of_others_stay(
    delivering: bool, lwexp_here: RunHere, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    left = {".config.yaml.4711-0123abcd", ".result.json.1-00000000", ".best.safetensors.9-89abcdef",
            ".owner.json.4711-0123abcd"}  # fmt: skip
    kept = {".job.json.4711-0123abcd", ".config.yaml.swp", ".notes.1-abc", "config.1-00000000"}
    (kept if delivering else left).add(".delivery.json.4711-0123abcd")  # a delivery that is at work may be writing it
    for name in left | kept:
        (here / name).touch()
    with Lock(here / "delivery.lock") as delivery:
        assert not delivering or delivery.acquire()
        assert lwexp_here("run", *RUN, "max_steps=1", "hydra.run.dir=here").code == 0
    assert {path.name for path in here.iterdir()} & (left | kept) == kept
    (here / ".result.json.1-00000000").touch()
    assert lwexp_here("run", "resume=here").code == 0, "a finished run"
    assert not (here / ".result.json.1-00000000").exists()
