"""Every file under conf/ is composed and trains for two steps; its defaults are those of the code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from lwexp import make_plan
from lwexp.config.monitored import with_monitor
from lwexp.core.decay import ALIASES, DECAYS
from lwexp.core.grouping import GROUPINGS
from lwexp.core.make_plan import DEFAULT_MULT
from lwexp.core.measured import RULES
from lwexp.core.policy import common
from lwexp.core.shapes import POLICIES
from lwexp.models.lstm import LSTMClassifier
from lwexp.plots import process
from lwexp.training.checkpoint.weights import save_weights
from tests.helpers.commands import ROOT, Outcome

CONF = ROOT / "conf"
CHOICES = sorted(
    str(path.relative_to(CONF).with_suffix(""))
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "study"  # tests/sweep/test_studies.py
)
LSTM = {"in_chans": 3, "img_size": 8, "num_classes": 4, "hidden_size": 16}
FAKE = [
    "data=torchvision", "data.dataset=FakeData", "data.options={size: 16, image_size: [3, 8, 8], num_classes: 4}",
    "data.workers=0", "data.augment=false",
]  # fmt: skip
SHORT = ["max_steps=2", "batch_size=4", "progress=false"]

# What a choice needs besides its name; a choice that is not here needs nothing.
NEEDS: dict[str, list[str]] = {
    "data/image_folder": ["data.path=photos", "data.image_size=8", "data.workers=0"],
    "data/images": ["data.path=labels.csv", "data.label=weight", "data.image_size=8", "data.workers=0"],
    "data/custom": ["data._target_=stand_ins.samples", "data.image_size=8", "data.workers=0"],
    "data/text": [
        "data.path=words.csv",
        "model=huggingface",
        "model.config_class=BertConfig",
        "model.config={hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 8}",
    ],
    "data/torchvision": FAKE[1:],
    "decay/custom": ["decay._target_=stand_ins.halves", "+decay.base=0.5"],
    "decay/explicit": ["decay.rates={head: 0.01, lstm: 0}"],
    "grouping/by_name": ["grouping.patterns={out: head, rest: '*'}"],
    "grouping/custom": ["grouping._target_=stand_ins.two_groups"],
    "model/custom": ["model._target_=stand_ins.Net", "+model.width=4"],
    "model/huggingface": [
        "model.config_class=ViTConfig",
        "model.config={hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 4}",
    ],
    "model/timm": ["model.name=resnet10t", "data.options.image_size=[3,32,32]"],
    "model/torchvision": ["model.name=squeezenet1_1", "data.options.image_size=[3,32,32]"],
    "policy/custom": ["policy._target_=stand_ins.falls"],
    "policy/multistep": ["policy.milestones=[1]"],
    "policy/step": ["policy.step_size=1"],
    "policy/torch": ["policy.name=StepLR", "policy.options={step_size: 1}"],
    "weights/checkpoint": ["weights.path=weights.safetensors"],
    "weights/letters": ["weights.epochs=1"],
    "weights/source_task": ["weights.epochs=1"],
}
MINE = """
import torch

class Net(torch.nn.Module):
    def __init__(self, *, in_chans, num_classes, width):
        super().__init__()
        self.body = torch.nn.Conv2d(in_chans, width, 3)
        self.head = torch.nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=(2, 3)))

def halves(index, count, base):
    return base**index

def two_groups(model):
    names = [name for name, _ in model.named_parameters()]
    return [("all but the first", names[1:][::-1]), ("first", names[:1])]

def falls(step):
    return 1 / (step + 1)

def samples():
    return [(torch.full((3, 8, 8), i / 40), i % 2) for i in range(40)]
