"""Policies per pattern, phases and groups that open: from the command line to the record, and resumed."""

from __future__ import annotations

import math
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp import make_plan
from lwexp.models.lstm import LSTMClassifier
from lwexp.tracking import JournalTracker
from tests.experiment.resumed_runs import RUN, one_line, only_run, rows, same
from tests.helpers.commands import RunHere

# 4 steps in an epoch, 6 in all
PHASES = "phases=[{epochs: 1, train: [head]}, {policy: {name: cosine, warmup_steps: 1}, lr_factor: 0.5}]"
SETTINGS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "policies": (
        ["policies={head: {name: cosine, min_lr: 1e-4}}", "policies.lstm=rex", "policy=linear"],
        {"policy": "linear", "policies": {"lstm": "rex", "head": {"name": "cosine", "min_lr": 1e-4}}},
    ),
    "phases": (
        [PHASES],
        {
            "phases": [
                {"steps": 4, "train": "head"},
                {"policy": {"name": "cosine", "warmup_steps": 1}, "lr_factor": 0.5},
            ]
        },
    ),
    "values": (
        ["policy=onecycle", "weight_decay_policy={name: cosine, end: 0.4}", "momentum_policy.name=onecycle"],
        {"policy": "onecycle"},
    ),
    "opening": (["unfreeze.at={lstm: 3}", "policy=linear"], {"policy": "linear", "unfreeze_at": {"lstm": 3}}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_has_the_rates_of_the_library_and_resumes_bit_for_bit(
    name: str, lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options, keywords = SETTINGS[name]
    options = [*RUN, *options, "optimizer=adamw", "no_weight_decay=true"]
    outcome = lwexp_here("run", *options, "hydra.run.dir=whole")
    assert outcome.code == 0, outcome.err
    plan = make_plan(LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8))
    table = plan.lr_table(**{"policy": "constant", "steps": 6, "steps_per_epoch": 4, **keywords})
    recorded = rows(tmp_path / "whole")
    for i, label in enumerate(plan.labels):
        assert [recorded[f"lr/{label}", step] for step in range(6)] == table[:, i].tolist()
    real = JournalTracker.log

    def log(self: JournalTracker, metrics: Any, step: int, **options: Any) -> None:
        real(self, metrics, step, **options)
        if step == 2 and "train/loss" in metrics:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JournalTracker, "log", log)
    outcome = lwexp_here("run", *options, "hydra.run.dir=part")
    assert outcome.code == 130, outcome.err
    monkeypatch.setattr(JournalTracker, "log", real)
    (told,) = re.findall(r"resume with: python -m lwexp.run (.*)", outcome.out)
    changed = lwexp_here("run", *shlex.split(told), "policies={head: {name: cosine, min_lr: 2e-4}}")
    assert one_line(changed).startswith("policies=")
    if name == "values":
        changed = lwexp_here("run", *shlex.split(told), "weight_decay_policy.end=0.5")
        assert one_line(changed).startswith("weight_decay_policy.end=0.5: the run was made with other values")
        decays = [0.4 + (0.01 - 0.4) * (1 + math.cos(math.pi * t / 5)) / 2 for t in range(6)]
        assert [recorded["weight_decay", step] for step in range(6)] == pytest.approx(decays)
        assert [recorded["momentum", step] for step in (0, 5)] == [0.95 - 0.1 * 0, 0.95]
    outcome = lwexp_here("run", *shlex.split(told))
    assert outcome.code == 0, outcome.err
    same(tmp_path / "whole", tmp_path / "part")


