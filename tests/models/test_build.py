"""Every source of models builds, and what does not fit is explained before anything is allocated."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn

from lwexp.config.schema import ModelConfig
from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.models.build import BuiltModel, build_model
from lwexp.models.lstm import LSTMClassifier, LSTMTextClassifier
from lwexp.training.checkpoint.weights import save_weights

TIMM = ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050"]


def build(
    source: str = "timm",
    name: str | None = None,
    *,
    target: str | None = None,
    channels: int = 1,
    classes: int = 2,
    size: int | None = 32,
    options: dict[str, Any] | None = None,
    **how: Any,
) -> BuiltModel:
    config = ModelConfig(source=source, name=name, _target_=target, **(options or {}))
    return build_model(config, channels=channels, classes=classes, image_size=size, **how)


def refused(*args: Any, kind: type[LwexpError] = ConfigError, **kwargs: Any) -> str:
    """The error's one line."""
    with pytest.raises(kind) as caught:
        build(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def logits(built: BuiltModel) -> torch.Tensor:
    with torch.no_grad():
        output = built.module.eval()(torch.rand(2, built.channels, built.image_size, built.image_size))
    assert isinstance(output, torch.Tensor)
    return output


def all_on_meta(module: nn.Module) -> bool:
    return all(tensor.is_meta for tensor in [*module.parameters(), *module.buffers()])


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a module, of a new name each time, into the current folder, which is not in Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    names: list[str] = []

    def write(text: str) -> str:
        names.append(f"nets_{abs(hash(str(tmp_path)))}_{len(names)}")
        (tmp_path / f"{names[-1]}.py").write_text(f"import torch\nfrom torch import nn\n{textwrap.dedent(text)}\n")
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


# --- what builds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_take_one_channel_at_32_pixels(name: str) -> None:
    built = build(name=name)
    assert (built.channels, built.image_size, built.preprocessing) == (1, 32, None)
    assert built.module.training
    assert logits(built).shape == (2, 2)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_seed_gives_the_weights_that_timm_alone_gives(name: str) -> None:
    timm = pytest.importorskip("timm")
    sized = {"img_size": 32} if name.startswith("vit") else {}
    torch.manual_seed(3)
    expected = timm.create_model(name, num_classes=2, in_chans=1, **sized).state_dict()
    torch.manual_seed(3)
    found = build(name=name).module.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(("source", "name"), [("timm", "vit_giant_patch14_clip_224"), ("torchvision", "vit_h_14")])
def test_a_huge_model_on_meta_allocates_nothing_and_draws_nothing(source: str, name: str) -> None:
    before = torch.get_rng_state()
    built = build(source, name, channels=3, size=224, device="meta")
    assert all_on_meta(built.module)
    assert sum(parameter.numel() for parameter in built.module.parameters()) > 600e6
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("resnet18.a1_in1k", 224), ("inception_v3", 299)])
def test_without_a_size_the_models_own_is_taken(name: str, size: int) -> None:
    assert build(name=name, size=None, device="meta").image_size == size


def test_options_go_to_timm() -> None:
    built = build(name="resnet18", options={"drop_rate": 0.25, "global_pool": "max"})
    assert built.module.drop_rate == 0.25
    assert built.module.global_pool.pool_type == "max"


def test_a_builder_fixed_to_three_channels_gets_three() -> None:
    assert build(name="csatv2", size=64, device="meta").channels == 3


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "googlenet", "squeezenet1_0"])
def test_torchvision_models_take_three_channels(name: str) -> None:
    built = build("torchvision", name, device="meta")
    assert built.channels == 3
    assert all_on_meta(built.module)


def test_torchvision_resnet18_gives_logits_from_real_weights() -> None:
    assert logits(build("torchvision", "resnet18")).shape == (2, 2)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_lstm_reads_rows_and_has_telling_names(bidirectional: bool) -> None:
    options = {"hidden_size": 8, "num_layers": 2, "dropout": 0.1, "bidirectional": bidirectional}
    built = build("lstm", channels=3, options=options)
    assert {name.split(".")[0] for name, _ in built.module.named_parameters()} == {"lstm", "head"}
    assert built.module.lstm.input_size == 3 * 32
    assert logits(built).shape == (2, 2)


