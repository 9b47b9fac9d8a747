"""A run that was disturbed and resumed ends with the numbers of one that was not."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lwexp.tracking import JournalTracker, run_status
from tests.experiment.resumed_runs import RUN, one_line, rows, same
from tests.helpers.commands import RunCommand, RunHere
from tests.helpers.processes import StartCommand

LONG = [*RUN[:3], "batch_size=32", "epochs=3", "max_steps=70", "progress=false", "tracking=none", "model.dropout=0.2",
        "checkpoint.every_steps=3", "device=cpu"]  # fmt: skip
MIXED = ["data.augment=randaugment", "data.erasing=0.3", "data.mixup=0.2", "data.cutmix=1", "data.sampler=balanced",
         "data.workers=1"]  # fmt: skip
DISTURBED = {
    "augmented": ["policy=cosine", "policy.warmup_steps=10"],
    "mixed": MIXED,
    "workers": ["data.workers=2"],
    "unfreezing": ["unfreeze.every_steps=20", "grouping=per_parameter", "optimizer=adamw", "no_weight_decay=true"],
    "plateau": ["policy=plateau", "policy.patience=0", "accumulate=2", "max_steps=40"],
}


@pytest.mark.parametrize("batches", [[], MIXED], ids=["plain", "mixed"])
def test_interrupted_in_the_middle_of_an_epoch_it_ends_with_the_same_numbers(
    batches: list[str], lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = [*RUN, "unfreeze.every_steps=2", "model.dropout=0.2", *batches]
    assert lwexp_here("run", *options, "hydra.run.dir=whole").code == 0
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int, **options: Any) -> None:
        real(self, metrics, step, **options)
        if step == 4 and "train/loss" in metrics:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JournalTracker, "log", log)
    outcome = lwexp_here("run", *options, "hydra.run.dir=part")
    assert outcome.code == 130, outcome.err
    (told,) = re.findall(r"resume with: python -m lwexp.run (.*)", outcome.out)
    monkeypatch.setattr(JournalTracker, "log", real)
    outcome = lwexp_here("run", *shlex.split(told))
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "part" / "resumed.json").read_text()) == ["step 5"]
    same(tmp_path / "whole", tmp_path / "part")


GROUPING = """
def mine(model):
    names = [name for name, _ in model.named_parameters()]
    return [("late", names[{cut}:]), ("early", names[:{cut}])]
"""


def test_a_plan_that_has_changed_leaves_the_run_as_it_ended_or_is_taken_by_name(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grouping = [*RUN, "grouping=custom", "grouping._target_=mine.mine", "checkpoint.every_steps=1"]
    (tmp_path / "mine.py").write_text(GROUPING.format(cut=2), encoding="utf-8")
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int, **options: Any) -> None:
        real(self, metrics, step, **options)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalTracker, "log", log)
    outcome = lwexp_here("run", *grouping, "hydra.run.dir=here")
    assert outcome.code == 130, outcome.err
    monkeypatch.setattr(JournalTracker, "log", real)
    (tmp_path / "mine.py").write_text(GROUPING.format(cut=4) + "# longer", encoding="utf-8")
    sys.modules.pop("mine")
    command = ["resume=here", "checkpoint.allow_targets=[mine.mine]"]
    config = (tmp_path / "here" / "config.yaml").read_text()
    line = one_line(lwexp_here("run", *command))
    assert line.startswith("checkpoint.remap=False: the plan is not that of the checkpoint of step 2: ")
    assert run_status(tmp_path / "here") == "KILLED"
    assert (tmp_path / "here" / "config.yaml").read_text() == config
    outcome = lwexp_here("run", *command, "checkpoint.remap=true", "lr=0.5")
    assert outcome.code == 0, outcome.err
    assert rows(tmp_path / "here")["lr/00_late", 5] == 0.5
    sys.modules.pop("mine")


def test_a_run_that_breaks_prints_how_to_go_on_where_it_has_a_checkpoint(lwexp_here: RunHere) -> None:
    for every, told in ((None, False), (1, True)):
        options = [
            "optimizer=sgd",
            "lr_events=[{step: 3, group: 0, lr: 1e38}]",
            f"checkpoint.every_steps={every or 'null'}",
        ]
        outcome = lwexp_here("run", *RUN, *options)
        assert outcome.code == 1
        assert ("resume with: " in outcome.out) is told


@pytest.mark.slow  # several processes that import torch
@pytest.mark.parametrize("name", DISTURBED)
def test_killed_at_some_step_it_ends_with_the_same_numbers(
    name: str, lwexp_command: RunCommand, start_command: StartCommand, tmp_path: Path
) -> None:
    options = [*LONG, *DISTURBED[name], "resume=auto"]
    assert lwexp_command("run", *options, "hydra.run.dir=whole").returncode == 0
    for kills, wanted in enumerate((6, 27)):
        with start_command("run", *options, "hydra.run.dir=part", stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not (tmp_path / f"part/checkpoints/step_{wanted:08d}.ckpt").exists():
                time.sleep(0.005)
            process.kill()
        assert process.returncode == -signal.SIGKILL, f"it had ended before kill {kills}"
    done = lwexp_command("run", "resume=part")
    assert done.returncode == 0, done.stderr
    same(tmp_path / "whole", tmp_path / "part")


@pytest.mark.slow
def test_terminated_it_goes_on_with_the_printed_command(
    lwexp_command: RunCommand, start_command: StartCommand, tmp_path: Path
) -> None:
    options = [*LONG, "hydra.run.dir=a b", "checkpoint.every_steps=5"]
    with start_command("run", *options, stdout=subprocess.PIPE) as process:
        while process.poll() is None and not (tmp_path / "a b/checkpoints/step_00000005.ckpt").exists():
            time.sleep(0.005)
        process.terminate()
        out, _ = process.communicate()
    assert process.returncode == 143
    assert run_status(tmp_path / "a b") == "KILLED"
    (told,) = re.findall(r"resume with: python -m lwexp.run (.*)", out)
    done = lwexp_command("run", *shlex.split(told))
    assert done.returncode == 0, done.stderr
    assert run_status(tmp_path / "a b") == "FINISHED"
