from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lwexp.cli import app
from lwexp.host.signals import Interrupted, Requests, handle_in_command, report_stop
from lwexp.training.callbacks import Callback
from lwexp.training.state import Progress
from lwexp.training.trainer import Trainer
from tests.helpers.commands import ROOT
from tests.helpers.tiny_training import BATCHES, WatchedStep, flat, load, make_trainer

ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Interrupted}
ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers that a process starts with, whatever the process of the tests was started with."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ALL[1:]:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Send(Callback):
    """Sends signals to this process in the middle of an optimizer step, or when the evaluation after it starts."""

    def __init__(self, at: int, *signals: int, evaluation: bool = False) -> None:
        self.at, self.signals, self.evaluation, self.step = at, signals, evaluation, 0

    def gradients_ready(self, progress: Progress) -> None:
        self.step = progress.step
        if not self.evaluation:
            self.send()

    def evaluation_start(self, split: str) -> None:
        self.step += 1
        if self.evaluation:
            self.send()

    def send(self) -> None:
        if self.step == self.at:
            for number in self.signals:
                os.kill(os.getpid(), number)


def signaled(folder: Path, at: int, *signals: int, evaluation: bool = False, **setting: Any) -> Trainer:
    callbacks = {"send": Send(at, *signals, evaluation=evaluation)}
    return make_trainer(folder, callbacks=callbacks, **{"every_steps": None, **setting})


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step_")) for path in (folder / "checkpoints").glob("*.ckpt"))


def resumed(folder: Path, **setting: Any) -> Trainer:
    return load(make_trainer(folder, **setting))


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("at", [0, 3, BATCHES - 1, 12])
def test_the_step_is_finished_and_saved_and_then_the_training_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, at: int
) -> None:
    trainer = signaled(tmp_path, at, number)
    with pytest.raises(ENDS[number]) as caught:
        trainer.fit()
    if isinstance(caught.value, Interrupted):
        assert pickle.loads(pickle.dumps(caught.value)).signum == number, "a launcher may send it to another process"
    assert capfd.readouterr().err == (
        f"\n{number.name}: the step is finished and a checkpoint written; a second Ctrl-C stops at once\n"
    )
    assert steps_saved(tmp_path) == [at + 1]
    whole = make_trainer(tmp_path / "whole", every_steps=None)
    whole.fit()
    second = resumed(tmp_path, every_steps=None)
    second.fit()
    assert flat(second.checkpointer.state()["model"]) == flat(whole.checkpointer.state()["model"])
    assert second.progress.best == whole.progress.best


