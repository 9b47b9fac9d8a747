"""`lwexp.preview -m`: the plans in one picture, and where they differ."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import imread

from tests.experiment.resumed_runs import one_line
from tests.helpers.commands import RunHere

SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=1"]


def test_plans_are_drawn_in_one_picture_and_compared_and_none_twice(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("preview", "-m", *SMALL, "hydra.sweep.dir=sweep", "decay=linear,cosine", "mult=0.8,0.9")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert "note: mult changes nothing in 2 of 4 points: decay=cosine does not use it, decay=linear does" in lines
    assert "note: the 4 points are 3 different jobs, each is run once: decay=cosine" in lines
    second = lines.index("decay=linear mult=0.9")
    assert lines[second + 1 : second + 4] == [
        "compared with decay=linear mult=0.8:",
        "  mult 0.8 -> 0.9",
        "  01_lstm 0.0008 -> 0.0009",
    ]
    third = lines.index("decay=cosine")
    assert "  decay linear -> cosine" in lines[third:]
    assert f"wrote {tmp_path / 'sweep' / 'plans.png'}" in lines
    assert imread(tmp_path / "sweep" / "plans.png").shape[1] == 1800
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1", "2"]


def test_another_schedule_of_the_same_plan_is_a_difference(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here(
        "preview", "-m", *SMALL, "hydra.sweep.dir=sweep", "policy=constant,cosine,plateau", "max_steps=3"
    )
    assert outcome.code == 0, outcome.err
    assert "policy=cosine\ncompared with policy=constant:\n  schedule policy=constant -> policy=cosine\n" in outcome.out
    assert (tmp_path / "sweep" / "plans.png").is_file()


def test_a_mistake_in_one_of_them_is_one_line(lwexp_here: RunHere) -> None:
    assert one_line(lwexp_here("preview", "-m", *SMALL, "mult=0.9,-1")).startswith("mult=-1: should be greater than 0")
