"""`lwexp.find`: what it prints and keeps, that other commands leave it alone, and that a test disturbs no training."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from lwexp.core.finding.curve import RangeTest
from lwexp.core.finding.find_lr import FoundRates, find_rates, trained_groups
from lwexp.data import train_loader
from lwexp.training.callbacks import Callback
from lwexp.training.probing import Probing
from lwexp.training.trainer import Trainer
from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import ROOT, Outcome, RunHere
from tests.helpers.tiny_training import BATCHES, Noisy, close, flat, make_trainer
from tests.run.runs import Store

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
SMALL = ["model=lstm", "model.hidden_size=16", "data.image_size=8", "threads=1", "batch_size=64", "epochs=1"]
SHORT = [*SMALL, "find.steps=60", "find.smoothing=0.9", "find.min_lr=1e-5", "find.max_lr=100"]


def folder_of(outcome: Outcome, base: Path) -> Path:
    assert outcome.code == 0, outcome.err
    (folder,) = (base / "outputs" / "finds").iterdir()
    return folder


def pasted(outcome: Outcome) -> list[str]:
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("to train with it: ")]
    return shlex.split(line.removeprefix("to train with it: "))


def test_it_prints_overrides_that_a_run_takes_and_keeps_a_run_of_its_own_kind(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    outcome = lwexp_here("find", *SHORT, "find.groups=true", "mult=0.5", "policy=cosine", "name=mine")
    folder = folder_of(outcome, tmp_path)
    for rule in ("valley", "steepest", "minimum", "divergence"):
        assert re.search(rf"^{rule} +(\d\.\de[-+]\d\d|-) ", outcome.out, re.MULTILINE), outcome.out
    kept = json.loads((folder / "find.json").read_text())
    assert shlex.split(kept["overrides"]) == pasted(outcome)
    assert list(kept["found"]) == ["base", "00_head", "01_lstm"]
    assert pasted(outcome)[0] == f"lr={kept['found']['base']['rates']['valley']:.1e}"
    assert re.fullmatch(r"lr_mults=\{.*lstm: [\d.e+]+\}", pasted(outcome)[1])
    with (folder / "find.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["of"] == "base"]
    assert float(rows[0]["lr"]) == pytest.approx(1e-5)
    assert all(imread(folder / name).shape[1] == 1800 for name in ("find.png", "find_groups.png"))

    run = store.run()
    assert (run.data.tags["lwexp.kind"], run.info.run_name, run.info.status) == ("find", "mine", "FINISHED")
    assert dict(store.history(run, "find/loss"))[3] == pytest.approx(float(rows[3]["loss"]))
    assert run.data.metrics["find/valley"] == pytest.approx(kept["found"]["base"]["rates"]["valley"])
    assert store.files(run) == {"find.csv", "find.json", "find.png", "find_groups.png"}
    assert "lr=" in run.data.tags["mlflow.note.content"]
    # other commands take it for no training
    assert "tracking.experiment=lwexp: holds no sweep yet" in lwexp_here("report").err
    assert "matches range tests alone" in lwexp_here("report", "--filter", "params.seed = '0'").err
    assert "there are no runs below outputs/ here" in lwexp_here("evaluate", "latest").err
    assert "holds range tests, which" in one_line(lwexp_here("run", f"from_run={folder}"))

    trained = lwexp_here("run", *SMALL, "mult=0.5", "max_steps=2", "progress=false", *pasted(outcome))
    assert trained.code == 0, trained.err
    rates = json.loads((folder / "find.json").read_text())["found"]
    plan = next((tmp_path / "outputs" / "runs").iterdir()) / "plan.csv"
    with plan.open() as file:
        planned = {row["name"]: float(row["lr"]) for row in csv.DictReader(file)}
    assert planned["lstm"] == pytest.approx(rates["01_lstm"]["rates"]["valley"], rel=0.1), "two digits are printed"


def test_it_is_repeatable_and_other_parts_of_a_schedule_are_off(lwexp_here: RunHere, tmp_path: Path) -> None:
    found = []
    for number, more in enumerate((["policy=constant"], ["policy=cosine", "policy.warmup_steps=3", "max_steps=7"])):
        outcome = lwexp_here("find", *SHORT, *more, "tracking=none", f"hydra.run.dir={number}", "find.repeats=2")
        assert outcome.code == 0, outcome.err
        found.append((tmp_path / str(number) / "find.csv").read_text())
    assert found[0] == found[1]


def test_rates_of_their_own_stay_and_are_not_tested(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("find", *SHORT, "lr_overrides={lstm: 1e-4}", "find.groups=true", "tracking=none")
    assert list(json.loads((folder_of(outcome, tmp_path) / "find.json").read_text())["found"]) == ["base", "00_head"]
    why = one_line(lwexp_here("find", *SHORT, "lr_overrides={lstm: 1e-4, head: 1e-3}"))
    assert why.endswith("set every rate, so no base rate can be found")


def test_no_answer_is_said_with_its_reason(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("find", *SMALL, "find.min_lr=1e-9", "find.max_lr=1e-8", "find.steps=30", "tracking=none")
    folder = folder_of(outcome, tmp_path)
    assert "no answer: flat: the loss falls by less than 3% from 1.0e-09 to 1.0e-08; go higher, max_lr" in outcome.out
    assert "to train with it" not in outcome.out
    assert json.loads((folder / "find.json").read_text())["found"]["base"]["rates"] == {}


@pytest.mark.parametrize(("options", "key"), [
    (["find.max_lr=1e-9"], "find.max_lr=1e-09: must be above find.min_lr=1e-07"), (["find.steps=3"], "find.steps=3: "),
    (["find.step=30"], "find.step=30: "), (["find.smoothing=1"], "find.smoothing=1"), (["lr=-1"], "lr=-1: "),
])  # fmt: skip
def test_a_mistake_is_one_line(options: list[str], key: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    assert one_line(lwexp_here("find", *SMALL, *options)).startswith(key)
    assert not list(tmp_path.glob("outputs/finds/*"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_find_what_one_finds(lwexp_here: RunHere, tmp_path: Path, parallel: str) -> None:
    options = [*SHORT, "tracking=none", "device=cpu"]
    assert lwexp_here("find", *options, "hydra.run.dir=one").code == 0
    command = [*TORCHRUN, "lwexp.find", *options, f"parallel={parallel}", "hydra.run.dir=two"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("to train with it: ") == 1
    losses = []
    for folder in ("one", "two"):
        with (tmp_path / folder / "find.csv").open() as file:
            losses.append([float(row["loss"]) for row in csv.DictReader(file)][:20])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


class Finder(Callback):
    """A range test of everything in the middle of a training."""

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.found: list[FoundRates] = []

    def step_start(self, progress: Any) -> None:
        if progress.step not in (0, 7):
            return
        trainer = self.trainer
        assert trainer is not None
        trainer.flush()
        learner, options = trainer.learner, trainer.options
        loader = train_loader(Noisy(4 * BATCHES + 1), batch_size=4, seed=0, workers=0, device="cpu")
        probing = Probing(learner, progress, loader, options.accumulate, options.clip_grad_norm, trainer.world)
        test, tested = RangeTest(steps=30, repeats=2), trained_groups(learner.plan, [])
        self.found.append(find_rates(probing.probe(), test, tested=tested[:2]))
        loader.close()


@pytest.mark.parametrize("options", [
    {}, {"accumulate": 2}, {"clip_grad_norm": 0.1}, {"optimizer": "sgd", "optimizer_options": {"momentum": 0.9}},
    {"precision": "bf16"}, {"precision": "fp16"}, {"optimizer": "adamw", "optimizer_options": {"fused": False}},
    {"plan_options": {"freeze": ["stem"], "freeze_mode": "lr_zero"}},
], ids=str)  # fmt: skip
def test_within_a_training_it_leaves_the_training_as_it_would_be(tmp_path: Path, options: dict[str, Any]) -> None:
    """Weights, statistics, optimizer, dropout and the order of the data are the same bits; each test had an end."""
    plain = make_trainer(tmp_path / "plain", **options)
    plain.fit()
    callback = Finder()
    tested = make_trainer(tmp_path / "tested", callbacks={"finder": callback}, **options)
    callback.trainer = tested
    tested.fit()
    states = [{"model": t.learner.model.state_dict(), "optimizer": t.learner.optimizer.state_dict()}
              for t in (plain, tested)]  # fmt: skip
    assert flat(states[0]) == flat(states[1])
    assert len(callback.found) == 2
    assert callback.found[0].base.curve.losses != callback.found[1].base.curve.losses
    for trainer in (plain, tested):
        close(trainer)
