"""`lwexp.run` from the command line to what it leaves behind: files, and what MLflow's own client reads back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lwexp import Plan, make_plan
from lwexp.experiment import job
from lwexp.models.lstm import LSTMClassifier
from lwexp.plots import process
from tests.helpers.commands import Outcome

RunHere = Callable[..., Outcome]
PICTURES = {"rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png", "rates.html"}
# 1,078 training images: 4 steps in an epoch, the sixth in the middle of the second
SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "max_steps=6",
         "progress=false"]  # fmt: skip
# 32 images of noise at 32×32, in colour
FAKE = [
    "data=torchvision", "data.dataset=FakeData", "data.options={size: 32, image_size: [3, 32, 32], num_classes: 3}",
    "data.workers=0", "data.augment=false", "batch_size=8", "max_steps=2", "progress=false",
]  # fmt: skip
UNTRACKED = ["tracking=none"]


def small_lstm() -> nn.Module:
    return LSTMClassifier(in_chans=1, img_size=8, num_classes=10, hidden_size=8)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run; their tables of rates are still made."""
    monkeypatch.setattr(process, "write_plots", lambda table, folder: [])


@dataclass
class Start:
    """A run as it was when its optimizer had been built, before the first step."""

    plan: Plan
    weights: dict[str, Tensor]


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Start]:
    """The starts of all runs of a test, in order."""
    found: list[Start] = []
    build = job.build_optimizer

    def recorded(config: Any, plan: Plan) -> Any:
        found.append(Start(plan, {name: p.detach().clone() for name, p in plan._parameters.items()}))
        return build(config, plan)

    monkeypatch.setattr(job, "build_optimizer", recorded)
    return found


