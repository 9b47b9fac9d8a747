"""A grid repeats no job: points that differ only in an option that they do not use are run once, and it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from lwexp.experiment.manifest import read_manifest
from tests.cli.mistakes import SMALL
from tests.helpers.commands import RunCommand
from tests.sweep.test_twins import points


@pytest.mark.parametrize(("command", "expected"), [
    (["decay=linear,cosine", "mult=0.8,0.9"],
     [("decay=linear", "mult=0.8"), ("decay=linear", "mult=0.9"), ("decay=cosine",)]),
    (["decay=none,explicit", "mult=0.8,0.9", "sweep.baseline=false"], [("decay=none",), ("decay=explicit",)]),
    (["freeze=[],[conv1]", "freeze_mode=requires_grad,lr_zero", "sweep.baseline=false"],
     [("freeze=[]",), ("freeze=[conv1]", "freeze_mode=requires_grad"), ("freeze=[conv1]", "freeze_mode=lr_zero")]),
    (["policy=constant,cosine", "policy.min_lr=0.0001,0.0002"],
     [("policy=constant",), ("policy=cosine", "policy.min_lr=0.0001"), ("policy=cosine", "policy.min_lr=0.0002")]),
    (["mult=1,0.9", "index_from=all,trained", "sweep.baseline=false"],
     [("mult=1",), ("mult=0.9", "index_from=all"), ("mult=0.9", "index_from=trained")]),
    (["decay=cosine", "mult=0.8", "seed=0,1", "sweep.baseline=false"],
     [("decay=cosine", "mult=0.8", "seed=0"), ("decay=cosine", "mult=0.8", "seed=1")]),
], ids=lambda value: " ".join(value) if isinstance(value[0], str) else "")  # fmt: skip
def test_points_that_differ_in_nothing_that_they_use_are_one_job(
    command: list[str], expected: list[tuple[str, ...]]
) -> None:
    assert [point.overrides for point in points(*command) if not point.baseline] == expected


def test_what_is_merged_is_said_and_run_once(lwexp_command: RunCommand, tmp_path: Path) -> None:
    options = [*SMALL[:4], "max_steps=2", "epochs=1", "tracking=none", "progress=false"]
    sweep = ["-m", "hydra.sweep.dir=sweep", *options, "decay=linear,cosine", "mult=0.8,0.9"]
    done = lwexp_command("run", *sweep)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    why = "decay=cosine does not use it, decay=linear does"
    assert f"note: mult changes nothing in 2 of 4 points: {why}" in lines
    assert "note: the 4 points are 3 different jobs, each is run once: decay=cosine" in lines
    manifest = read_manifest(tmp_path / "sweep")
    assert manifest is not None
    names = [point.name for point in manifest.points]
    assert names == ["decay=linear mult=0.8", "decay=linear mult=0.9", "decay=cosine", "decay=linear mult=1"]
    assert len([*(tmp_path / "sweep").glob("*/best.safetensors")]) == 4
    again = lwexp_command("run", "sweep.resume=sweep")
    assert "4 jobs, 1 of them uniform twins (sweep.baseline), 4 finished before" in again.stdout