def test_each_row_with_all_its_channels_is_one_step_of_the_lstm() -> None:
    model = LSTMClassifier(in_chans=2, img_size=4, num_classes=3, hidden_size=5, num_layers=1).eval()
    images = torch.rand(1, 2, 6, 4)
    state = None
    for row in range(6):
        values = torch.cat([images[0, channel, row] for channel in range(2)])
        output, state = model.lstm(values.view(1, 1, 8), state)
    assert torch.allclose(model(images), model.head(output[:, 0]))


def test_the_lstm_of_texts_reads_each_text_alone_whatever_its_batch_has() -> None:
    model = LSTMTextClassifier(vocab_size=9, pad_token_id=0, num_classes=3, hidden_size=4, dropout=0.5).eval()
    short, long = torch.tensor([[5, 0, 7]]), torch.tensor([[1, 2, 3, 4, 5, 6]])  # padding's id within a text counts
    ids = torch.cat([torch.cat([short, torch.zeros(1, 3, dtype=torch.int64)], dim=1), long])
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])
    alone = [model(text, torch.ones_like(text)) for text in (short, long)]
    torch.testing.assert_close(model(ids, mask), torch.cat(alone))
    output, _ = model.lstm(model.embedding(short))
    torch.testing.assert_close(alone[0], model.head(output[:, -1]))


def test_the_lstm_does_not_read_a_text_backwards() -> None:
    with pytest.raises(ConfigError, match=r"model\.bidirectional=True: is for images"):
        LSTMTextClassifier(vocab_size=9, pad_token_id=0, num_classes=3, bidirectional=True)


# --- a custom model ------------------------------------------------------------------------------------------------

NET = """
class Net(nn.Module):
    def __init__(self, num_classes, in_chans, width=4):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_chans, width, 3), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
"""


def test_a_custom_class_in_the_current_folder_gets_what_it_asks_for(written: Any) -> None:
    built = build("custom", target=f"{written(NET)}.Net", classes=3, options={"width": 7})
    assert built.module.conv.weight.shape[:2] == (7, 1)
    assert logits(built).shape == (2, 3)


def test_a_custom_functions_options_win_over_what_the_data_say(written: Any) -> None:
    name = written(
        """
        def make(num_classes, img_size, *, gain):
            model = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
            model.seen = (img_size, gain)
            return model
        """
    )
    built = build("custom", target=f"{name}.make", options={"img_size": 99, "gain": 0.5})
    assert built.module.seen == (99, 0.5)
    assert logits(built).shape == (2, 2)  # the lazy layer has its shape


def test_a_custom_model_made_for_three_channels_gets_three(written: Any) -> None:
    name = written("def make():\n    return nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten())")
    assert build("custom", target=f"{name}.make").channels == 3


LOOKS_AT_VALUES = """
class Net(nn.Module):
    def __init__(self, in_chans=1, img_size=32, num_classes=2):
        super().__init__()
        self.first, self.body = nn.Linear(img_size, 2), nn.Linear(img_size, 4)
        self.body.weight.data *= float(torch.ones(1)) if BUILDING else 1.0
        self.second = nn.Linear(img_size, 4)
        self.second.weight = self.body.weight
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.first(x.mean((1, 2))) if x.sum().item() >= 0 else None
"""


