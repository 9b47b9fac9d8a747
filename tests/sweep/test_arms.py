"""The arms of a sweep from the command to the report: equal rates in the uniform one, whatever sets others apart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.commands import RunHere
from tests.sweep.test_sweep import HERE, LSTM, client, family  # noqa: F401

RECIPE = "# @package _global_\nlr_overrides: {fc: 0.5}\nmult: 0.7\n"


@pytest.mark.parametrize(("options", "twin"), [
    (["decay.mult=0.5,0.8"], "mult=1"),
    (["freeze=[lstm],[]", "mult=0.9"], "freeze=[] mult=1"),
    (["+variant=a,b", "--config-dir", "files"], "variant=a lr_overrides=null mult=1"),
])  # fmt: skip
def test_the_uniform_twin_trains_all_layers_at_the_base_rate(
    options: list[str], twin: str, lwexp_here: RunHere, client: MlflowClient, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    (tmp_path / "files" / "variant").mkdir(parents=True)
    for name, text in (("a", RECIPE), ("b", RECIPE.replace("0.5", "0.6"))):
        (tmp_path / "files" / "variant" / f"{name}.yaml").write_text(text.replace("fc", "head"), encoding="utf-8")
    outcome = lwexp_here("run", "-m", *LSTM, *HERE, *options, "max_steps=1")
    assert outcome.code == 0, outcome.err
    _, children = family(client)
    assert len(children) == 3
    for name, child in children.items():
        rates = [value for key, value in child.data.metrics.items() if key.startswith("lr/")]  # none of a frozen group
        uniform = rates == [1e-3, 1e-3]
        assert uniform == (name == twin) == (child.data.tags["lwexp.lr.uniform"] == "true")
        assert child.data.tags["lwexp.arm"] == ("uniform" if uniform else "layerwise")
    report = lwexp_here("report")
    assert report.code == 0, report.err
    assert len(re.findall(r"^uniform", report.out, re.MULTILINE)) == 1
    assert "no uniform run" not in report.out


def test_a_multiplier_is_one_setting_however_it_is_given(
    lwexp_here: RunHere, client: MlflowClient, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    outcome = lwexp_here("run", *LSTM, "decay.mult=0.8", "max_steps=1", "preview.json=plan.json")
    assert outcome.code == 0, outcome.err
    assert "mult=0.8 plan" in outcome.out
    assert "0.95" not in outcome.out
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert (run.data.params["mult"], "mult=0.8" in run.info.run_name) == ("0.8", True)
    assert "decay.mult" not in run.data.params
    shown = lwexp_here("preview", *LSTM, "decay={name:linear,mult:0.7}", "preview.json=plan.json")
    assert shown.code == 0, shown.err
    assert json.loads((tmp_path / "plan.json").read_text())["mult"] == 0.7
    both = lwexp_here("run", *LSTM, "decay.mult=0.8", "mult=0.9")
    assert (both.code, both.err) == (
        2, "error: decay.mult=0.8: is another name of mult, which is 0.9; give one of them\n",
    )  # fmt: skip


def test_a_sweep_means_what_a_run_of_the_same_words_means(
    lwexp_here: RunHere, client: MlflowClient  # noqa: F811
) -> None:  # fmt: skip
    words = ["lr_overrides={head: 0.5}", "lr_overrides={lstm: 0.25}", "max_steps=1", "seed=3"]
    assert lwexp_here("run", *LSTM, *words).code == 0
    assert lwexp_here("run", "-m", *LSTM, *HERE, *words).code == 0
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    found = [run.data for run in runs if run.data.tags.get("lwexp.kind") != "sweep"]
    assert [json.loads(run.params["lr_overrides"]) for run in found] == [{"head": 0.5, "lstm": 0.25}] * 2
    assert len({run.tags["lwexp.plan"] for run in found}) == 1
