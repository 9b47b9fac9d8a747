"""Patterns of kinds: what each covers in networks of many libraries, and that every option of a plan takes them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from lwexp import ConfigError, make_plan
from lwexp.core.kinds import KINDS, Kinds
from lwexp.models.lstm import LSTMClassifier
from tests.helpers.networks import TinyNet

STRUCTURAL = ("head", "norm", "embedding", "qk", "vo", "qkv", "ffn", "recurrent", "conv", "other")


def timm_model(name: str) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name)


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    with torch.device("meta"):
        return getattr(torchvision.models, name)()


def text_model(name: str, **sizes: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**sizes)
    with torch.device("meta"):
        return transformers.AutoModelForSequenceClassification.from_config(config)


def of(model: nn.Module, *kinds: str) -> list[str]:
    found = Kinds.of(model).names
    return [name for kind in kinds for name in found.get(kind, ())]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: timm_model("resnet18"),
    "vit": lambda: timm_model("vit_tiny_patch16_224"),
    "beit": lambda: timm_model("beit_base_patch16_224"),
    "convnext": lambda: timm_model("convnext_atto"),
    "torchvision": lambda: torchvision_model("vit_b_16"),
    "bert": lambda: text_model("Bert", num_hidden_layers=2),
    "roberta": lambda: text_model("Roberta", num_hidden_layers=2),
    "gpt2": lambda: text_model("GPT2", n_layer=2),
    "llama": lambda: text_model("Llama", num_hidden_layers=2),
    "lstm": lambda: LSTMClassifier(in_chans=1, img_size=8, num_classes=3),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    "tiny": TinyNet,
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_has_exactly_one_kind_by_its_module(network: str) -> None:
    model = NETWORKS[network]()
    assert sorted(of(model, *STRUCTURAL)) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("network", "kind", "part"),
    [
        ("resnet18", "head", {"fc"}),
        ("resnet18", "norm", {"bn1", "bn2", "1"}),  # the norm of a downsampling is called 1
        ("vit", "qkv", {"qkv"}),
        ("vit", "vo", {"proj"}),
        ("vit", "ffn", {"fc1", "fc2"}),
        ("beit", "qk", {"q_bias"}),
        ("convnext", "ffn", {"fc1", "fc2"}),
        ("torchvision", "qkv", {"in_proj_weight", "in_proj_bias"}),
        ("torchvision", "head", {"head"}),
        ("bert", "qk", {"query", "key"}),
        ("bert", "vo", {"value", "dense"}),
        ("bert", "head", {"classifier"}),
        ("roberta", "head", {"dense", "out_proj"}),
        ("gpt2", "qkv", {"c_attn"}),
        ("gpt2", "head", {"score"}),
        ("llama", "qk", {"q_proj", "k_proj"}),
        ("llama", "vo", {"v_proj", "o_proj"}),
        ("llama", "norm", {"input_layernorm", "post_attention_layernorm", "norm"}),
        ("encoder", "ffn", {"linear1", "linear2"}),
        ("lstm", "recurrent", {f"{w}_{d}_l{i}" for w in ("weight", "bias") for d in ("ih", "hh") for i in (0, 1)}),
    ],
)
def test_kind_covers_these_modules(network: str, kind: str, part: set[str]) -> None:
    names = of(NETWORKS[network](), kind)
    owners = {name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1] for name in names}
    assert owners == part


def test_embeddings_are_those_of_tokens_patches_and_positions() -> None:
    assert of(timm_model("vit_tiny_patch16_224"), "embedding") == [
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
    ]  # fmt: skip
    assert {name.split(".")[2] for name in of(NETWORKS["bert"](), "embedding")} == {
        "word_embeddings", "position_embeddings", "token_type_embeddings",
    }  # fmt: skip


def test_first_block_of_a_resnet_is_the_stem_and_the_first_stage() -> None:
    model = timm_model("resnet50")
    tops = {name.split(".")[0] for name in of(model, "first_block")}
    assert tops == {"conv1", "bn1", "layer1"}
    assert {name.split(".")[0] for name in of(model, "last_block")} == {"layer4"}
    assert {name.split(".")[1] for name in of(timm_model("convnext_atto"), "last_block")} == {"3"}
    lstm = NETWORKS["lstm"]()
    assert all("_l0" in name for name in of(lstm, "first_block"))
    assert len(of(lstm, "first_block")) == 4


def test_biases_are_of_all_modules_but_no_table_of_positions() -> None:
    names = of(timm_model("beit_base_patch16_224"), "bias")
    assert "blocks.0.attn.q_bias" in names
    assert "head.bias" in names
    assert "blocks.0.norm1.bias" in names
    assert not [name for name in names if "relative_position" in name]
    assert len(of(NETWORKS["lstm"](), "bias")) == 5  # four of the LSTM, one of the head


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_kinds_of_a_wrapped_network_have_its_names(wrap: object) -> None:
    model = wrap(TinyNet())  # type: ignore[operator]
    plan = make_plan(model, train=["kind/head"], grouping="top_module")
    moving = [name for group in plan for name in group.optimizer_names]
    assert [name.rpartition("head.")[2] for name in moving] == ["bias", "weight"]


def test_every_option_with_patterns_takes_kinds() -> None:
    model = TinyNet()
    plan = make_plan(
        model, lr=1.0, decay="none", freeze=["kind/norm"], lr_mults={"kind/head": 10}, lr_overrides={"kind/other": 0.5}
        if "other" in Kinds.of(model).names else {}, group_options={"kind/conv": {"weight_decay": 0.1}},
        no_weight_decay=["kind/bias"], weight_decay=0.3,
    )  # fmt: skip
    rates = {name: g.lr for g in plan for name in g.optimizer_names}
    assert rates["head.weight"] == 10
    assert rates["stem.weight"] == 1
    assert all("norm" not in name for name in rates)
    decays = {n: part.options["weight_decay"] for g in plan for part in g.parts for n in part.parameter_names}
    assert decays["stem.weight"] == 0.1
    assert decays["stem.bias"] == 0
    assert decays["head.weight"] == 0.3


def test_schedules_take_kinds_in_phases_policies_and_unfreezing() -> None:
    plan = make_plan(TinyNet(), lr=1.0, decay="none", split_groups=["kind/norm"])
    table = plan.lr_table(steps=4, phases=[{"steps": 2, "train": ["kind/head"]}, {}])
    rows = {g.name: table[:, i].tolist() for i, g in enumerate(plan)}
    assert rows["head"] == [1, 1, 1, 1]
    assert rows["stem"] == [0, 0, 1, 1]
    opened = plan.lr_table(steps=4, unfreeze_at={"kind/norm": 3})
    assert [row[[g.name for g in plan].index("norm")] for row in opened.tolist()] == [0, 0, 0, 1]


def test_groups_by_kind() -> None:
    patterns = {"head": "kind/head", "norms": "kind/norm", "rest": "*"}
    plan = make_plan(TinyNet(), grouping="by_name", grouping_options={"patterns": patterns})
    assert [g.name for g in plan] == ["head", "norms", "rest"]


def test_train_freezes_all_else_in_both_modes() -> None:
    for mode in ("requires_grad", "lr_zero"):
        plan = make_plan(TinyNet(), train=["kind/head", "kind/bias"], freeze_mode=mode, lr=1.0, decay="none")
        frozen = set(plan.frozen_names)
        assert frozen == {n for n, _ in TinyNet().named_parameters() if not n.startswith("head") and "bias" not in n}
        rates = {name: g.lr for g in plan for name in g.optimizer_names if g.lr > 0}
        assert rates.keys().isdisjoint(frozen)
        assert "head.weight" in rates


def test_plan_without_kinds_is_the_plan_of_before() -> None:
    assert make_plan(TinyNet(), train=["*"]).hash == make_plan(TinyNet()).hash
    by_kind = make_plan(TinyNet(), freeze=["kind/head"])
    assert by_kind.hash == make_plan(TinyNet(), freeze=["head"]).hash


def test_plan_with_kinds_is_copied_and_saved() -> None:
    plan = make_plan(TinyNet(), group_options={"kind/head": {"weight_decay": 0.0}}, no_weight_decay=["kind/norm"])
    assert copy.deepcopy(plan).group_options.keys() == plan.group_options.keys()
    assert next(iter(pickle.loads(pickle.dumps(plan.group_options)))).match("head.weight")
    assert type(plan).from_json(plan.to_json()).hash == plan.hash


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze": ["kind/nrom"]}, r"freeze=kind/nrom: no such kind of parameters; did you mean norm\?"),
        ({"lr_mults": {"kind/qk": 2}}, r"lr_mults=kind/qk: the model has none; its kinds: head, norm"),
        ({"train": ["kind/embedding"]}, "train=kind/embedding: the model has none"),
        ({"train": ["nothing"]}, "train=nothing: the pattern matches no parameter"),
        ({"train": ["kind/head"], "freeze": ["kind/head"]}, "every parameter is frozen"),
    ],
)
def test_wrong_kind_is_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_plan(TinyNet(), **options)  # type: ignore[arg-type]


def test_plan_from_json_knows_no_kinds_until_it_is_bound() -> None:
    plan = type(make_plan(TinyNet())).from_json(make_plan(TinyNet()).to_json())
    with pytest.raises(ConfigError, match=r"unfreeze.at=kind/head: needs the network: plan.bind\(model\)"):
        plan.schedule(steps=2, unfreeze_at={"kind/head": 1})
    assert plan.bind(TinyNet()).schedule(steps=2, unfreeze_at={"kind/head": 1})


def test_kinds_are_listed_with_their_meaning() -> None:
    assert {*Kinds.of(timm_model("vit_tiny_patch16_224")).names} < {*KINDS}