@pytest.mark.parametrize("number", ENDS)
def test_an_evaluation_is_given_up_and_made_anew(tmp_path: Path, number: signal.Signals) -> None:
    trainer = signaled(tmp_path, BATCHES, number, evaluation=True)
    with pytest.raises(ENDS[number]):
        trainer.fit()
    assert steps_saved(tmp_path) == [BATCHES]
    assert trainer.progress.best == {}
    second = resumed(tmp_path, every_steps=None)
    assert (second.progress.step, second.progress.batches) == (BATCHES, BATCHES)
    second.fit()
    assert ("val/loss", BATCHES - 1) in second.tracker.values  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_clusters_signal_saves_and_the_training_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    trainer = signaled(tmp_path, 3, number)
    trainer.fit()
    assert trainer.progress.step == 13
    assert steps_saved(tmp_path) == [4]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = signaled(tmp_path, 3, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert steps_saved(tmp_path) == []
    assert capfd.readouterr().err.count("SIGINT") == 1


def test_a_second_sigterm_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = signaled(tmp_path, 3, signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(Interrupted):
        trainer.fit()
    assert steps_saved(tmp_path) == [4]
    assert capfd.readouterr().err.count("the step is finished") == 1


def test_a_checkpoint_that_was_due_anyway_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = signaled(tmp_path, 3, signal.SIGTERM, every_steps=1)
    assert trainer.checkpointer.files is not None
    saved = []
    save = trainer.checkpointer.files.save
    monkeypatch.setattr(
        trainer.checkpointer.files, "save", lambda s, step, best: saved.append(step) or save(s, step, best)
    )
    with pytest.raises(Interrupted):
        trainer.fit()
    assert saved == [1, 2, 3, 4]


def test_without_checkpoints_a_signal_ends_the_training_at_once(tmp_path: Path) -> None:
    trainer = signaled(tmp_path, 3, signal.SIGUSR1, signal.SIGINT, checkpoints=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.progress.step == 3


def test_handlers_are_put_back(tmp_path: Path) -> None:
    def own(number: int, frame: Any) -> None: ...

    signal.signal(signal.SIGUSR1, own)  # that of a launcher, which takes its own action
    signal.signal(signal.SIGTERM, own)
    inside = []
    trainer = make_trainer(tmp_path)
    trainer.step = WatchedStep(trainer.step, before=lambda number: inside.append([signal.getsignal(n) for n in ALL]))
    trainer.fit()
    assert inside[0][1:3] == [own, own]
    assert inside[0][0] != signal.default_int_handler
    assert inside[0][3] != signal.SIG_DFL
    assert [signal.getsignal(n) for n in ALL] == [signal.default_int_handler, own, own, signal.SIG_DFL]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell's background jobs have it
    with Requests(stops=True) as requests:
        os.kill(os.getpid(), signal.SIGINT)
    assert requests.stop is None


def test_only_the_main_thread_installs_handlers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.progress.step == 13


def test_a_signal_that_nobody_heeded_is_raised_at_the_end() -> None:
    with pytest.raises(Interrupted), Requests(stops=True):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_forked_child_does_not_act_on_signals() -> None:
    with Requests(stops=True) as requests:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0 if requests.stop is None else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_command_survives_a_clusters_signal_outside_the_training() -> None:
    handle_in_command()
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(app.Interrupted):
        os.kill(os.getpid(), signal.SIGTERM)


# ------------------------------------------------------------------------------------------ in a process of its own

SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.helpers.tiny_training import WatchedStep, close, make_trainer
trainer = make_trainer(Path(sys.argv[1]), every_steps=None, workers=1, steps=400, epochs=80)
def slowly(number):
    print(number, flush=True)
    time.sleep(0.02)
trainer.step = WatchedStep(trainer.step, after=slowly)
try:
    trainer.fit()
finally:
    if len(sys.argv) == 2:
        close(trainer)
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a training with a worker, in a process group of its own, and wait until it has made some steps."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment["OMP_NUM_THREADS"] = "1"
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "7\n":
            assert line, process.communicate()[1]
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("number", ENDS)
def test_every_process_of_a_job_is_signalled(
    tmp_path: Path, training: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = training()
    os.killpg(process.pid, signal.SIGUSR1)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGUSR2)
    time.sleep(0.2)
    assert process.poll() is None
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.rstrip().splitlines()[-1].startswith(("KeyboardInterrupt", "lwexp.host.signals.Interrupted: SIGTERM"))
    assert f"{number.name}: the step is finished" in err
    assert "worker" not in err
    last = int(out.split()[-1])
    assert steps_saved(tmp_path)[-1] == last + 1
    assert len(steps_saved(tmp_path)) == 3


def test_workers_that_nobody_closed_do_not_hold_up_the_end(training: Callable[..., subprocess.Popen[str]]) -> None:
    process = training("leave the workers")
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "SIGINT: the step is finished" in err
    assert time.monotonic() - start < 40, "Python waits for workers that ignore its signal"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_only_what_comes_from_a_signal_is_told_as_one(capfd: pytest.CaptureFixture[str]) -> None:
    for error in (OSError("no queue"), SystemExit(1)):
        report_stop(error)
    assert capfd.readouterr().err == ""
    report_stop(KeyboardInterrupt())
    report_stop(Interrupted(signal.SIGTERM))
    assert re.findall(r"^(\w+): the step is finished", capfd.readouterr().err, re.MULTILINE) == ["SIGINT", "SIGTERM"]