def test_a_preview_says_the_phases(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("preview", *RUN, PHASES)
    assert outcome.code == 0, outcome.err
    assert "note: phase 0, steps 0 to 3: head: constant; lstm: at rest\n" in outcome.out
    assert "note: phase 1, steps 4 to 5, rates times 0.5: head, lstm: cosine\n" in outcome.out
    values = ["weight_decay_policy={name: linear, end: 0.4}", "momentum_policy={name: onecycle}", "optimizer=adamw"]
    outcome = lwexp_here("preview", *RUN, *values)
    assert "note: weight decay, linear: 0.01 at step 0, 0.166 at step 2, 0.4 at step 5\n" in outcome.out
    assert "note: momentum, onecycle: 0.95 at step 0, 0.8688 at step 2, 0.95 at step 5\n" in outcome.out
    outcome = lwexp_here("preview", *RUN, "policies={lstm: {kind: torch, name: StepLR, options: {step_size: 2}}}")
    assert "note: steps 0 to 5: lstm: StepLR; head: constant\n" in outcome.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["policies={heed: cosine}"], r"policies=heed: the pattern matches no parameter; did you mean head"),
        (["policies={head: {name: cosin}}"], r"policies\.head=cosin: no such policy; did you mean cosine"),
        (["policies={head: {name: cosine, gamma: 1}}"], r"policies\.head\.gamma=1: unknown option"),
        (
            ["policies={head: {name: cosine, warmup_steps: 7}}"],
            r"policies\.head\.warmup_steps=7: the warm-up",
        ),
        (["policies={head: 3}"], r"policies\.head=3: "),
        (["policies={head: {name: plateau, metric: val/acc}}"], r"policies\.head\.metric=val/acc: no such metric"),
        (["phases=[{epochs: 1, train: [heed]}, {}]"], r"phases\.0\.train=heed: the pattern matches no parameter"),
        (["phases=[{epoch: 1}, {}]"], r"phases\.0\.epoch=1: unknown option; did you mean epochs"),
        (["phases=[{epochs: 3}, {}]"], r"phases\.1=\{.*\}: would start at step 12, the training has the steps 0 to 5"),
        (
            ["phases=[{epochs: 1, policy: {name: step, step_size: 4}}, {}]"],
            r"phases\.0\.policy\.step_size=4: the rate never falls, the phase has 4 steps",
        ),
        (
            ["phases=[{epochs: 1, policy: {name: linear, warmup_steps: 4}}, {}]"],
            r"phases\.0\.policy\.warmup_steps=4: the warm-up takes all 4 steps of the phase, policy=linear",
        ),
        (["momentum_policy={name: onecycle, bse: 1}"], r"momentum_policy\.bse=1: unknown option; did you mean base"),
        (["momentum_policy={base: 1}"], r"momentum_policy\.name=\?\?\?: must be given"),
        (
            ["weight_decay_policy={name: cosine, end: 0.4}"],
            r"weight_decay_policy=cosine: the optimizer \w+ has no weight",
        ),
        (["weight_decay_policy=5"], r"weight_decay_policy=5: "),
        (["unfreeze.at={lstm: 6}"], r"unfreeze\.at\.lstm=6: the training has the steps 0 to 5"),
        (["unfreeze.at={lstm: 3}", "unfreeze.every_steps=2"], r"unfreeze\.at=.*: is given beside every_steps"),
        (["unfreeze.att={lstm: 3}"], r"unfreeze\.att=.*: unknown option; did you mean at\?"),
    ],
)
def test_mistakes_are_one_line(options: list[str], said: str, lwexp_here: RunHere) -> None:
    assert re.match(said, line := one_line(lwexp_here("preview", *RUN, *options))), line


def test_what_the_reader_of_rates_sees_rests(lwexp_here: RunHere, tmp_path: Path) -> None:
    """`phases` with a policy of the user's own, by path."""
    (tmp_path / "own.py").write_text("def falls(step, by=2):\n    return 1 / (1 + by * step)\n", encoding="utf-8")
    own = "phases=[{steps: 2, policy: {_target_: own.falls, by: 3, min_lr: 5e-4}}, {train: head}]"
    outcome = lwexp_here("run", *RUN, own, "lr=1e-3")
    assert outcome.code == 0, outcome.err
    recorded = rows(only_run(tmp_path))
    head = torch.tensor([recorded["lr/00_head", step] for step in range(6)])
    torch.testing.assert_close(head, torch.tensor([1e-3, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3]))
    assert [recorded["lr/01_lstm", step] for step in range(2, 6)] == [0.0] * 4


def test_a_pattern_that_covers_a_part_of_a_group_splits_it(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *RUN, "policies={lstm.bias_ih_l0: linear}", "unfreeze.at={head.bias: 2}")
    assert outcome.code == 0, outcome.err
    recorded = rows(only_run(tmp_path))
    assert [recorded["lr/01_lstm.bias_ih_l0", step] for step in range(6)] == pytest.approx(
        [9.5e-4 * f for f in (1, 0.8, 0.6, 0.4, 0.2, 0)]
    )
    assert [recorded["lr/01_lstm", step] for step in range(6)] == [9.5e-4] * 6
    assert [recorded["lr/00_head.bias", step] for step in range(6)] == [0, 0, *[1e-3] * 4]
    assert recorded["lr/00_head", 0] == 1e-3
