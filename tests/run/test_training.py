"""What a run trains: all groups of all models, nothing that is frozen, from the weights and with the loss chosen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.helpers.commands import RunHere
from tests.run.runs import FAKE, SMALL, UNTRACKED, Start, Store, folders, moved, weights

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
@pytest.mark.parametrize(("task", "classes"), [("source_task", (5, 5)), ("letters", (52, 10))])
def test_source_task_is_trained_once_and_gives_the_body_its_weights(
    task: str, classes: tuple[int, int], lwexp_here: RunHere, starts: list[Start], tmp_path: Path
) -> None:
    options = ["run", *SMALL, *UNTRACKED, "max_steps=1", f"weights={task}", "weights.epochs=1"]
    # a rate that moves no float32 weight, so that the run's last weights are those it started from
    outcomes = [lwexp_here(*options, "lr=1e-30", f"seed={seed}") for seed in (0, 1)]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    assert "\nsource task: 1 epochs on" in outcomes[0].out
    assert "\nsource task: 1 epochs on" not in outcomes[1].out
    assert "source task: weights from" in outcomes[1].out
    (source,) = (tmp_path / "outputs" / "source_tasks").glob("*.safetensors")
    learned = load_file(source)
    first, second = (weights(folder) for folder in folders(tmp_path))
    for name in learned:
        if name.startswith("lstm"):
            assert torch.equal(first[name], learned[name]), name
            assert torch.equal(second[name], learned[name]), name
        else:
            assert (len(learned[name]), len(first[name])) == classes
            assert torch.equal(first[name], starts[0].weights[name]), "the head is fresh"
            assert not torch.equal(first[name], learned[name])
            assert not torch.equal(first[name], second[name]), "and drawn from the run's own seed"


def test_letters_are_refused_for_texts(lwexp_here: RunHere, tmp_path: Path) -> None:
    rows = [f"{'a red' if i % 2 else 'a blue'} thing number {i},{i % 2}" for i in range(40)]
    (tmp_path / "words.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    for command in ("run", "preview"):
        outcome = lwexp_here(command, "model=lstm", "data=text", "data.path=words.csv", "weights=letters")
        assert outcome.code == 2
        assert outcome.err == "error: weights=letters: are for a network of images; the data are texts\n"


@pytest.mark.usefixtures("no_pictures")
def test_letters_are_learned_anew_for_another_seed_but_not_for_another_batch_size(
    lwexp_here: RunHere, tmp_path: Path
) -> None:
    options = ["run", *SMALL, *UNTRACKED, "max_steps=1", "weights=letters", "weights.epochs=1"]
    for seed in (0, 1):
        assert lwexp_here(*options, f"weights.seed={seed}").code == 0
    again = lwexp_here(*options, "weights.seed=0", "batch_size=128", "data.train_size=200")
    assert "source task: weights from" in again.out
    one, other = (load_file(path) for path in (tmp_path / "outputs" / "source_tasks").glob("*.safetensors"))
    assert not torch.equal(one["head.weight"], other["head.weight"])


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


def test_muon_and_adamw_each_start_from_their_base_rate(lwexp_here: RunHere, store: Store) -> None:
    outcome = lwexp_here("run", *SMALL, "optimizer=muon", "optimizer.adamw_lr=3e-4", "lr=0.01", "mult=0.5")
    assert outcome.code == 0, outcome.err
    run = store.run()
    rates = {key: store.history(run, key)[0][1] for key in run.data.metrics if key.startswith("lr/")}
    assert [rates[key] for key in sorted(rates)] == pytest.approx([3e-4, 0.005, 1.5e-4]), rates


@pytest.mark.usefixtures("no_pictures")
def test_a_run_on_few_samples_says_so_and_draws_them_by_its_seed(lwexp_here: RunHere, tmp_path: Path) -> None:
    few = [*SMALL, *UNTRACKED, "data.train_size=40", "batch_size=10", "max_steps=null", "epochs=1"]
    assert "digits, 40 training, 269 validation, 270 test images" in lwexp_here("run", *few, "hydra.run.dir=a").out
    assert lwexp_here("run", *few, "hydra.run.dir=b").code == 0
    assert lwexp_here("run", *few, "hydra.run.dir=c", "seed=1").code == 0
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    outcome = lwexp_here("run", *SMALL, *UNTRACKED, "data.train_size=5")
    assert (outcome.code, "data.train_size=5: there are 10 classes" in outcome.err) == (2, True), outcome.err