"""


@pytest.fixture
def stand_ins(tmp_path: Path) -> None:
    """A module, a folder of images and a file of weights such as the options ask for."""
    (tmp_path / "stand_ins.py").write_text(MINE, encoding="utf-8")
    for split, count in (("train", 4), ("val", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (9, 9), (60 * number, 50, 200)).save(folder / f"{number}.png")
    rows = [f"photos/train/{name}/{number}.png,{number + 0.5}" for name in ("cat", "dog") for number in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,weight", *rows, *rows]), encoding="utf-8")
    words = "\n".join(["text,label", *("a red one,colour", "the cat sat,animal") * 10])
    (tmp_path / "words.csv").write_text(words, encoding="utf-8")
    save_weights(LSTMClassifier(**LSTM).state_dict(), tmp_path / "weights.safetensors")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of so short a run and are tested elsewhere; their tables of rates are still made."""
    monkeypatch.setattr(process, "write_plots", lambda *_, **__: [])


def command(choice: str) -> list[str]:
    """The options of a short run that takes `choice`, a file under conf/ as `group/name`."""
    group, _, name = choice.partition("/")
    data = [] if group == "data" else FAKE
    needs = NEEDS.get(choice, [])
    own_model = group == "model" or any(option.startswith("model=") for option in needs)
    model = [] if own_model else ["model=lstm", "model.hidden_size=16"]
    tracking = [] if group == "tracking" else ["tracking=none"]
    return [*data, *model, *tracking, f"{group}={name}", *needs, *SHORT]


