"""What is typed as in other programs, or one character off, is answered with what to type instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.cli.mistakes import SMALL
from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import ROOT, RunCommand, RunHere

WRITE = "options are written key=value, without dashes or blanks"


@pytest.mark.parametrize(("words", "line"), [
    ("--lr 0.01", f"command line=--lr 0.01: {WRITE}: lr=0.01"),
    ("mult=0.9 --lr=0.01", f"command line=--lr=0.01: {WRITE}: lr=0.01"),
    ("--batch-size 32 seed=1", f"command line=--batch-size 32: {WRITE}: batch_size=32"),
    ("--model resnet18", f"command line=--model resnet18: {WRITE}: model=resnet18"),
    ("--policy.min_lr 1e-4", f"command line=--policy.min_lr 1e-4: {WRITE}: policy.min_lr=1e-4"),
    ("--mult 0.9", f"command line=--mult 0.9: {WRITE}: mult=0.9"),
    ("--lr", f"command line=--lr: {WRITE}: lr=…"),
    ("lr 0.01", f"command line=lr 0.01: {WRITE}: lr=0.01"),
    ("seed=1 lr= 0.01", f"command line=lr= 0.01: {WRITE}: lr=0.01"),
    ("lr =0.01", f"command line=lr =0.01: {WRITE}: lr=0.01"),
    ("lr = 0.01 seed=1", f"command line=lr = 0.01: {WRITE}: lr=0.01"),
    ("policy=torch policy.T_0=10",
     "policy.T_0=10: is an option of the scheduler CosineAnnealingWarmRestarts, and none is named; write "
     "policy.name=CosineAnnealingWarmRestarts policy.options.T_0=10"),
    ("policy=torch policy.name=StepLR policy.step_size=3",
     "policy.step_size=3: options of the scheduler are one level below; write policy.options.step_size=3"),
    ("diagnostics.every_step=3", "diagnostics.every_step=3: unknown option; did you mean diagnostics.every_steps, "),
    ("early_stopping.patienc=3", "early_stopping.patienc=3: unknown option; did you mean early_stopping.patience, "),
    ("sweep.search.trail=1", "sweep.search.trail=1: unknown option; did you mean sweep.search.trial, "),
    ("policy=torch", "policy.name=???: must be given: a class of torch.optim.lr_scheduler, such as StepLR, "
     "CosineAnnealingLR or OneCycleLR"),
    ("device=gpu", "device=gpu: no such device; did you mean cuda? here there are auto, cpu"),
    ("device=gpu:1", "device=gpu:1: no such device; did you mean cuda:1? here there are auto, cpu"),
    ("device=cdua", "device=cdua: no such device; did you mean cuda? here there are auto, cpu"),
])  # fmt: skip
def test_the_answer_is_what_to_type(words: str, line: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    words_of = [*SMALL[:1], "tracking=none"] if words.startswith(("device", "policy")) else []
    assert one_line(lwexp_here("run", *words_of, *words.split())).startswith(line)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("words", ["--multirn", "mult", "--nothing=1"])
def test_what_is_no_option_stays_an_unknown_word(words: str, lwexp_here: RunHere) -> None:
    assert one_line(lwexp_here("run", words)).startswith(("command line=", "override=mult"))


def test_a_single_pattern_is_a_list_of_one(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = [*SMALL[:4], "max_steps=1", "epochs=1", "progress=false", "tracking=none", "hydra.run.dir=run"]
    single = ["freeze=head.bias", "split_groups=lstm.bias_ih_l0", "no_weight_decay=lstm", "optimizer=adamw"]
    outcome = lwexp_here("run", *options, *single)
    assert outcome.code == 0, outcome.err
    assert "1 of 2" in outcome.out
    kept = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (kept.freeze, kept.split_groups, kept.no_weight_decay) == (["head.bias"], ["lstm.bias_ih_l0"], ["lstm"])
    again = ["freeze=[head.bias]", "split_groups=[lstm.bias_ih_l0]", "no_weight_decay=[lstm]", "optimizer=adamw"]
    assert "is finished" in lwexp_here("run", *options, *again, "resume=auto").out
    assert one_line(lwexp_here("run", *options[:-1], "freeze=hed")).startswith("freeze=hed: ")


@pytest.mark.parametrize(("command", "says"), [
    (["ui"], "there are no runs here; runs lie in outputs/ of the folder where they were started: change to it"),
    (["report"], "there are no runs here; runs lie in outputs/ of the folder where they were started: change to it"),
    (["sync"], "there are no runs below outputs/ here; runs lie in outputs/ of the folder where they were started"),
    (["run", "resume=abcdef"], "there are no runs below outputs/ here; runs lie in outputs/ of the folder where"),
    (["run", "from_run=abcdef"], "there are no runs below outputs/ here; runs lie in outputs/ of the folder where"),
    (["run", "sweep.resume=abcdef"], "there are no sweeps below outputs/ here; they lie where they were started"),
])  # fmt: skip
def test_a_folder_without_runs_says_where_they_lie(command: list[str], says: str, lwexp_command: RunCommand) -> None:
    done = lwexp_command(*command)
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["run", "preview", "ui", "report", "sync"])
def test_help_is_shown_in_a_terminal_without_unicode(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", f"lwexp.{command}", "--help"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "..." in done.stdout
    assert done.stdout.isascii()


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "lwexp.run", "model=résnet"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "r\\xe9snet" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_hubs_retries_are_not_shown_before_the_error(tmp_path: Path) -> None:
    code = """
import logging, huggingface_hub
from lwexp.config.hub import find_on_hub
def fail(*_, **__):
    logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
    raise OSError("no route")
huggingface_hub.get_hf_file_metadata = fail
try:
    find_on_hub("nobody/nothing", "model.name")
except Exception as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("model.name=nobody/nothing: is neither a folder here nor in the cache")
    assert "Retrying" not in done.stderr