@pytest.mark.parametrize("when", ["building", "forward"])
def test_a_model_that_looks_at_values_is_checked_with_real_ones(written: Any, when: str) -> None:
    building = when == "building"
    target = f"{written(f'BUILDING = {building}{LOOKS_AT_VALUES}')}.Net"
    built = build("custom", target=target)
    assert logits(built).shape == (2, 2)
    assert built.module.calls == 1  # the check left no trace
    previewed = build("custom", target=target, device="meta").module
    assert all_on_meta(previewed)
    assert previewed.second.weight is previewed.body.weight
    assert "gives torch.float32 [2, 2] for 2 images, not floats [2, 5]" in refused("custom", target=target, classes=5)


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("", "nowhere_at_all.Net", "no module nowhere_at_all is installed or in the current folder"),
        (NET, "{}.Nett", "{} has no Nett; did you mean Net?"),
        ("import nowhere_at_all", "{}.Net", "{} fails: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("1 / 0", "{}.Net", "importing {} fails: ZeroDivisionError: division by zero"),
        (NET, "{}", "is a module, not a class or function"),
        ("Net = 3", "{}.Net", "is a int, not a class or function"),
        ("Net = nn.Linear(1, 1)", "{}.Net", "is a Linear, not a class or function"),
        (NET, "{}.Net()", "must be a dotted path, e.g. my_module.my_function"),
        ("def make():\n    return 3", "{}.make", "returns int, not a torch.nn.Module"),
        ("def make():\n    return nn.Sequential(nn.Flatten())", "{}.make", "not floats [2, 2]"),
        ("def make():\n    return nn.Linear(32, 2)", "{}.make", "gives torch.float32 [2, 1, 32, 2] for 2 images"),
        ("def make(depth):\n    return nn.Flatten()", "{}.make", "model.depth=???: must be given: {}.make needs it"),
        ("def make():\n    raise OSError('no disk')", "{}.make", "fails at data.image_size=32: OSError: no disk"),
        ("class Net(nn.Module):\n    pass", "{}.Net", 'is missing the required "forward" function'),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_custom_target_that_cannot_be_is_explained(
    written: Any, text: str, target: str, expected: str, device: str
) -> None:
    name = written(text)
    message = refused("custom", target=target.format(name), device=device)
    assert expected.format(name) in message


def test_a_custom_argument_that_does_not_exist_names_the_nearest(written: Any) -> None:
    message = refused("custom", target=f"{written(NET)}.Net", options={"widht": 3})
    assert message.startswith("model.widht=3: ")
    assert "did you mean width?" in message


def test_a_custom_argument_that_is_refused_is_named(written: Any) -> None:
    assert refused("custom", target=f"{written(NET)}.Net", options={"width": "a"}).startswith("model.width=a: ")


def test_a_custom_model_without_trainable_parameters_is_refused(written: Any) -> None:
    name = written("def make():\n    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten())")
    assert "has no trainable parameter" in refused("custom", target=f"{name}.make")


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["timm", "torchvision"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_size_too_small_is_explained_with_one_that_works(source: str, device: str) -> None:
    message = refused(source, "inception_v3", device=device)
    assert message.startswith("data.image_size=32: inception_v3 refuses it: ")
    assert message.endswith("; 96 works (it was made for 299)")
    assert build(source, "inception_v3", size=96, device="meta").image_size == 96


def test_a_size_that_fits_no_partition_is_explained_with_one_that_does() -> None:
    assert refused("torchvision", "maxvit_t", device="meta").endswith("; 224 works")


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("timm", "resnet81", "model=resnet81: no such model; did you mean resnet18, "),
        ("timm", "resnet18.a1_in1", "model=resnet18.a1_in1: no such weights of this model; did you mean resnet18.a1"),
        ("timm", None, "model.name=???: must be given"),
        ("timm", "???", "model.name=???: must be given"),
        ("torchvision", "resnet81", "model.name=resnet81: no such torchvision model; did you mean resnet18, "),
        ("torchvision", "raft_large", "model.name=raft_large: is not an image classifier"),
        ("lstm", "gru", "model.name=gru: there is only one lstm"),
        ("custom", None, "model._target_=???: must be given"),
        ("timm", "mobilenetv5_300m_enc", "model=mobilenetv5_300m_enc: gives torch.float32 [2, 2048, "),
    ],
)
def test_a_name_that_cannot_be_is_explained(source: str, name: str | None, expected: str) -> None:
    assert refused(source, name, size=64, device="meta").startswith(expected)


@pytest.mark.parametrize(
    ("source", "name", "options", "expected"),
    [
        ("timm", "resnet18", {"zero_init_lst": True}, "resnet18 has no such option; did you mean zero_init_last"),
        ("timm", "resnet18", {"zero_init_lst": True, "drop": 0.1}, "model.zero_init_lst=True: "),
        ("timm", "resnet18", {"drop_rate": 1.5}, "model.drop_rate=1.5: resnet18 refuses it: ValueError: dropout prob"),
        ("timm", "vit_tiny_patch16_224", {"patch_size": 64}, "model.patch_size=64: vit_tiny_patch16_224 refuses it: "),
        ("timm", "resnet18", {"num_classes": 7}, "model.num_classes=7: follows from the data"),
        ("timm", "resnet18", {"img_size": 7}, "model.img_size=7: is set by data.image_size"),
        ("timm", "resnet18", {"pretrained": True}, "model.pretrained=True: is set by weights=pretrained"),
        ("timm", "resnet18", {"checkpoint_path": "w.pt"}, "model.checkpoint_path=w.pt: is set by weights=checkpoint"),
        ("torchvision", "resnet18", {"group": 2}, "model.group=2: resnet18 has no such option; did you mean groups"),
        ("lstm", None, {"hiden_size": 3}, "model.hiden_size=3: "),
        ("lstm", None, {"hidden_size": "a"}, "model.hidden_size=a: must be a whole number"),
        ("lstm", None, {"num_layers": 0}, "model.num_layers=0: must be at least 1"),
        ("lstm", None, {"dropout": 1.5}, "model.dropout=1.5: must be from 0 to 1"),
    ],
)
def test_an_option_that_cannot_be_is_explained(source: str, name: str, options: dict[str, Any], expected: str) -> None:
    assert expected in refused(source, name, options=options)