@pytest.mark.usefixtures("stand_ins", "no_pictures")
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "weights/pretrained"])
def test_choice_trains_for_two_steps(choice: str, lwexp_here: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = lwexp_here("run", *command(choice))
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert "step 2/2" in outcome.out
    assert {"model.safetensors", "best.safetensors", "config.yaml", "plan.csv"} <= {p.name for p in folder.iterdir()}
    group = choice.partition("/")[0]
    assert written(f"{choice}.yaml").keys() <= OmegaConf.load(folder / "config.yaml")[group].keys()


def test_pretrained_weights_need_the_network_so_they_are_previewed(lwexp_here: Callable[..., Outcome]) -> None:
    outcome = lwexp_here("preview", "model=resnet18", "weights=pretrained", "data.image_size=32")
    assert outcome.code == 0, outcome.err


def test_the_root_config_trains_as_it_stands(lwexp_here: Callable[..., Outcome]) -> None:
    outcome = lwexp_here("run", "--cfg", "job")
    assert outcome.code == 0, outcome.err
    composed = OmegaConf.create(outcome.out)
    assert composed.model == {"source": "timm", "name": "resnet18"}
    parts = ("data", "grouping", "decay", "optimizer", "policy", "weights", "tracking")
    assert [composed[part].name for part in parts] == [
        "digits", "top_module", "linear", "adam", "constant", "scratch", "mlflow",
    ]  # fmt: skip


def test_every_stand_in_is_for_a_file_that_exists() -> None:
    assert set(NEEDS) <= set(CHOICES)
    assert {"grouping/by_name", "decay/linear", "policy/torch", "model/lstm", "weights/scratch"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_file_says_what_it_and_its_values_are(choice: str) -> None:
    lines = (CONF / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
    assert "#" in lines[0]
    silent = [line for line in lines if "#" not in line and line.strip() not in ("nesterov: false",)]
    assert all(line.startswith("name:") for line in silent), silent


@pytest.mark.parametrize("choice", [c for c in CHOICES if not c.endswith("/custom") and not c.startswith("model/")])
def test_file_is_named_after_what_it_chooses(choice: str) -> None:
    group, _, name = choice.partition("/")
    written = OmegaConf.load(CONF / f"{choice}.yaml")
    if group == "tracking" and "name" not in written:  # beside MLflow, whose name stays
        assert name in written
        return
    assert str(written["kind" if "kind" in written else "name"]) == name
    members = {"grouping": GROUPINGS, "decay": {**DECAYS, **ALIASES, **RULES}, "policy": POLICIES}.get(group)
    assert members is None or name in members


def test_every_grouping_decay_and_policy_has_a_file() -> None:
    for group, members in (("grouping", GROUPINGS), ("decay", [*DECAYS, *RULES]), ("policy", POLICIES)):
        assert {f"{group}/{name}" for name in members} <= set(CHOICES)


# Defaults: conf/ says the same as the code


def written(path: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.load(CONF / path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def assert_same_defaults(function: Callable[..., Any], values: dict[str, Any], from_run: set[str]) -> None:
    """`values` has every keyword of `function` but those a run fills in, with its default where it has one."""
    known = {name: default for name, default in defaults(function).items() if name not in from_run}
    assert values.keys() == known.keys()
    for name, default in known.items():
        if default is not inspect.Parameter.empty and not (default is None and values[name] in ({}, [])):
            assert values[name] == default, name
            assert type(values[name]) is type(default), name


def test_top_level_defaults_are_those_of_make_plan() -> None:
    root = written("config.yaml")
    chosen = {key: value for entry in root["defaults"] if isinstance(entry, dict) for key, value in entry.items()}
    known = defaults(make_plan)
    known["mult"] = DEFAULT_MULT  # None: or what follows from `stem_lr`
    for name in (
        "lr", "mult", "freeze_mode", "no_weight_decay", "weight_decay_mult", "independent_weight_decay", "index_from",
    ):  # fmt: skip
        assert root[name] == known[name], name
    assert (chosen["grouping"], chosen["decay"]) == (known["grouping"], known["decay"])
    assert (root["freeze"], root["lr_overrides"], root["lr_mults"], root["group_options"]) == ([], {}, {}, {})
    assert root["split_groups"] == []
    scheduler = inspect.signature(make_plan(torch.nn.Linear(1, 1)).scheduler).parameters
    assert (chosen["policy"], scheduler["policy"].default) == ("constant", None)  # None: the recipe's, or constant
    optimizer = inspect.signature(make_plan(torch.nn.Linear(1, 1)).optimizer).parameters
    assert chosen["optimizer"] == optimizer["optimizer"].default


@pytest.mark.parametrize("name", DECAYS)
def test_decays_defaults_are_those_of_its_function(name: str) -> None:
    values = written(f"decay/{name}.yaml")
    del values["name"]
    if name not in ("none", "explicit"):
        assert values.pop("stem_lr") is None  # takes the place of another option
    assert_same_defaults(DECAYS[name], values, {"mult"})  # the top level has it


@pytest.mark.parametrize("name", RULES)
def test_measured_decays_defaults_are_those_of_its_class(name: str) -> None:
    values = written(f"decay/{name}.yaml")
    del values["name"]
    assert values.items() <= defaults(RULES[name]).items()


@pytest.mark.parametrize("name", GROUPINGS)
def test_groupings_defaults_are_those_of_its_function(name: str) -> None:
    values = written(f"grouping/{name}.yaml")
    del values["name"]
    assert_same_defaults(GROUPINGS[name], values, {"example_input"})


@pytest.mark.parametrize("name", POLICIES)
def test_policys_defaults_are_those_of_its_function(name: str) -> None:
    values = with_monitor({"policy": written(f"policy/{name}.yaml")})["policy"]  # which fills in what is observed
    del values["kind" if "kind" in values else "name"]
    shared = defaults(common)
    shared["warmup"] = "hold" if name == "warmup_exponential" else "linear"
    for key, default in shared.items():
        if key in values or name != "constant":  # the floor of a constant rate is that rate
            assert values.pop(key) == default, key
    assert_same_defaults(POLICIES[name], values, {"lr", "steps", "steps_per_epoch"})


def test_lstms_defaults_are_those_of_its_class() -> None:
    values = written("model/lstm.yaml")
    del values["source"]
    assert_same_defaults(LSTMClassifier, values, {"in_chans", "img_size", "num_classes"})


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_optimizers_defaults_are_torchs(name: str, kind: type[torch.optim.Optimizer]) -> None:
    values = written(f"optimizer/{name}.yaml")
    assert values.pop("name") == name
    known = inspect.signature(kind).parameters
    assert {key: known[key].default for key in values} == {**values, "betas": tuple(values["betas"])}
