"""Runs with a measured decay: what is printed and recorded, a new head, a resume after a kill, several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import RunHere
from tests.run.measured_runs import assert_resumes_bit_for_bit, scales_of, scales_on_two_processes
from tests.run.runs import SMALL, UNTRACKED, Store, folders

OWN = ["decay=custom", "decay._target_=tests.helpers.measured_decays.GradientNorms"]


def test_scales_are_printed_logged_drawn_and_kept(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *SMALL, *OWN)
    assert outcome.code == 0, outcome.err
    assert "the scales are measured from gradients before the first step and every epoch;" in outcome.out
    assert "scales from step 0 on, measured in" in outcome.out
    assert "2 measurements of the scales took" in outcome.out
    run, (folder,) = store.run(), folders(tmp_path)
    rows = scales_of(folder)
    assert [row["step"] for row in rows] == [0, 4]
    for row in rows:
        for label, scale in row.items():
            if label != "step":
                assert dict(store.history(run, f"scale/{label}"))[int(row["step"])] == scale
                assert dict(store.history(run, f"lr/{label}"))[int(row["step"])] == pytest.approx(1e-3 * scale)
    artifacts = {file.path for file in store.client.list_artifacts(run.info.run_id)}
    assert {"scales.csv", "rates_heatmap.png", "rates.html"} <= artifacts


@pytest.mark.usefixtures("no_pictures")
def test_the_head_that_the_weights_lack_stands_outside(lwexp_here: RunHere, tmp_path: Path) -> None:
    assert lwexp_here("run", *SMALL, *UNTRACKED, "weights=source_task", "weights.epochs=1", *OWN).code == 0
    (folder,) = folders(tmp_path)
    assert {*scales_of(folder)[0]} == {"step", "01_lstm"}
    outcome = lwexp_here("preview", *SMALL, "weights=source_task", "weights.epochs=1", *OWN, "decay.include_new=true")
    assert outcome.code == 0, outcome.err
    assert "not compared" not in outcome.out
    assert "the decay is measured, so its rates are not known before training; no plots" in outcome.out


@pytest.mark.usefixtures("no_pictures")
def test_a_run_killed_after_a_measurement_resumes_bit_for_bit(lwexp_here: RunHere, tmp_path: Path) -> None:
    options = [*SMALL, *UNTRACKED, *OWN, "decay.every_epochs=null", "decay.every_steps=2", "checkpoint.every_steps=1"]
    targets = ["tests.helpers.measured_decays.GradientNorms"]
    assert_resumes_bit_for_bit(lwexp_here, tmp_path, [*options, "threads=1"], step=3, targets=targets)


MISTAKES = [
    ("Failing", "error: decay=Failing: the measurement before step 0 failed: ZeroDivisionError: division by zero\n", 1),
    ("Failing decay.returns=list", "error: decay=Failing: measure must return {position in the plan: scale}, not a", 1),
    ("Failing decay.returns=text", "error: decay=Failing: the scale of 00_head is 'much', must be a number\n", 1),
    ("Unwritten", "error: decay._target_=tests.helpers.measured_decays.Unwritten: ", 2),
]  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("rule", "said", "code"), MISTAKES)
def test_a_rule_with_a_mistake_is_one_line(lwexp_here: RunHere, store: Store, rule: str, said: str, code: int) -> None:
    outcome = lwexp_here("run", *SMALL, *f"decay=custom decay._target_=tests.helpers.measured_decays.{rule}".split())
    assert (outcome.code, outcome.err.count("\n")) == (code, 1), outcome.err
    assert outcome.err.startswith(said)
    assert "Unwritten" in rule or store.run().info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_come_to_the_result_of_one(lwexp_here: RunHere, tmp_path: Path, parallel: str) -> None:
    options = [*SMALL, *UNTRACKED, *OWN, "threads=1", "optimizer=sgd"]
    one, _ = scales_on_two_processes(lwexp_here, tmp_path, options, parallel, rel=1e-3)
    assert len(one) == 2
