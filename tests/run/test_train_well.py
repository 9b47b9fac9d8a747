"""Options of training well, through the command: early stopping, evaluations within epochs, EMA, deterministic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import RunHere
from tests.run.runs import SMALL, UNTRACKED, Store, folders, weights

# learns for one epoch of 19 steps, and forgets it all in the second
FALLING = [*SMALL, "max_steps=null", "batch_size=64", "lr=0.02", "lr_events=[{step: 30, group: lstm, lr: 99}]"]
STOPPING = [*FALLING, "epochs=9", "early_stopping.patience=1"]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_stops_early_is_finished_complete_and_says_why(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    outcome = lwexp_here("run", *STOPPING)
    assert outcome.code == 0, outcome.err
    run, (folder,) = store.run(), folders(tmp_path)
    why = run.data.tags["lwexp.stopped"]
    assert why.startswith("val/accuracy has not improved for 1 evaluation, at step 38 of 171; the best is ")
    assert f"stopped early: {why}" in outcome.out
    assert run.info.status == "FINISHED"
    assert [step for step, _ in store.history(run, "lr/00_head")] == list(range(38))
    assert [step for step, _ in store.history(run, "test/accuracy")] == [37]
    assert run.data.metrics["best/epoch"] == 1
    result = json.loads((folder / "result.json").read_text())
    assert result["stopped"] == why
    assert result["test/accuracy"] == run.data.metrics["test/accuracy"]
    again = lwexp_here("run", f"resume={folder}")
    assert "is finished, with a best validation accuracy" in again.out
    assert len(store.history(run, "train/loss")) == 38
    longer = lwexp_here("run", f"resume={folder}", "epochs=12")  # waits anew
    assert longer.code == 0, longer.err
    assert len(store.history(run, "train/loss")) > 38
    changed = lwexp_here("run", f"resume={folder}", "early_stopping.patience=5")
    assert changed.code == 2
    assert "early_stopping.patience was 1, is 5" in changed.err


@pytest.mark.usefixtures("no_pictures")
def test_jobs_of_a_sweep_stop_early(lwexp_here: RunHere, tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", "sweep.isolate=false", "sweep.baseline=false"]
    outcome = lwexp_here("run", *STOPPING, *UNTRACKED, *sweep)
    assert outcome.code == 0, outcome.err
    assert "2 jobs: 2 finished" in outcome.out


@pytest.mark.usefixtures("no_pictures")
def test_evaluations_within_epochs_are_recorded_and_change_no_weight(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    for options in ([], ["eval_every_steps=8"]):
        outcome = lwexp_here("run", *FALLING, *options)
        assert outcome.code == 0, outcome.err
    plain, often = store.runs()
    assert [step for step, _ in store.history(plain, "val/loss")] == [18, 37]
    assert [step for step, _ in store.history(often, "val/loss")] == [7, 15, 18, 23, 31, 37]
    assert store.history(often, "train/loss") == store.history(plain, "train/loss")
    without, evaluated = folders(tmp_path)
    expected = weights(without)
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(evaluated).items())


@pytest.mark.usefixtures("no_pictures")
def test_the_average_of_the_weights_is_kept_tested_and_loaded(lwexp_here: RunHere, tmp_path: Path) -> None:
    for options in ([], ["ema.decay=0.9"]):
        outcome = lwexp_here("run", *SMALL, *UNTRACKED, *options)
        assert outcome.code == 0, outcome.err
    plain, averaged = folders(tmp_path)
    assert all(torch.equal(weights(plain)[name], tensor) for name, tensor in weights(averaged).items())
    assert not torch.equal(weights(plain, "best")["head.weight"], weights(averaged, "best")["head.weight"])
    results = [json.loads((folder / "result.json").read_text()) for folder in (plain, averaged)]
    assert results[0]["test/loss"] != results[1]["test/loss"]


OPERATION = """
import torch

class Net(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes):
        super().__init__()
        self.body = torch.nn.Conv2d(in_chans, 4, 3)
        self.head = torch.nn.Linear(4, num_classes)

    def forward(self, x):
        assert torch.are_deterministic_algorithms_enabled() == ASKED
        if PUTS and x.device.type != "meta":
            x = x.clone().put_(torch.tensor([0, 0]), torch.zeros(2))
        return self.head(self.body(x).mean(dim=(2, 3)))
"""


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("asked", "puts"), [(False, True), (True, False), (True, True)])
def test_deterministic_operations_and_the_one_that_has_none(
    asked: bool, puts: bool, lwexp_here: RunHere, tmp_path: Path
) -> None:
    name = f"own_net_{asked}_{puts}".lower()
    (tmp_path / f"{name}.py").write_text(f"ASKED, PUTS = {asked}, {puts}\n{OPERATION}", encoding="utf-8")
    model = ["model=custom", f"model._target_={name}.Net", "data.image_size=8", "max_steps=2", "progress=false"]
    outcome = lwexp_here("run", *model, *UNTRACKED, "grouping=by_name", "grouping.patterns={top: head, rest: '*'}",
                         f"deterministic={str(asked).lower()}")  # fmt: skip
    assert not torch.are_deterministic_algorithms_enabled()
    if asked and puts:
        assert outcome.code == 1
        why = "error: deterministic=true: put_ has no deterministic implementation; deterministic=false trains with it"
        assert outcome.err.strip().splitlines()[-1] == why
    else:
        assert outcome.code == 0, outcome.err
