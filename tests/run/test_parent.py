"""What a sweep's parent run says of its best setting."""

from __future__ import annotations

import pytest

from tests.helpers.commands import RunHere

from .runs import Store

JOBS = [
    "-m", "model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=4", "progress=false",
    "lr=0.03,0.00001", "seed=0,1", "sweep.baseline=false", "sweep.isolate=false", "hydra.sweep.dir=mine",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("no_pictures")


def test_the_parent_begins_with_the_best_setting_and_carries_its_metrics_and_params(
    lwexp_here: RunHere, store: Store
) -> None:
    outcome = lwexp_here("run", *JOBS, "name=first sweep", "tags={team: vision}", "notes=to see")
    assert outcome.code == 0, outcome.err
    (parent,) = [run for run in store.runs() if run.data.tags.get("lwexp.kind") == "sweep"]
    jobs = [run for run in store.runs() if run.info.run_id != parent.info.run_id]
    assert (parent.info.run_name, parent.info.status, parent.data.tags["team"]) == ("first sweep", "FINISHED", "vision")
    assert len(jobs) == 4

    def mean(lr: str, metric: str) -> float:
        own = [run.data.metrics[metric] for run in jobs if float(run.data.params["lr"]) == float(lr)]
        assert len(own) == 2
        return sum(own) / 2

    best = max(("0.03", "0.00001"), key=lambda lr: mean(lr, "val/accuracy"))
    note = parent.data.tags["mlflow.note.content"]
    first, claim, *_, notes, command = note.split("\n\n")
    assert first.startswith("**Best of 2 settings: lr=")
    assert float(first.partition("lr=")[2].partition("**")[0]) == float(best)
    assert "claimed" in claim
    assert notes == "to see"
    assert "lwexp.run -m" in command
    assert float(parent.data.params["lr"]) == float(best)
    assert "seed" not in parent.data.params
    for metric in ("val/accuracy", "val/loss", "test/accuracy"):
        assert parent.data.metrics[metric] == pytest.approx(mean(best, metric))

    more = ["sweep.resume=mine", "seed=2", "lr=0.03", "sweep.isolate=false", "sweep.baseline=false"]
    outcome = lwexp_here("run", "-m", *more)
    assert outcome.code == 0, outcome.err
    (parent,) = [run for run in store.runs() if run.data.tags.get("lwexp.kind") == "sweep"]
    assert parent.data.tags["mlflow.note.content"].startswith("**Best of 2 settings: lr=")