def test_a_target_belongs_to_custom_models_only() -> None:
    assert "is for model=custom" in refused("timm", "resnet18", target="a.B")


def test_torchvision_refuses_four_channels_and_timm_does_not() -> None:
    assert "takes 3 channels, the images have 4" in refused("torchvision", "resnet18", channels=4)
    assert build(name="resnet18", channels=4, device="meta").channels == 4


# --- published weights ---------------------------------------------------------------------------------------------


def test_timms_own_loading_keeps_the_body_and_sums_the_channels(tmp_path: Path) -> None:
    published = build(name="test_resnet", classes=1000, channels=3).module
    save_weights(published.state_dict(), tmp_path / "w.safetensors")
    options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}}  # in place of the hub
    built = build(name="test_resnet", pretrained=True, options=options)
    assert torch.equal(built.module.layer1[0].conv1.weight, published.layer1[0].conv1.weight)
    assert torch.allclose(built.module.conv1[0].weight, published.conv1[0].weight.sum(1, keepdim=True))
    assert built.preprocessing is not None
    assert built.preprocessing.keys() == {"mean", "std", "interpolation", "crop_pct"}
    assert len(built.preprocessing["mean"]) == len(built.preprocessing["std"]) == 1


def test_torchvisions_own_loading_gets_a_new_head(monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")
    published = {name: torchvision.models.get_model(name, num_classes=1000) for name in ("resnet18", "squeezenet1_1")}
    for name, model in published.items():
        state = model.state_dict()
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, found=state, **__: found)
        built = build("torchvision", name, pretrained=True, size=64)
        differing = {key for key, value in built.module.state_dict().items() if not torch.equal(value, state[key])}
        head = "fc" if name == "resnet18" else "classifier.1"
        assert differing == {f"{head}.weight", f"{head}.bias"}
        assert logits(built).shape == (2, 2)
        assert built.preprocessing is not None
        assert built.preprocessing["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("source", ["timm", "torchvision"])
def test_weights_that_cannot_be_had_are_a_failure_that_names_them(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no\nnetwork")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    message = refused(source, "resnet18", pretrained=True, kind=RunError)
    assert "the weights of resnet18" in message
    assert "no network" in message
    assert ("resnet18.a3_in1k" if source == "timm" else "IMAGENET1K_V1") in message


def test_on_meta_published_weights_are_named_but_not_loaded() -> None:
    built = build(name="resnet18", pretrained=True, tag="a2_in1k", channels=3, size=None, device="meta")
    assert all_on_meta(built.module)
    assert built.preprocessing is not None
    assert built.preprocessing["mean"] == (0.485, 0.456, 0.406)
    assert build("torchvision", "vit_b_16", pretrained=True, size=None, device="meta").image_size == 224


@pytest.mark.parametrize(
    ("source", "name", "tag", "expected"),
    [
        ("timm", "resnet18", "a9_in1k", "weights.tag=a9_in1k: no such weights of resnet18; did you mean a"),
        ("timm", "resnet18.a1_in1k", "a2_in1k", "weights.tag=a2_in1k: model=resnet18.a1_in1k already names a1_in1k"),
        ("torchvision", "resnet18", "V3", "weights.tag=V3: no such weights of resnet18; choices: IMAGENET1K_V1"),
        ("torchvision", "vit_b_16", None, "data.image_size=32: vit_b_16 refuses it: "),
        ("lstm", None, None, "weights=pretrained: none are published for models of source lstm"),
    ],
)
def test_published_weights_that_cannot_be_are_explained(
    source: str, name: str | None, tag: str | None, expected: str
) -> None:
    assert refused(source, name, pretrained=True, tag=tag, device="meta").startswith(expected)


def test_a_timm_model_without_published_weights_names_others_that_have_some() -> None:
    timm = pytest.importorskip("timm")
    name = next(n for n in timm.list_models("resnet*") if not timm.models.is_model_pretrained(n))
    message = refused("timm", name, pretrained=True, device="meta")
    assert message.startswith(f"model={name}: no weights are published for it; did you mean resnet")
