"""Runs with decay=auto_lr: what is printed and recorded of undone epochs, kills within them, several processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiment.resumed_runs import rows, same
from tests.helpers.commands import ROOT, RunHere
from tests.run.measured_runs import TORCHRUN, scales_of
from tests.run.runs import FAKE, SMALL, UNTRACKED, Store, folders
from tests.run.test_heavy_tail_runs import TEXT

UNDOES = ["decay=auto_lr", "decay.quality=1", "decay.relax=1", "decay.retries=2"]
LSTM = [*SMALL, *UNDOES, "grouping=per_parameter", "threads=1"]  # 4 steps in the first epoch, 2 in the second
NETWORKS = {
    "resnet18": [*FAKE, "model=timm", "model.name=resnet18"],
    "vit_tiny": [*FAKE, "model=timm", "model.name=vit_tiny_patch16_224", "data.options.image_size=[3,32,32]",
                 "grouping=depth_index"],
    "bert": [*TEXT, "grouping=depth_index"],
}  # fmt: skip


def killed(tmp_path: Path, options: list[str], steps: int) -> None:
    """A run in `part` that ends with SIGKILL when it has made `steps` steps."""
    kill = f"callbacks={{kill: {{_target_: tests.helpers.measured_decays.KillAfter, steps: {steps}}}}}"
    command = [sys.executable, "-m", "lwexp.run", *options, kill, "hydra.run.dir=part"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_HERE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.usefixtures("no_pictures")
def test_mlflow_has_each_step_once_and_what_was_undone(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *LSTM, "eval_every_steps=3")
    assert outcome.code == 0, outcome.err
    run, (folder,) = store.run(), folders(tmp_path)
    undone = int(dict(store.history(run, "undone/steps"))[5])
    assert undone > 0
    epochs = outcome.out.count(" is undone after ")
    share = f"{undone} of {undone + 6} steps ({100 * undone / (undone + 6):.0f} %)"
    many = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    assert f"undone and run again: {share}, {many}\n" in outcome.out
    assert run.data.tags["lwexp.undone"] == f"{share}, {many}"
    assert "epoch 1/2 is undone after 4 steps: " in outcome.out
    assert re.search(r"\(sorting quality 0\.\d+, wanted 1\); retry 1 of at most 2\n", outcome.out)
    for name in ("train/loss", "lr/00_head.bias"):
        assert [step for step, _ in store.history(run, name)] == [*range(6)]
        assert [step for step, _ in store.history(run, f"undone/{name}")] == [*range(undone)]
    assert [step for step, _ in store.history(run, "val/loss")] == [2, 3, 5]
    assert [row["step"] for row in scales_of(folder)] == [0, 4]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_several_kinds(lwexp_here: RunHere, tmp_path: Path, name: str) -> None:
    options = [*NETWORKS[name], *UNTRACKED, *UNDOES, "max_steps=4", "epochs=2", "batch_size=8", "decay.max_scale=10"]
    words = "\n".join(["text,label", *("a red one,colour", "the cat sat,animal") * 20])
    (tmp_path / "words.csv").write_text(words, encoding="utf-8")
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    found = rows(folder)  # each once
    assert [step for key, step in found if key == "train/loss"] == [*range(4)]
    assert "undone and run again: " in outcome.out
    assert max(scales_of(folder)[-1].values()) <= 10


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("steps", "every"), [(2, 1), (4, 3), (6, 1), (7, 3), (9, 2)])
def test_killed_in_an_undone_epoch_or_in_its_retry_it_resumes_bit_for_bit(
    lwexp_here: RunHere, tmp_path: Path, steps: int, every: int
) -> None:
    """Steps 1 to 4 are undone, 5 to 8 are their retry; then comes the second epoch."""
    options = [*LSTM, *UNTRACKED, f"checkpoint.every_steps={every}", "eval_every_steps=3", "ema.decay=0.9"]
    outcome = lwexp_here("run", *options, "hydra.run.dir=whole")
    assert outcome.out.count("epoch 1/2 is undone after 4 steps") == 1
    killed(tmp_path, options, steps)
    outcome = lwexp_here("run", "resume=part", "checkpoint.allow_targets=[tests.helpers.measured_decays.KillAfter]")
    assert outcome.code == 0, outcome.err
    assert ("resuming at optimizer step" in outcome.out) is (steps > every)
    same(tmp_path / "whole", tmp_path / "part")


def test_mistakes_are_one_line(lwexp_here: RunHere) -> None:
    for options, line in {
        ("decay.retries=-1",): "decay.retries=-1: must be at least 0",
        ("decay.qualty=1",): "decay.qualty=1: unknown option; did you mean quality",
        ("freeze=[lstm]",): "decay=auto_lr: compares groups that train matrices",
    }.items():
        outcome = lwexp_here("run", *SMALL, *UNTRACKED, "decay=auto_lr", *options)
        assert outcome.code == 2
        (found,) = outcome.err.splitlines()
        assert line in found


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_undo_together(lwexp_here: RunHere, tmp_path: Path, parallel: str) -> None:
    """Two processes undo what one undoes, at the same cost."""
    options = [*LSTM, *UNTRACKED, "optimizer=sgd", "checkpoint.every_steps=3"]
    one = lwexp_here("run", *options, "hydra.run.dir=one")
    assert one.code == 0, one.err
    command = [*TORCHRUN, *options, f"parallel={parallel}", "hydra.run.dir=two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (cost,) = re.findall("undone and run again: .*", one.out)
    assert cost in ended.stdout
    ours, theirs = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    assert [*ours.values()] == pytest.approx([*theirs.values()], rel=1e-3)
