"""Values from the environment, which holds texts only: as if they had been typed in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lwexp.config.interpolated import typed
from lwexp.config.schema import RunConfig
from lwexp.plots import process
from tests.experiment.resumed_runs import RUN, one_line
from tests.helpers.commands import RunHere

SET = {
    "LR": "0.1", "SEED": "3", "EMPTY": "", "STEPS": "2", "NOTHING": "null", "YES": "1", "NO": "false", "WORD": "abc",
    "LIST": "[lstm.weight_ih_l0,lstm.weight_hh_l0]", "MAPPING": "{head: 0.02, lstm: 1e-3}", "NAME": "2024",
    "GRADIENT": "1e-1",
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SET.items():
        monkeypatch.setenv(name, value)


def of(text: str, key: str = "lr") -> Any:
    """What a run's config has at `key` where the text is written there."""
    config = OmegaConf.create({})
    OmegaConf.update(config, key, text)
    written, value = OmegaConf.to_container(config, resolve=False), OmegaConf.to_container(config, resolve=True)
    value = typed(value, written, RunConfig)
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.parametrize(("key", "text", "value"), [
    ("lr", "${oc.env:LR}", 0.1),
    ("clip_grad_norm", "${oc.env:GRADIENT}", 0.1),
    ("seed", "${oc.env:SEED}", 3),
    ("seed", "${oc.env:UNSET,7}", 7),
    ("max_steps", "${oc.env:NOTHING}", None),
    ("compile", "${oc.env:YES}", True),
    ("compile", "${oc.env:NO}", False),
    ("freeze", "${oc.env:LIST}", ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    ("freeze", ["${oc.env:WORD}", "${oc.env:NAME}"], ["abc", "2024"]),
    ("lr_overrides", "${oc.env:MAPPING}", {"head": 0.02, "lstm": 1e-3}),
    ("lr_overrides", {"head": "${oc.env:LR}"}, {"head": 0.1}),
    ("loss.class_weights", ["${oc.env:LR}", 1], [0.1, 1]),
    ("data.workers", "${oc.env:SEED}", 3),
    ("tracking.experiment", "${oc.env:NAME}", "2024"),
    ("policy.milestones", ["${oc.env:SEED}", 9], [3, 9]),  # no type is known: as it would be typed
    ("optimizer.weight_decay", "${oc.env:LR}", 0.1),
    ("policy.name", "${oc.env:NAME}", "2024"),
    ("lr", "0.1", "0.1"),  # not from an interpolation
    ("lr", "${oc.env:EMPTY}", ""),
    ("lr", "${oc.env:WORD}", "abc"),
])  # fmt: skip
def test_a_text_is_read_as_the_key_takes_it(key: str, text: Any, value: Any) -> None:
    assert of(text, key) == value
    assert type(of(text, key)) is type(value)


def test_a_run_and_a_sweep_take_numbers_from_the_environment(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])
    given = [
        "lr=${oc.env:LR}", "seed=${oc.env:SEED}", "max_steps=${oc.env:STEPS}", "model.dropout=${oc.env:LR}",
        "freeze=${oc.env:LIST}", "progress=${oc.env:NO}", "lr_overrides={head: ${oc.env:LR}}",
    ]  # fmt: skip
    options = [option for option in RUN if not option.startswith(("max_steps", "progress"))]
    outcome = lwexp_here("run", *options, *given, "hydra.run.dir=one")
    assert outcome.code == 0, outcome.err
    saved = OmegaConf.load(tmp_path / "one" / "config.yaml")
    assert (saved.lr, saved.seed, saved.max_steps, saved.progress) == (0.1, 3, 2, False)
    outcome = lwexp_here("run", "resume=one")
    assert "is finished" in outcome.out, outcome.err
    outcome = lwexp_here(
        "run", "-m", *options, *given[:-1], "sweep.isolate=${oc.env:NO}", "sweep.report=${oc.env:NO}",
        "sweep.baseline=${oc.env:NO}", "mult=0.8,0.9", "hydra.sweep.dir=many",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert len(list((tmp_path / "many").glob("*/result.json"))) == 2
    assert json.loads((tmp_path / "many" / "0" / "job.json").read_text())["status"] == "FINISHED"


@pytest.mark.parametrize(("option", "line"), [
    ("lr=${oc.env:WORD}", "lr=abc: should be a valid number"),
    ("lr=${oc.env:EMPTY}", "lr=: should be a valid number"),
    ("seed=${oc.env:LR}", "seed=0.1: should be a valid integer"),
    ("lr=${oc.env:NOWHERE}", "lr=${oc.env:NOWHERE}: Environment variable 'NOWHERE' not found"),
])  # fmt: skip
def test_what_cannot_be_is_refused_as_if_typed(option: str, line: str, lwexp_here: RunHere) -> None:
    assert one_line(lwexp_here("run", *RUN, option)).startswith(line)
