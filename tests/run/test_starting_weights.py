"""Runs that return to where they started: L2-SP and WiSE-FT through the command, resumed, recorded, used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lwexp
from lwexp.tracking import JournalTracker
from tests.experiment.resumed_runs import rows, same
from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, UNTRACKED, Store, weights

pytestmark = pytest.mark.usefixtures("no_pictures")
BOTH = ["l2_sp.alpha=0.1", "l2_sp.new=[kind/head]", "wise_ft.alpha=0.25", "wise_ft.new=[kind/head]", "optimizer=sgd"]


@pytest.fixture
def source(lwexp_here: RunHere, tmp_path: Path) -> list[str]:
    """Options that load weights trained before."""
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=2", "epochs=1", "hydra.run.dir=source")
    assert outcome.code == 0, outcome.err
    return [*SMALL, "weights=checkpoint", f"weights.path={tmp_path / 'source' / 'best.safetensors'}", "seed=1"]


def test_average_is_evaluated_recorded_kept_and_can_be_used(
    source: list[str], lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", *source, "wise_ft.alpha=0.25", "wise_ft.new=kind/head", "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    folder, run = tmp_path / "here", store.run()
    start, best, mix = (weights(folder, name) for name in ("start", "best", "wise_ft"))
    assert all(torch.equal(value, weights(tmp_path / "source", "best")[name]) for name, value in start.items())
    for name, value in mix.items():
        expected = best[name] if name.startswith("head") else 0.75 * start[name] + 0.25 * best[name]
        torch.testing.assert_close(value, expected)
    assert "wise_ft alpha=0.25: validation accuracy " in outcome.out
    assert "wise_ft: 2 new parameters are as trained" in outcome.out
    assert run.data.params["wise_ft.alpha"] == "0.25"
    names = {"wise_ft/val/accuracy", "wise_ft/val/loss", "wise_ft/test/accuracy"}
    assert names <= run.data.metrics.keys()
    assert "wise_ft.safetensors" in {file.path for file in store.client.list_artifacts(run.info.run_id)}
    loaded = lwexp.load(folder, weights="wise_ft")
    assert all(torch.equal(value, mix[name]) for name, value in loaded.model.state_dict().items())
    table = lwexp_here("evaluate", "here", "--weights", "wise_ft")
    assert table.code == 0, table.err
    assert f"{100 * run.data.metrics['wise_ft/test/accuracy']:.2f}" in table.out


def test_ends_of_the_average_are_start_and_best(source: list[str], lwexp_here: RunHere, tmp_path: Path) -> None:
    for alpha, name in ((0, "start"), (1, "best")):
        outcome = lwexp_here("run", *source, *UNTRACKED, f"wise_ft.alpha={alpha}", f"hydra.run.dir={name}")
        assert outcome.code == 0, outcome.err
        mix, end = weights(tmp_path / name, "wise_ft"), weights(tmp_path / name, name)
        assert all(torch.equal(value, end[key]) for key, value in mix.items())
        found = rows(tmp_path / name)
        if name == "best":
            assert found["wise_ft/test/loss", 5] == found["test/loss", 5]


def test_penalty_keeps_weights_near_their_start_and_is_logged(
    source: list[str], lwexp_here: RunHere, tmp_path: Path
) -> None:
    far = {}
    for alpha in ("null", "0.001", "1"):
        command = [*source, *UNTRACKED, "optimizer=sgd", "lr=0.1", f"l2_sp.alpha={alpha}", f"hydra.run.dir=a{alpha}"]
        outcome = lwexp_here("run", *command)
        assert outcome.code == 0, outcome.err
        folder = tmp_path / f"a{alpha}"
        start, end = weights(tmp_path / "source", "best"), weights(folder)
        far[alpha] = sum(float((end[name] - start[name]).square().sum()) for name in end if end[name].ndim > 1)
        logged = {step: value for (name, step), value in rows(folder).items() if name == "train/l2_sp"}
        assert logged.keys() == ({3, 5} if alpha != "null" else set())
        if alpha == "1":
            assert logged[5] == pytest.approx(far["1"] / 2, rel=1e-5)
        assert (folder / "start.safetensors").is_file() is (alpha != "null")
    assert far["1"] < 0.9 * far["0.001"] < far["null"]


def test_both_resume_bit_for_bit(
    source: list[str], lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = [*source, *UNTRACKED, *BOTH, "checkpoint.every_steps=2"]
    assert lwexp_here("run", *command, "hydra.run.dir=whole").code == 0
    real, steps = JournalTracker.log, 0

    def log(self: JournalTracker, metrics: Any, step: int, **options: Any) -> None:
        nonlocal steps
        real(self, metrics, step, **options)
        steps += "train/loss" in metrics
        if steps == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(JournalTracker, "log", log)
    assert lwexp_here("run", *command, "hydra.run.dir=killed").code == 130
    outcome = lwexp_here("run", "resume=killed")
    assert outcome.code == 0, outcome.err
    assert "resuming at optimizer step 2" in outcome.out
    same(tmp_path / "killed", tmp_path / "whole")
    one, other = (weights(tmp_path / name, "wise_ft") for name in ("killed", "whole"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["l2_sp.alpha=0.1"], "l2_sp.alpha=0.1: needs weights to start from: weights=pretrained, checkpoint"),
        (["wise_ft.alpha=0.5"], "wise_ft.alpha=0.5: needs weights to start from"),
        (["wise_ft.alpha=1.5"], "wise_ft.alpha=1.5: "),
        (["l2_sp.alpha=-1"], "l2_sp.alpha=-1"),
        (["l2_sp.alpa=1"], "l2_sp.alpa=1: unknown option"),
    ],
)
def test_mistakes_are_one_line(options: list[str], words: str, lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, *options)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert words in line


def test_what_a_run_did_not_keep_cannot_begin_on_resume(source: list[str], lwexp_here: RunHere, tmp_path: Path) -> None:
    assert lwexp_here("run", *source, *UNTRACKED, "hydra.run.dir=here").code == 0
    outcome = lwexp_here("run", "resume=here", "epochs=3", "max_steps=12", "wise_ft.alpha=0.5")
    assert outcome.code == 2
    assert "wise_ft.alpha" in outcome.err


def test_new_head_of_other_classes_is_known_without_being_named(source: list[str], lwexp_here: RunHere) -> None:
    options = [option for option in source if not option.startswith("max_steps")]
    command = [*options, *UNTRACKED, "max_steps=1", "data=torchvision", "data.dataset=FakeData", "data.workers=0",
               "data.options={size: 600, image_size: [1, 8, 8], num_classes: 3}", "data.augment=false",
               "l2_sp.alpha=0.1", "optimizer=adamw"]  # fmt: skip
    outcome = lwexp_here("preview", *[option for option in command if not option.startswith("progress")])
    assert "l2_sp: 2 new parameters are pulled to 0" in outcome.out, outcome.err