@pytest.fixture
def used_rates() -> Iterator[list[dict[str, float]]]:
    """Each group's rate at each optimizer step, read where torch's optimizer begins the step."""
    steps: list[dict[str, float]] = []

    def look(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if "name" in optimizer.param_groups[0]:  # not the stand-in that a policy runs torch's scheduler on
            steps.append({group["name"]: float(group["lr"]) for group in optimizer.param_groups})

    hook = register_optimizer_step_pre_hook(look)
    yield steps
    hook.remove()


def folders(base: Path) -> list[Path]:
    return sorted((base / "outputs" / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def moved(start: Start, folder: Path) -> set[str]:
    """Names of the parameters whose values are not those of the start."""
    end = weights(folder)
    return {name for name, before in start.weights.items() if not torch.equal(before, end[name])}


# ------------------------------------------------------------------------------------------------- models and groupings

MODELS = {
    "resnet18": ["model=resnet18"],
    "vit": ["model=vit_tiny_patch16_224"],
    "convnext": ["model=convnext_atto"],
    "mobilenet": ["model=mobilenetv3_small_050"],
    "torchvision": ["model=torchvision", "model.name=resnet18"],
    "lstm": ["model=lstm"],
}
HEADS = {"resnet18": "fc", "vit": "head", "convnext": "head", "mobilenet": "classifier", "torchvision": "fc",
         "lstm": "head"}  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("grouping", ["per_parameter", "top_module", "depth_index", "by_name"])
@pytest.mark.parametrize("model", MODELS)
def test_every_group_of_every_model_is_trained(
    model: str, grouping: str, lwexp_here: RunHere, starts: list[Start], tmp_path: Path
) -> None:
    patterns = f"grouping.patterns={{top: {HEADS[model]}, rest: '*'}}"
    extra = [patterns] if grouping == "by_name" else []
    outcome = lwexp_here("run", *MODELS[model], f"grouping={grouping}", *extra, *FAKE, *UNTRACKED)
    assert outcome.code == 0, outcome.err
    (folder,) = folders(tmp_path)
    changed = moved(starts[0], folder)
    groups = starts[0].plan.groups
    assert len(groups) >= 2
    for group in groups:
        assert changed & set(group.parameter_names), f"group {group.name} did not move"
    assert weights(folder).keys() == weights(folder, "best").keys()
    if model == "resnet18":
        timm.create_model("resnet18", num_classes=3).load_state_dict(weights(folder), strict=True)


# ---------------------------------------------------------------------------------------------------- what MLflow holds


@dataclass
class Store:
    """The store that runs of a test write to by default, read through MLflow's client."""

    client: MlflowClient

    def runs(self) -> list[Run]:
        """Runs of all experiments, the oldest first."""
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(ids, order_by=["attributes.start_time"]))

    def run(self) -> Run:
        """The only run."""
        (run,) = self.runs()
        return run

    def history(self, run: Run, key: str) -> list[tuple[int, float]]:
        """Step and value of every row of a metric, in the order of steps."""
        return sorted((row.step, row.value) for row in self.client.get_metric_history(run.info.run_id, key))

    def files(self, run: Run) -> set[str]:
        return {file.path for file in self.client.list_artifacts(run.info.run_id)}

    def text(self, run: Run, name: str) -> str:
        path = Path(run.info.artifact_uri.removeprefix("file://")) / name
        return path.read_text(encoding="utf-8")


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return Store(MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/outputs/mlflow.db"))


def test_rates_may_be_recorded_less_often_than_the_loss(
    lwexp_here: RunHere, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda table, folder: [])
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
    assert run.info.run_name == "lstm top_module linear mult=0.95 seed=0"
    experiment = client.get_experiment(run.info.experiment_id)
    assert (experiment.name, experiment.tags["mlflow.experimentKind"]) == ("lwexp", "custom_model_development")

    assert [step for step, _ in store.history(run, "train/loss")] == [0, 1, 2, 3, 4, 5]
    for metric in ("loss", "accuracy", "macro_f1"):
        assert [step for step, _ in store.history(run, f"val/{metric}")] == [3, 5], "an evaluation's last step"
        assert [step for step, _ in store.history(run, f"test/{metric}")] == [5]
    expected = {f"{split}/{metric}" for split in ("val", "test") for metric in ("loss", "accuracy", "macro_f1")}
    rates = {"lr/00_head", "lr/00_head.bias", "lr/01_lstm"}
    assert run.data.metrics.keys() == expected | rates | {"train/loss"}

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

    assert store.files(run) == {"config.yaml", "plan.csv", "best.safetensors", *PICTURES}
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


# ------------------------------------------------------------------------------------------------------------- freezing


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("optimizer", [
    ["optimizer=adamw", "optimizer.weight_decay=0.1"], ["optimizer=sgd", "optimizer.weight_decay=0.1"],
])  # fmt: skip
@pytest.mark.parametrize("mode", ["requires_grad", "lr_zero"])
def test_frozen_weights_are_bit_identical_and_only_the_head_moves(
    mode: str, optimizer: list[str], lwexp_here: RunHere, starts: list[Start], tmp_path: Path
) -> None:
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, *optimizer, "freeze=[lstm]", f"freeze_mode={mode}", "lr=0.1")
    assert outcome.code == 0, outcome.err
    assert moved(starts[0], folders(tmp_path)[0]) == {"head.weight", "head.bias"}


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("mode", ["requires_grad", "lr_zero"])
def test_frozen_norms_keep_their_running_statistics_with_freeze_stats_only(
    mode: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    arguments = ["run", "model=resnet10t", *FAKE, *UNTRACKED, f"freeze_mode={mode}", "freeze=[conv1,bn1,layer1]"]
    for option in ("freeze_stats=true", "freeze_stats=false"):
        outcome = lwexp_here(*arguments, option)
        assert outcome.code == 0, outcome.err
    kept, updated = (weights(folder) for folder in folders(tmp_path))
    fresh = timm.create_model("resnet10t").state_dict()
    for name, end in kept.items():
        if not name.endswith(("running_mean", "running_var")):
            continue
        if name.startswith(("conv1", "bn1", "layer1")):
            assert torch.equal(end, fresh[name]), name
        else:
            assert not torch.equal(end, fresh[name]), name
        assert not torch.equal(updated[name], fresh[name]), name


# -------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.usefixtures("no_pictures")
def test_checkpoint_is_where_the_run_starts(lwexp_here: RunHere, starts: list[Start], tmp_path: Path) -> None:
    assert lwexp_here("run", *SMALL, *UNTRACKED).code == 0
    (first,) = folders(tmp_path)
    path = first.relative_to(tmp_path) / "model.safetensors"
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "weights=checkpoint", f"weights.path={path}", "weights.strict=true")
    assert outcome.code == 0, outcome.err
    assert "10 tensors loaded" in outcome.out
    end = weights(first)
    assert all(torch.equal(starts[1].weights[name], tensor) for name, tensor in end.items())
    assert moved(starts[1], folders(tmp_path)[1]) == end.keys()


@pytest.mark.usefixtures("no_pictures")
def test_source_task_is_trained_once_and_gives_the_body_its_weights(
    lwexp_here: RunHere, starts: list[Start], tmp_path: Path
) -> None:
    options = ["run", *SMALL, *UNTRACKED, "max_steps=1", "weights=source_task", "weights.epochs=1"]
    # a rate that moves no float32 weight, so that the run's last weights are those it started from
    outcomes = [lwexp_here(*options, "lr=1e-30", f"seed={seed}") for seed in (0, 1)]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "epochs on the classes" in outcomes[0].out
    assert "epochs on the classes" not in outcomes[1].out
    assert "source task: weights from" in outcomes[1].out
    (source,) = (tmp_path / "outputs" / "source_tasks").glob("*.safetensors")
    learned = load_file(source)
    first, second = (weights(folder) for folder in folders(tmp_path))
    for name in learned:
        if name.startswith("lstm"):
            assert torch.equal(first[name], learned[name]), name
            assert torch.equal(second[name], learned[name]), name
        else:
            assert first[name].shape == learned[name].shape
            assert torch.equal(first[name], starts[0].weights[name]), "the head is fresh"
            assert not torch.equal(first[name], learned[name])
            assert not torch.equal(first[name], second[name]), "and drawn from the run's own seed"


# --------------------------------------------------------------------------------------------- seeds, precision, losses


@pytest.mark.usefixtures("no_pictures")
def test_one_seed_gives_one_result_and_another_seed_another(lwexp_here: RunHere, store: Store, tmp_path: Path) -> None:
    for seed in (3, 3, 4):
        assert lwexp_here("run", *SMALL, f"seed={seed}", "model.dropout=0.2").code == 0
    one, same, other = (weights(folder) for folder in folders(tmp_path))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())
    runs = store.runs()
    for metric in ("train/loss", "val/loss", "val/macro_f1", "test/loss"):
        first, second, third = (store.history(run, metric) for run in runs)
        assert first == second, metric
        assert first != third, metric
    assert {run.data.tags["lwexp.plan"] for run in runs} == {runs[0].data.tags["lwexp.plan"]}


@pytest.mark.usefixtures("no_pictures")
def test_bf16_trains_float32_weights_to_other_values(lwexp_here: RunHere, starts: list[Start], tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        outcome = lwexp_here("run", "model=resnet10t", *FAKE, *UNTRACKED, f"precision={precision}")
        assert outcome.code == 0, outcome.err
    full, half = (weights(folder) for folder in folders(tmp_path))
    assert {tensor.dtype for name, tensor in half.items() if "tracked" not in name} == {torch.float32}
    assert any(not torch.equal(full[name], half[name]) for name in full)
    assert moved(starts[1], folders(tmp_path)[1])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("options", [
    ["loss.label_smoothing=0.1"],
    ["loss.class_weights=balanced"],
    ["loss.class_weights=[1,2,3,4,5,6,7,8,9,0]"],
    ["loss.name=BCEWithLogitsLoss"],
    ["loss.name=NLLLoss", "loss.class_weights=[1,2,3,4,5,6,7,8,9,0]"],
    ["loss.name=MultiMarginLoss", "loss.options={margin: 0.5}"],
], ids=" ".join)  # fmt: skip
def test_loss_trains_and_is_the_one_that_was_chosen(
    options: list[str], lwexp_here: RunHere, starts: list[Start], tmp_path: Path
) -> None:
    outcomes = [lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=1", *chosen) for chosen in ([], options)]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[1].err
    assert moved(starts[1], folders(tmp_path)[1]) == starts[1].weights.keys()
    default, chosen = (re.findall(r"val loss (\S+)", outcome.out) for outcome in outcomes)
    assert default != chosen


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["NLLLoss", "KLDivLoss"])
def test_losses_on_log_probabilities_equal_cross_entropy_where_mathematics_says_so(
    name: str, lwexp_here: RunHere, tmp_path: Path
) -> None:
    losses = []
    for options in ([], [f"loss.name={name}"]):
        outcome = lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=1", *options)
        assert outcome.code == 0, outcome.err
        losses += re.findall(r"val loss (\S+)", outcome.out)
    assert losses[0] == losses[1]
    one, other = (weights(folder) for folder in folders(tmp_path))
    for parameter in one:
        assert torch.allclose(one[parameter], other[parameter], atol=1e-6), parameter


# ------------------------------------------------------------------------------------------------- runs that do not end

BREAKS = """
import torch

class Breaks(torch.nn.Module):
    def __init__(self, *, num_classes, in_chans):
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(in_chans, 2, 3), torch.nn.Linear(2, num_classes)
        self.steps = 0

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            self.steps += 1
            if self.steps == 3:
                raise ArithmeticError("the third step breaks")
        return self.head(self.body(x).mean(dim=(2, 3)))
"""


@pytest.mark.usefixtures("no_pictures")
def test_run_that_breaks_ends_failed_with_the_steps_before_it(
    lwexp_here: RunHere, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "breaks.py").write_text(BREAKS, encoding="utf-8")
    with pytest.raises(ArithmeticError, match="the third step breaks"):
        lwexp_here("run", *SMALL[2:], "model=custom", "model._target_=breaks.Breaks")
    run = store.run()
    assert run.info.status == "FAILED"
    assert run.data.tags["lwexp.reason"] == "the third step breaks"
    for key in ("train/loss", "lr/00_head", "lr/01_body"):
        assert [step for step, _ in store.history(run, key)] == [0, 1]


@pytest.mark.usefixtures("no_pictures")
def test_loss_that_is_no_number_ends_the_run_in_one_line(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", *SMALL, "lr=1e38", "optimizer=sgd")
    assert outcome.code == 1
    assert re.fullmatch(
        r"error: the loss is (nan|inf) at optimizer step \d, where the head \(00_head\) has the rate 1e\+38; "
        r"a smaller lr, clip_grad_norm=1 or nonfinite=skip may help\n",
        outcome.err,
    )
    assert store.run().info.status == "FAILED"


def test_interrupted_runs_end_killed_with_the_exit_code_of_the_signal(empty_store: Path, tmp_path: Path) -> None:
    signals = {signal.SIGINT: 130, signal.SIGTERM: 143}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_"))}
    environment["OMP_NUM_THREADS"] = "1"
    processes = {}
    # a shell's background job may ignore SIGINT, and what it starts inherits that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for number in signals:
            outputs = tmp_path / number.name / "outputs"
            outputs.mkdir(parents=True)
            shutil.copy(empty_store, outputs / "mlflow.db")
            processes[number] = subprocess.Popen(
                [sys.executable, "-m", "lwexp.run", *SMALL, "max_steps=null", "epochs=100000"],
                cwd=outputs.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        for number, process in processes.items():
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("epoch 1/")), None)
            assert line is not None, process.stderr
            process.send_signal(number)
        for number, process in processes.items():
            _, errors = process.communicate(timeout=60)
            assert process.returncode == signals[number]
            assert errors.splitlines()[-1] == "interrupted"
            client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/{number.name}/outputs/mlflow.db")
            run = Store(client).run()
            assert run.info.status == "KILLED"
            steps = [step for step, _ in Store(client).history(run, "lr/00_head")]
            assert len(steps) >= 4
            assert steps == list(range(len(steps)))
    finally:
        signal.signal(signal.SIGINT, before)
        for process in processes.values():
            process.kill()
            process.communicate()


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.usefixtures("no_pictures")
def test_paths_are_relative_to_where_the_command_is_started(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (50 * number, 90, 9)).save(tmp_path / "photos" / name / f"{number}.png")
    torch.save(LSTMClassifier(in_chans=3, img_size=8, num_classes=2, hidden_size=8).state_dict(), tmp_path / "w.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = lwexp_here(
        "run", "model=lstm", "model.hidden_size=8", "data=image_folder", "data.path=../photos", "data.image_size=8",
        "data.workers=0", "weights=checkpoint", "weights.path=../w.pt", "weights.strict=true", "batch_size=4",
        "max_steps=2", "progress=false", "hydra.run.dir=outputs/runs/here", *UNTRACKED,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "photos", "w.pt"]
    assert (tmp_path / "elsewhere" / "outputs" / "runs" / "here" / "best.safetensors").is_file()


@pytest.mark.usefixtures("no_pictures")
def test_two_runs_of_the_same_second_have_folders_of_their_own(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Stopped:
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("hydra.core.utils.datetime", Stopped)
    for _ in range(2):
        assert lwexp_here("run", *SMALL, *UNTRACKED, "max_steps=1").code == 0
    first, second = folders(tmp_path)
    assert {folder.name.rpartition("_")[0] for folder in (first, second)} == {"2026-01-02_03-04-05"}
    assert all((folder / "model.safetensors").is_file() for folder in (first, second))
