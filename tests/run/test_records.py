"""What MLflow's own client reads back of a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lwexp import make_plan
from tests.helpers.commands import RunHere
from tests.run.runs import FAKE, PICTURES, SMALL, Store, folders, small_lstm, weights


def test_rates_may_be_recorded_less_often_than_the_loss(
    lwexp_here: RunHere, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    options = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "progress=false"]
    outcome = lwexp_here("run", *options, "policy=linear", "tracking.rates_every=3")
    assert outcome.code == 0, outcome.err
    run = store.run()
    assert [step for step, _ in store.history(run, "train/loss")] == list(range(8))
    rates = store.history(run, "lr/01_lstm")
    assert [step for step, _ in rates] == [0, 3, 6, 7]
    assert rates[-1][1] == 0


@dataclass(frozen=True)
class Case:
    """A run's options, the same for `make_plan` and for `plan.lr_table`, and names of groups without a rate."""

    options: list[str]
    plan: dict[str, Any]
    table: dict[str, Any]


CASES = {
    "constant": Case([], {}, {}),
    "cosine_with_warmup_and_floor": Case(
        ["lr=0.01", "mult=0.5", "grouping=per_parameter", "policy=cosine", "policy.warmup_steps=2",
         "policy.min_lr=1e-3"],
        {"lr": 0.01, "mult": 0.5, "grouping": "per_parameter"},
        {"policy": "cosine", "warmup_steps": 2, "min_lr": 1e-3},
    ),
    "frozen": Case(
        ["freeze=[lstm.*_l0]", "grouping=per_parameter"], {"freeze": ["lstm.*_l0"], "grouping": "per_parameter"}, {}
    ),
    "frozen_at_rate_zero": Case(
        ["freeze=[lstm]", "freeze_mode=lr_zero"], {"freeze": ["lstm"], "freeze_mode": "lr_zero"}, {}
    ),
    "unfreezing_by_steps": Case(
        ["unfreeze.every_steps=2", "policy=linear", "grouping=by_name",
         "grouping.patterns={top: head, upper: 'lstm.*_l1', lower: '*'}"],
        {"grouping": "by_name", "grouping_options": {"patterns": {"top": "head", "upper": "lstm.*_l1", "lower": "*"}}},
        {"policy": "linear", "unfreeze_every_steps": 2},
    ),
    "unfreezing_by_epochs": Case(["unfreeze.every_epochs=1"], {}, {"unfreeze_every_steps": 4}),
    "events": Case(
        ["lr_events=[{step: 1, group: 1, lr: 0.5}, {step: 3, group: head, lr: 0.0}, {step: 5, group: lstm, lr: 0.25}]"],
        {},
        {"lr_events": [{"step": 1, "group": 1, "lr": 0.5}, {"step": 3, "group": "head", "lr": 0.0},
                       {"step": 5, "group": "lstm", "lr": 0.25}]},
    ),
    "no_weight_decay": Case(
        ["no_weight_decay=true", "optimizer=adamw", "grouping=per_parameter"],
        {"no_weight_decay": True, "grouping": "per_parameter"},
        {},
    ),
    "accumulated_and_clipped": Case(
        ["accumulate=2", "batch_size=128", "clip_grad_norm=0.1", "policy=onecycle"], {}, {"policy": "onecycle"}
    ),
    "split_by_overrides": Case(
        ["lr_overrides={lstm.weight_hh_l1: 0.5, head.bias: 0.0}"],
        {"lr_overrides": {"lstm.weight_hh_l1": 0.5, "head.bias": 0.0}},
        {},
    ),
    "relative_to_the_decay": Case(
        ["lr_mults={head: 10, lstm.weight_hh_l1: 2}", "decay.stem_lr=1e-4", "split_groups=[head.bias]"],
        {"lr_mults": {"head": 10, "lstm.weight_hh_l1": 2}, "decay_options": {"stem_lr": 1e-4},
         "split_groups": ["head.bias"]},
        {},
    ),
    "options_by_pattern": Case(
        ["optimizer=adamw", "group_options={lstm.*_l1: {betas: [0.8, 0.9]}}", "weight_decay_mult=0.5",
         "independent_weight_decay=true", "no_weight_decay=[head.bias]", "decay=layer_decay", "mult=0.8"],
        {"mult": 0.8, "group_options": {"lstm.*_l1": {"betas": (0.8, 0.9)}}},
        {},
    ),
}  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", CASES)
def test_each_group_has_one_rate_for_each_step_the_one_that_the_optimizer_used(
    name: str, lwexp_here: RunHere, store: Store, used_rates: list[dict[str, float]]
) -> None:
    case = CASES[name]
    outcome = lwexp_here("run", *SMALL, *case.options)
    assert outcome.code == 0, outcome.err
    run = store.run()
    plan = make_plan(small_lstm(), **case.plan)
    table = plan.lr_table(steps=6, steps_per_epoch=4, **case.table)
    trained = [i for i, group in enumerate(plan.groups) if group.optimizer_names]
    keys = {f"lr/{plan.labels[i]}" for i in trained}
    assert {key for key in run.data.metrics if key.startswith("lr/")} == keys
    for i in trained:
        history = store.history(run, f"lr/{plan.labels[i]}")
        assert history == list(enumerate(table[:, i].tolist()))
        assert [value for _, value in history] == [step[plan.groups[i].name] for step in used_rates]
    assert len(used_rates) == 6


