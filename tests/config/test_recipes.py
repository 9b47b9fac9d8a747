"""`recipe=<name>`: the choices are made from the data of the core, and options of the command line are above them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lwexp import Plan, make_plan
from lwexp.cli.app import register
from lwexp.config.compose import plain, settings
from lwexp.config.defaults import CONF, defaults
from lwexp.config.keys import GROUPS
from lwexp.config.recipes import KEYS
from lwexp.core.recipes import RECIPES
from lwexp.experiment.naming import _differing
from lwexp.models.lstm import LSTMClassifier
from tests.helpers.commands import RunHere

LSTM = ["model=lstm", "model.hidden_size=8", "tracking=none", "progress=false"]


def composed(*overrides: str) -> dict[str, Any]:
    register("runs")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("config", [*LSTM, *overrides], return_hydra_config=True))


def plan_of(command: RunHere, tmp_path: Path, *overrides: str) -> Plan:
    outcome = command("preview", *LSTM, f"preview.json={tmp_path}/plan.json", *overrides)
    assert outcome.code == 0, outcome.err
    return Plan.from_json((tmp_path / "plan.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_the_choice_is_the_data_of_the_core(name: str) -> None:
    recipe, values = RECIPES[name], composed(f"recipe={name}")
    described = values["recipe"]
    for key in ("name", "source", "differs", "lr", "batch_size", "scaling", "mult"):
        assert described[key] == getattr(recipe, key)
    assert described["sizes"] == [dict(size) for size in recipe.sizes]
    for key, value in recipe.settings.items():
        if isinstance(value, dict):
            assert {inner: values[key][inner] for inner in value} == value
        else:
            assert values[key] == value
    assert {*recipe.settings} <= {*KEYS}  # what another recipe ends
    assert recipe.source
    assert recipe.what
    untouched = {**defaults(), **dict.fromkeys((*GROUPS, *recipe.settings, "recipe", "lr", "mult"))}
    assert {key: values[key] for key in untouched if untouched[key] is not None} == {
        key: value for key, value in untouched.items() if value is not None
    } | {"progress": False}


def test_a_plan_of_the_library_is_that_of_the_command(lwexp_here: RunHere, tmp_path: Path) -> None:
    theirs = plan_of(lwexp_here, tmp_path, "recipe=mae", "batch_size=32", "accumulate=2")
    model = LSTMClassifier(num_classes=10, in_chans=1, img_size=32, hidden_size=8)
    ours = make_plan(model, recipe="mae", batch_size=64)
    assert ours.hash == theirs.hash
    assert ours.lr == pytest.approx(5e-4 * 64 / 256, rel=1e-12)
    assert ours.mult == 0.65
    assert [note for note in ours.notes if "recipe" in note] == [note for note in theirs.notes if "recipe" in note]


def test_options_of_the_command_line_are_above_the_recipe(lwexp_here: RunHere, tmp_path: Path) -> None:
    values = composed("recipe=mae", "policy=slanted_triangular", "optimizer=sgd", "decay=cosine", "lr=0.01")
    for group in ("policy", "optimizer", "decay"):
        assert values[group] == composed(f"{group}={values[group]['name']}")[group]  # nothing is left of the recipe's
    assert composed("optimizer=sgd", "recipe=mae")["optimizer"] == values["optimizer"]  # in any order
    plan = plan_of(lwexp_here, tmp_path, "recipe=mae", "lr=0.01", "mult=0.5", "optimizer=sgd")
    assert plan.lr == 0.01
    assert plan.mult == 0.5
    assert "recipe=mae, changed here: lr=0.01, mult=0.5, optimizer=sgd" in plan.notes


def test_another_length_of_the_warm_up_ends_the_recipes() -> None:
    policy = composed("recipe=mae", "policy.warmup_steps=7")["policy"]
    assert policy["warmup_steps"] == 7
    assert policy["warmup_fraction"] is None


def test_a_base_rate_needs_a_source(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("preview", *LSTM, "lr=null")
    assert (outcome.code, outcome.err) == (2, "error: lr=null: must be given, or recipe.lr, from which it follows\n")


@pytest.mark.parametrize("word", ["recipe=mea", "recipe=mae,mea"])
def test_an_unknown_recipe_is_one_line(lwexp_here: RunHere, word: str) -> None:
    outcome = lwexp_here("preview", *LSTM, *(["-m"] if "," in word else []), word)
    assert (outcome.code, outcome.err) == (2, "error: recipe=mea: no such choice; did you mean mae?\n")


def test_help_shows_the_values(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("run", "--help", "recipe")
    assert f"recipe=mae  # {RECIPES['mae'].what}" in outcome.out
    assert "warmup_fraction: 0.05" in outcome.out
    assert f"\nrecipe: {', '.join(sorted([*RECIPES, 'none']))}\n" in lwexp_here("run", "--help").out


def test_a_recipe_of_the_users_own(lwexp_here: RunHere, tmp_path: Path) -> None:
    """A file in --config-dir has the same means, also what follows from batch size and network."""
    (tmp_path / "mine" / "recipe").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "ours.yaml").write_text(
        "# @package _global_\ndefaults: [{override /policy: cosine}]\nlr: null\nmult: null\n"
        "recipe: {name: ours, source: a talk, lr: 0.1, batch_size: 100, scaling: sqrt, mult: 0.9,"
        " sizes: [{weights: 100, mult: 0.8}]}\n"
    )
    plan = plan_of(lwexp_here, tmp_path, "--config-dir", "mine", "recipe=ours", "batch_size=25")
    assert plan.lr == pytest.approx(0.05)
    assert plan.mult == 0.8
    assert plan.notes[0] == "recipe=ours: a talk"


def test_a_run_is_named_and_recorded_by_its_recipe(lwexp_here: RunHere, tmp_path: Path) -> None:
    for name in ("recipe=mae", "from_run=outputs/first recipe=none"):
        folder = "first" if name == "recipe=mae" else "second"
        first = [*LSTM, "max_steps=2", "tracking=mlflow", "lr_mults={head: 2}"] if folder == "first" else []
        outcome = lwexp_here("run", *name.split(), f"hydra.run.dir=outputs/{folder}", *first)
        assert outcome.code == 0, outcome.err
    assert "run lstm recipe=mae lr_mults={head:2} model.hidden_size=8 max_steps=2 is in" in outcome_of(
        tmp_path, "first"
    )
    assert "run lstm model.hidden_size=8 max_steps=2 is in" in outcome_of(tmp_path, "second")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    runs = client.search_runs(["1"], order_by=["attributes.start_time"])
    assert runs[0].data.params["recipe"] == "mae"
    assert float(runs[0].data.params["lr"]) == 1.25e-4
    assert "recipe" not in runs[1].data.params
    assert not any(key.startswith("recipe.") for run in runs for key in run.data.params)


def test_a_part_of_a_section_is_no_word_in_the_name() -> None:
    values = composed("recipe=ulmfit", "epochs=2", "unfreeze.every_steps=7")
    assert [*_differing(values)][:2] == ["recipe=ulmfit", "unfreeze.every_epochs=null"]
    assert "unfreeze.at={}" not in [*_differing(values)]


def outcome_of(tmp_path: Path, folder: str) -> str:
    return (tmp_path / "outputs" / folder / "lwexp.log").read_text()


def test_a_run_from_a_run_keeps_its_recipe_and_follows_the_batch_size(lwexp_here: RunHere, tmp_path: Path) -> None:
    outcome = lwexp_here("run", *LSTM, "max_steps=1", "recipe=mae", "hydra.run.dir=outputs/first")
    assert outcome.code == 0, outcome.err
    for options, lr, policy in ((["batch_size=32"], 6.25e-5, "cosine"), (["recipe=none"], 1e-3, "constant")):
        target = f"preview.json={tmp_path}/plan.json"
        outcome = lwexp_here("preview", "from_run=outputs/first", *options, target)
        assert outcome.code == 0, outcome.err
        assert json.loads((tmp_path / "plan.json").read_text())["lr"] == pytest.approx(lr)
        assert (f"policy={policy}" in outcome.out) == (policy != "constant")


def test_recipes_are_swept_with_uniform_twins(lwexp_here: RunHere) -> None:
    words = ["-m", "recipe=mae,none", "max_steps=1", "sweep.isolate=false", "sweep.report=false"]
    outcome = lwexp_here("run", *LSTM, *words)
    assert outcome.code == 0, outcome.err
    assert "4 jobs" in outcome.out
    assert "recipe=mae" in outcome.out


def test_a_config_with_a_recipe_is_checked_without_a_network() -> None:
    register("runs")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = settings(compose("config", [*LSTM, "recipe=mae"], return_hydra_config=True))
    assert config.lr is None
    assert config.mult is None