@pytest.mark.usefixtures("no_pictures")
def test_override_of_a_part_splits_its_group_in_mlflow_too(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", "model=resnet18", *FAKE, "lr_overrides.layer4.1=0.5")
    assert outcome.code == 0, outcome.err
    rates = {key: value for key, value in store.run().data.metrics.items() if key.startswith("lr/01")}
    assert rates == {"lr/01_layer4": 0.95e-3, "lr/01_layer4.1": 0.5}


def test_plateaus_rates_are_recorded_as_used_and_drawn_at_the_end(
    lwexp_here: RunHere, store: Store, used_rates: list[dict[str, float]]
) -> None:
    options = ["policy=plateau", "policy.patience=0", "policy.threshold=0.9", "policy.factor=0.5", "epochs=3"]
    outcome = lwexp_here("run", *SMALL, *options, "max_steps=null")
    assert outcome.code == 0, outcome.err
    run = store.run()
    for label, name, planned in (("00_head", "head", 1e-3), ("01_lstm", "lstm", 0.95e-3)):
        history = store.history(run, f"lr/{label}")
        assert [step for step, _ in history] == list(range(12))
        assert [value for _, value in history] == [step[name] for step in used_rates]
        # the loss falls by less than nine tenths from the first evaluation to the second, so the third epoch has half
        assert [value for _, value in history] == pytest.approx([planned] * 8 + [planned / 2] * 4)
    assert store.files(run) >= PICTURES


def test_what_a_run_leaves_in_mlflow(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    options = ["lr_overrides={head.bias: 0.01}", "policy=torch", "policy.name=StepLR",
               "policy.options={step_size: 2, gamma: 0.5}"]  # fmt: skip
    outcome = lwexp_here("run", *SMALL, *options)
    assert outcome.code == 0, outcome.err
    run, client = store.run(), store.client
    (folder,) = folders(tmp_path)
    plan = make_plan(small_lstm(), lr_overrides={"head.bias": 0.01})

    assert run.info.status == "FINISHED"
    assert run.info.run_name == (
        "lstm policy=StepLR policy.options={step_size:2,gamma:0.5} lr_overrides={head.bias:0.01} data.image_size=8 …"
    )
    experiment = client.get_experiment(run.info.experiment_id)
    assert (experiment.name, experiment.tags["mlflow.experimentKind"]) == ("lwexp", "custom_model_development")

    assert [step for step, _ in store.history(run, "train/loss")] == [0, 1, 2, 3, 4, 5]
    for metric in ("loss", "accuracy", "macro_f1"):
        assert [step for step, _ in store.history(run, f"val/{metric}")] == [3, 5], "an evaluation's last step"
        assert [step for step, _ in store.history(run, f"test/{metric}")] == [5]
    expected = {f"{split}/{metric}" for split in ("val", "test") for metric in ("loss", "accuracy", "macro_f1")}
    rates = {"lr/00_head", "lr/00_head.bias", "lr/01_lstm"}
    best = {f"best/{name}" for name in ("loss", "accuracy", "macro_f1", "epoch", "step")}
    assert run.data.metrics.keys() == expected | rates | best | {"train/loss", "test/top5", "test/ece"}

    params = run.data.params
    assert json.loads(params["lr_overrides"]) == {"head.bias": 0.01}
    assert json.loads(params["policy.options"]) == {"step_size": 2, "gamma": 0.5}
    assert (params["lr"], params["mult"], params["model.hidden_size"], params["data.name"]) == (
        "0.001", "0.95", "8", "digits",
    )  # fmt: skip
    assert not [key for key in params if key.startswith(("hydra", "lr_overrides.", "policy.options."))]

    tags = run.data.tags
    description = tags["mlflow.note.content"]
    assert len(description) <= 8000
    for group in plan.groups:
        assert re.search(rf"\b{group.index}[ |]+{re.escape(group.name)}\b.*{group.lr:.6e}", description)
    assert tags["lwexp.plan"] in description
    assert tags["lwexp.plan"] == plan.hash
    rates = (tags["lwexp.lr.head"], tags["lwexp.lr.stem"])
    assert rates == (f"{plan.groups[0].lr:.7g}", f"{plan.groups[-1].lr:.7g}")
    assert tags["lwexp.overrides"].split(" ")[:2] == ["model=lstm", "model.hidden_size=8"]
    assert tags["lwexp.folder"] == str(folder)
    assert tags["lwexp.version.torch"] == version("torch")
    assert {f"lwexp.version.{package}" for package in ("lwexp", "timm", "torchvision", "mlflow")} <= tags.keys()

    assert store.files(run) == {
        "config.yaml",
        "plan.csv",
        "best.safetensors",
        "inference.json",
        "evaluation",
        *PICTURES,
    }
    assert store.text(run, "plan.csv") == plan.to_csv()
    config = OmegaConf.create(store.text(run, "config.yaml"))
    assert "hydra" not in config
    assert config.policy.options == {"step_size": 2, "gamma": 0.5}
    small_lstm().load_state_dict(weights(folder, "best"), strict=True)
    assert run.info.run_id in outcome.out
    assert "python -m lwexp.ui" in outcome.out
    assert "mlflow ui --backend-store-uri" in outcome.out


@pytest.mark.usefixtures("no_pictures")
def test_description_of_a_long_plan_stays_within_mlflows_limit(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", "model=mobilenetv3_small_050", "grouping=per_parameter", *FAKE, "max_steps=1")
    assert outcome.code == 0, outcome.err
    run = store.run()
    rates = [key for key in run.data.metrics if key.startswith("lr/")]
    assert len(rates) == 142
    assert sorted(rates)[0] == "lr/000_classifier.bias", "three digits, so that text order is plan order"
    description = run.data.tags["mlflow.note.content"]
    assert 7000 < len(description) <= 8000
    assert re.search(r"\b0[ |]+classifier\.bias\b", description)
    assert re.search(r"\b141[ |]+conv\\?_stem\.weight\b", description)
    assert len(store.text(run, "plan.csv").splitlines()) == 143
