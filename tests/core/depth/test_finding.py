from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping

import pytest
import timm
import torch
from timm.models._manipulate import group_with_matcher
from torch import nn

from lwexp.core.depth import Depths, find_depths
from lwexp.errors import ConfigError, UnknownNameError


def groups(depths: Depths) -> list[set[str]]:
    """Names by depth, from the stem."""
    found: list[set[str]] = [set() for _ in range(max(depths.by_name.values()) + 1)]
    for name, depth in depths.by_name.items():
        found[depth].add(name)
    return found


def modules(depths: Depths) -> list[set[str]]:
    """Names of the modules that own parameters, by depth, from the stem."""
    return [{name.rpartition(".")[0] or name for name in names} for names in groups(depths)]


def timm_model(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def timm_depths(model: nn.Module) -> dict[str, int]:
    return group_with_matcher(model.named_parameters(), model.group_matcher(coarse=False), reverse=True)


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.lstm = nn.LSTM(8, 8, num_layers=3, batch_first=True)
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(ids))[0][:, -1])


class GRUClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(rows)[0].mean(1))


class TiedLanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(8, 20)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.embedding = nn.Embedding(20, 8)
        self.decoder.weight = self.embedding.weight
        self.position = nn.Parameter(torch.zeros(16, 8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.decoder(self.norm(x))


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.auxiliary = nn.Linear(8, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.unused = nn.Linear(4, 4)
        self.stem = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).mT
        for block in reversed(self.blocks):
            x = block(x)
        return self.fc(x.mean(1))


class Parallel(nn.Module):
    """Two branches of two blocks each on the same input, registered one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.left = nn.Sequential(Block(), Block())
        self.right = nn.Sequential(Block(), Block())
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.left(x), self.right(x)], -1))


class Mixed(nn.Module):
    """Blocks with branches side by side in each."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sum(branch(x) for branch in self.branches)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.cells = nn.Sequential(self.Cell(), self.Cell())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.stem(x)))


class Recurrent(nn.Module):
    """Two blocks used three times over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.again = self.blocks[0]
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(3):
            for block in self.blocks:
                x = block(x)
        return self.head(x)


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(4, 2, 1)
        self.ups = nn.ModuleList([double(16 + 8, 8), double(8 + 4, 4)])
        self.downs = nn.ModuleList([double(3, 4), double(4, 8)])
        self.middle = double(8, 16)
        self.resize = nn.ModuleList([nn.ConvTranspose2d(16, 16, 2, 2), nn.ConvTranspose2d(8, 8, 2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for resize, up in zip(self.resize, self.ups, strict=True):
            x = up(torch.cat([resize(x), skips.pop()], 1))
        return self.out(x)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.transformer = nn.Transformer(8, 2, 2, 2, 16, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.head(self.transformer(source, target))


class ByValue(nn.Module):
    """Its course depends on a computed number."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.first = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(-x if x.sum().item() > 0 else x)


class Choosy(nn.Module):
    """No input that could be guessed gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Linear(7, 4)

    def forward(self, table: Mapping[str, torch.Tensor], *, scale: float) -> torch.Tensor:
        return self.head(self.body(table["rows"] * scale))


class Functional(nn.Module):
    """Parameters that no module's own forward takes: a view, a table, a token, attention's fused projections."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(3))
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.table = nn.Parameter(torch.zeros(17, 8))
        self.weight = nn.Parameter(torch.zeros(10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), nn.functional.linear(x, self.weight.mT)], 1)
        x = x + self.table[: x.shape[1]]
        for block in self.blocks:
            x = x + block(x, x, x)[0]
        return self.head(x[:, 0])


class Stateful(nn.Module):
    """Everything that a careless forward pass would leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.cache: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.cache["x"] = self.last = self.layer(self.drop(self.norm(x)))
        return self.last


NETWORKS = [
    LSTMClassifier,
    GRUClassifier,
    TiedLanguageModel,
    HeadFirst,
    Parallel,
    Mixed,
    Recurrent,
    UNet,
    EncoderDecoder,
    ByValue,
    Choosy,
    Functional,
    Stateful,
]
SOURCES = ["auto", "execution", "registration"]


# --- every network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("source", ["auto", "registration"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_every_parameter_has_a_depth_and_depths_have_no_gaps(network: type, source: str, device: str) -> None:
    model = network().to(device)
    depths = find_depths(model, source)
    assert list(depths.by_name) == [name for name, _ in model.named_parameters()]
    assert set(depths.by_name.values()) == set(range(max(depths.by_name.values()) + 1))


@pytest.mark.parametrize("network", [HeadFirst, LSTMClassifier, Parallel, UNet])
def test_depths_are_the_same_on_the_meta_device_and_from_run_to_run(network: type) -> None:
    assert find_depths(network()) == find_depths(network().to("meta")) == find_depths(network())


@pytest.mark.parametrize("source", SOURCES)
def test_the_model_stays_exactly_as_it_is(source: str) -> None:
    model = Stateful().train()
    model.norm.eval()
    model.layer.weight.requires_grad_(False)
    seen: list[object] = []
    model.layer.register_forward_hook(lambda *_: seen.append(1))
    before, rng = pickle.dumps(dict(model.state_dict())), torch.get_rng_state()
    tensors = [*model.parameters(), *model.buffers()]
    find_depths(model, source)
    assert pickle.dumps(dict(model.state_dict())) == before
    assert all(old is new for old, new in zip(tensors, [*model.parameters(), *model.buffers()], strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert (model.training, model.norm.training, model.layer.training) == (True, False, True)
    assert not model.layer.weight.requires_grad
    assert model.layer.bias.requires_grad
    assert (seen, model.cache, model.last) == ([], {}, None)


def test_a_model_without_parameters_has_no_depths() -> None:
    assert find_depths(nn.ReLU()).by_name == {}


def test_a_single_layer_has_depth_zero() -> None:
    assert find_depths(nn.Linear(3, 2)).by_name == {"weight": 0, "bias": 0}


def test_an_unknown_source_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"grouping\.source=exection: .*did you mean execution\?"):
        find_depths(nn.Linear(3, 2), "exection")


# --- execution -----------------------------------------------------------------------------------------------------


def test_each_layer_of_an_lstm_is_a_depth_whatever_the_order_of_registration() -> None:
    depths = find_depths(LSTMClassifier())
    assert depths.source == "execution"
    layers = [{f"lstm.{kind}_l{i}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")} for i in range(3)]
    assert groups(depths) == [{"embedding.weight"}, *layers, {"head.weight", "head.bias"}]


def test_both_directions_of_a_gru_layer_share_its_depth() -> None:
    first, second, head = groups(find_depths(GRUClassifier()))
    assert len(first) == len(second) == 8
    assert all("_l0" in name for name in first)
    assert all("_l1" in name for name in second)
    assert head == {"head.weight", "head.bias"}


def test_a_large_vocabulary_hides_no_blocks() -> None:
    class Encoder(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.embedding = nn.Embedding(words, 8)
            self.layers = nn.ModuleList(Block() for _ in range(2))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embedding(ids)
            for layer in self.layers:
                x = layer(x)
            return x

    class Classifier(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.encoder = Encoder(words)
            self.head = nn.Linear(8, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(ids).mean(1))

    assert find_depths(Classifier(100_000)) == find_depths(Classifier(10))
    assert len(groups(find_depths(Classifier(100_000)))) == 4


def test_a_tied_weight_is_where_it_is_used_first_and_the_rest_of_its_layer_is_not() -> None:
    stem, first, second, head = groups(find_depths(TiedLanguageModel()))
    assert stem == {"decoder.weight", "position"}
    assert head == {"decoder.bias"}
    assert {"norm.weight", "norm.bias"} < second  # a lone final norm belongs to the last block
    assert {name.split(".")[1] for name in first} == {"0"}


def test_a_head_registered_first_is_last_and_blocks_follow_their_use() -> None:
    model = HeadFirst()
    depths = find_depths(model)
    parts = modules(depths)
    assert parts[0] == {"stem"}
    assert {"blocks.1.up", "blocks.1.down"} < parts[1]
    assert parts[2] == {"blocks.0.norm", "blocks.0.up", "blocks.0.down"}
    assert parts[3] == {"fc", "auxiliary"}


def test_parameters_that_are_never_used_are_listed() -> None:
    notes = find_depths(HeadFirst()).notes
    assert notes == (
        "never used in the forward pass, so with its like or its neighbour: unused.{weight,bias} (depth 1)",
        "never used in the forward pass, so with its like or its neighbour: auxiliary.{weight,bias} (depth 3)",
    )


def test_branches_side_by_side_share_their_depths() -> None:
    _, first, second, head = modules(find_depths(Parallel()))
    assert first == {f"{side}.0.{part}" for side in ("left", "right") for part in ("norm", "up", "down")}
    assert second == {f"{side}.1.{part}" for side in ("left", "right") for part in ("norm", "up", "down")}
    assert head == {"head"}


def test_branches_inside_a_block_stay_in_it() -> None:
    stem, first, second, head = modules(find_depths(Mixed()))
    assert (stem, head) == ({"stem"}, {"head"})
    assert {name.split(".")[1] for name in first} == {"0"}
    assert {name.split(".")[1] for name in second} == {"1"}


def test_a_block_used_again_keeps_the_depth_of_its_first_use() -> None:
    stem, first, second, head = modules(find_depths(Recurrent()))
    assert (stem, head) == ({"stem"}, {"head"})
    assert {name.split(".")[1] for name in first} == {"0"}
    assert {name.split(".")[1] for name in second} == {"1"}


def test_a_u_net_goes_down_and_up_again() -> None:
    assert modules(find_depths(UNet())) == [
        {"downs.0.0", "downs.0.2"},
        {"downs.1.0", "downs.1.2"},
        {"middle.0", "middle.2"},
        {"resize.0", "ups.0.0", "ups.0.2"},
        {"resize.1", "ups.1.0", "ups.1.2"},
        {"out"},
    ]


def test_a_decoder_comes_after_the_encoder_it_looks_at() -> None:
    parts = modules(find_depths(EncoderDecoder()))
    assert len(parts) == 5
    for depth, layer in enumerate(["encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"]):
        assert any(name.startswith(f"transformer.{layer}.") for name in parts[depth])
    assert parts[4] == {"head"}


def test_parameters_used_without_their_module_are_seen() -> None:
    depths = find_depths(Functional(), "execution", torch.zeros(2, 16, 10))
    assert depths.notes == ()
    stem, *blocks, head = groups(depths)
    assert stem == {"token", "table", "weight"}
    assert blocks == [{f"blocks.{i}.{n}" for n in dict(Functional().blocks[i].named_parameters())} for i in range(3)]
    assert head == {"head.weight", "head.bias"}


def test_a_network_that_looks_at_its_numbers_is_run_with_real_ones() -> None:
    assert modules(find_depths(ByValue(), "execution")) == [{"first"}, {"last"}]


def test_recurrent_cells_follow_one_another() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(8, 2)
            self.cells = nn.ModuleList([nn.LSTMCell(5, 8), nn.LSTMCell(8, 8)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states = [(x.new_zeros(x.shape[0], 8),) * 2 for _ in self.cells]
            for step in x.unbind(1):
                for i, cell in enumerate(self.cells):
                    states[i] = cell(step if i == 0 else states[i - 1][0], states[i])
            return self.out(states[-1][0])

    assert modules(find_depths(Cells(), "execution", torch.zeros(2, 3, 5))) == [{"cells.0"}, {"cells.1"}, {"out"}]


def test_outputs_gathered_in_a_table_are_followed() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(8, 2)
            self.norm = nn.LayerNorm(8)
            self.blocks = nn.ModuleList(Block() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            table = torch.zeros(x.shape)
            for i in range(x.shape[1]):
                table[:, i] = self.blocks[1](self.blocks[0](x[:, i]))
            return self.head(self.norm(table))

    first, second, head = modules(find_depths(Filled(), "execution"))
    assert (len(first), len(second), head) == (3, 4, {"head"})
    assert "norm" in second


def test_a_network_that_packs_its_sequences_gets_lengths() -> None:
    class Packed(LSTMClassifier):
        def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(
                self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(self.lstm(packed)[1][0][-1])

    assert find_depths(Packed(), "execution").by_name == find_depths(LSTMClassifier(), "execution").by_name


def test_a_view_of_a_parameter_that_was_made_beforehand_is_that_parameter() -> None:
    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.flat = nn.Parameter(torch.zeros(16))
            self.square = self.flat.detach().view(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x @ self.square)

    assert find_depths(View(), "execution") == Depths({"flat": 0, "head.weight": 1, "head.bias": 1}, "execution", ())


def test_a_network_that_holds_something_uncopyable_is_run_all_the_same() -> None:
    model = HeadFirst()
    model.blocks[0].lock = threading.Lock()
    assert find_depths(model) == find_depths(HeadFirst())


def test_layers_without_repeated_blocks_have_a_depth_each() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    assert modules(find_depths(model)) == [{"1", "3"}, {"4"}, {"5"}]


def test_lazy_layers_are_placed_without_being_initialised() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    assert modules(find_depths(model, "execution", torch.zeros(4, 5))) == [{"0"}, {"2"}]
    assert all(isinstance(p, nn.UninitializedParameter) for p in model.parameters())


def test_scalar_empty_complex_and_parametrized_parameters_have_a_depth() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.empty = nn.Parameter(torch.zeros(0))
            self.phase = nn.Parameter(torch.zeros(4, dtype=torch.complex64))
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.fft.ifft(torch.fft.fft(self.first(x)) * self.phase).real
            return self.head(self.second(x)) * self.scale

    model = Odd()
    depths = find_depths(model, "execution")
    assert list(depths.by_name) == [name for name, _ in model.named_parameters()]
    parts = groups(depths)
    assert {name.split(".")[0] for name in parts[0]} >= {"first"}
    assert parts[-1] == {"head.weight", "head.bias", "scale", "empty"}
    assert [note for note in depths.notes if "never used" in note and "empty" in note]


@pytest.mark.parametrize("example", [{"rows": torch.zeros(2, 7)}, {"rows": torch.zeros(2, 7, device="meta")}])
def test_an_example_input_replaces_the_guess(example: dict[str, torch.Tensor]) -> None:
    depths = find_depths(Choosy(), "execution", {"table": example, "scale": 2.0})
    assert modules(depths) == [{"body"}, {"head"}]


def test_without_an_input_that_fits_execution_says_what_was_tried() -> None:
    with pytest.raises(
        ConfigError, match=r"grouping\.source=execution: .*tried \[2, 16, 4\], .*example_input"
    ) as caught:
        find_depths(Choosy(), "execution")
    assert "\n" not in str(caught.value)
    assert "missing 1 required keyword-only argument: 'scale'" in str(caught.value)


def test_without_an_input_that_fits_auto_takes_the_order_of_registration_and_says_so() -> None:
    depths = find_depths(Choosy())
    assert depths.source == "registration"
    assert modules(depths) == [{"head"}, {"body"}]
    assert "no forward pass got through, tried" in depths.notes[0]
    assert "order in which modules were registered" in depths.notes[1]


def test_many_layers_take_time_in_proportion() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(1500)))
    assert max(find_depths(model, "execution").by_name.values()) == 1499


# --- registration --------------------------------------------------------------------------------------------------


def test_registration_orders_whole_blocks_and_says_what_it_is() -> None:
    depths = find_depths(timm_model("convnext_atto"), "registration")
    assert depths.source == "registration"
    assert len(depths.notes) == 1
    assert depths.by_name["stages.1.downsample.1.weight"] == depths.by_name["stages.1.blocks.0.mlp.fc1.weight"] == 3
    assert max(depths.by_name.values()) == 13


# --- timm's description --------------------------------------------------------------------------------------------

TIMM_MODELS = [
    "resnet18",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
    "coat_lite_tiny",
    "volo_d1_224",
    "inception_v3",
]


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_auto_is_the_partition_of_the_models_own_description(name: str) -> None:
    model = timm_model(name)
    depths = find_depths(model)
    assert depths.source == "timm"
    assert depths.by_name == timm_depths(model)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "crossvit_tiny_240", "xcit_nano_12_p16_224"]
)
def test_execution_finds_the_same_without_the_description(name: str) -> None:
    model = timm_model(name)
    assert find_depths(model, "execution").by_name == timm_depths(model)


def test_resnet18_has_ten_depths() -> None:
    parts = modules(find_depths(timm_model("resnet18", num_classes=2)))
    assert len(parts) == 10
    assert parts[0] == {"conv1", "bn1"}
    assert parts[9] == {"fc"}


def test_a_compiled_model_has_the_depths_of_the_original() -> None:
    model = timm_model("resnet18")
    expected = {f"_orig_mod.{name}": depth for name, depth in find_depths(model).by_name.items()}
    assert find_depths(torch.compile(model)).by_name == expected
    model.layer1 = torch.compile(model.layer1)
    assert list(find_depths(model).by_name.values()) == list(expected.values())


def test_a_timm_backbone_inside_another_class_keeps_its_depths() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 2)
            self.backbone = timm_model("vit_tiny_patch16_224", num_classes=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    depths = find_depths(Wrapper())
    assert depths.source == "execution"
    inner = timm_depths(timm_model("vit_tiny_patch16_224", num_classes=0))
    assert depths.by_name == {f"backbone.{n}": d for n, d in inner.items()} | {"head.weight": 13, "head.bias": 13}


def test_a_backbone_that_describes_itself_keeps_its_own_depths_inside_another_network() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = nn.Linear(512, 2)
            self.encode = timm_model("mvitv2_tiny", num_classes=0)
            self.project = nn.Linear(768, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classify(self.project(self.encode(x)).relu())

    inner = timm_model("mvitv2_tiny", num_classes=0)
    depths = find_depths(Wrapper())
    expected = timm_depths(inner)
    last = max(expected.values())
    for name, depth in expected.items():
        assert depths.by_name[f"encode.{name}"] == depth
    assert depths.by_name["classify.weight"] == last + 1
    assert "encode by its own description, the rest around it" in depths.notes
    own = find_depths(Wrapper(), "execution")
    assert max(own.by_name.values()) > last + 1
    assert own.notes == ()


def test_distributed_and_data_parallel_networks_have_the_depths_of_the_network() -> None:
    model = HeadFirst()
    expected = {f"module.{name}": depth for name, depth in find_depths(model).by_name.items()}
    assert find_depths(nn.DataParallel(model)).by_name == expected
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        assert find_depths(parallel).by_name == expected
    finally:
        torch.distributed.destroy_process_group()


def test_adapters_and_parametrizations_stay_in_their_block() -> None:
    class Adapted(nn.Module):
        """A layer with a low-rank adapter, as PEFT builds it."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.base_layer = layer.requires_grad_(False)
            self.lora_A = nn.Linear(layer.in_features, 2, bias=False)
            self.lora_B = nn.Linear(2, layer.out_features, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base_layer(x) + self.lora_B(self.lora_A(x))

    model = HeadFirst()
    plain = find_depths(model).by_name
    for block in model.blocks:
        block.up = Adapted(block.up)
        nn.utils.parametrizations.weight_norm(block.down)
    depths = find_depths(model).by_name
    for i in range(2):
        inside = {depth for name, depth in depths.items() if name.startswith(f"blocks.{i}.")}
        assert inside == {plain[f"blocks.{i}.up.weight"]}
    assert {name: depths[name] for name in plain if name in depths and "blocks" not in name} == {
        name: depth for name, depth in plain.items() if "blocks" not in name
    }


def test_freezing_moves_no_depth() -> None:
    model = HeadFirst()
    expected = find_depths(model).by_name
    model.stem.requires_grad_(False)
    model.blocks[0].up.weight.requires_grad_(False)
    assert find_depths(model).by_name == expected


def test_a_layer_shared_by_two_blocks_is_where_it_is_used_first() -> None:
    model = TiedLanguageModel()
    model.blocks[1].up = model.blocks[0].up
    depths = find_depths(model).by_name
    assert depths["blocks.0.up.weight"] == depths["blocks.0.down.weight"]
    assert depths["blocks.1.down.weight"] == depths["blocks.0.down.weight"] + 1


class Layered(nn.Module):
    """Stages in a container, each a down-sampling and its blocks; a conv between, a norm before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), double(4, 4))
        self.stages = nn.Sequential(
            nn.Sequential(*(double(4, 4) for _ in range(2))),
            nn.Conv2d(4, 64, 3, 2, 1),
            nn.Sequential(*(double(64, 64) for _ in range(3))),
        )
        self.norm = nn.GroupNorm(1, 64)
        self.pool = nn.Sequential(nn.Conv2d(64, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 64, 1))
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stages(self.stem(x)))
        return self.head((x * self.pool(x)).mean((2, 3)))


def test_stem_down_sampling_norm_and_neck_are_where_they_belong() -> None:
    depths = {name.rpartition(".")[0]: depth for name, depth in find_depths(Layered(), "execution").by_name.items()}
    assert {depth for name, depth in depths.items() if name.startswith("stem")} == {0}
    assert depths["stages.0.0.0"] == 1
    assert depths["stages.1"] == depths["stages.2.0.0"] == 3  # a down-sampling layer belongs to the block it feeds
    assert depths["norm"] == depths["stages.2.2.0"] == 5  # a lone norm to the last block
    assert depths["pool.0"] == depths["pool.2"] == depths["head"] == 6


def test_a_missed_parameter_after_the_last_block_joins_the_head_and_is_noted() -> None:
    depths = find_depths(timm_model("convnext_atto"), "timm")
    assert depths.by_name["head.norm.weight"] == depths.by_name["head.fc.weight"] == 13
    assert depths.notes == (
        "the model's own description misses head.norm.{weight,bias}: "
        "first used after the last described block, so with the head (depth 13)",
    )


def test_a_missed_parameter_that_is_used_early_goes_where_it_is_used() -> None:
    from timm.models.eva import Eva

    with torch.device("meta"):
        model = Eva(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3, rope_type="mixed",
            use_rot_pos_emb=True,
        )  # fmt: skip
    missed = [name for name in dict(model.named_parameters()) if name.startswith("rope")]
    assert missed
    depths = find_depths(model, "timm", torch.zeros(1, 3, 32, 32))
    assert {depths.by_name[name] for name in missed} == {0}
    assert max(depths.by_name.values()) == 3
    assert any(
        "misses rope.freqs: first used before the first described block (depth 0)" in note for note in depths.notes
    )


class Described(nn.Module):
    """Three blocks and a description of one's own; `matcher` is what `group_matcher` gives."""

    def __init__(self, matcher: object) -> None:
        super().__init__()
        self.matcher = matcher
        self.norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.between = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def group_matcher(self, coarse: bool = False) -> object:
        return self.matcher

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks[1](self.blocks[0](x))
        return self.head(self.norm(self.blocks[2](self.between(x))))


@pytest.mark.parametrize(
    "matcher",
    [
        {"blocks": r"^blocks\.(\d+)"},
        {"stem": None, "blocks": [(r"^blocks\.(\d+)", None)]},
        lambda name: int(name.split(".")[1]) if name.startswith("blocks") else float("inf"),
        lambda name: (0, int(name.split(".")[1])) if name.startswith("blocks") else None,
    ],
)
def test_what_a_matcher_of_any_form_misses_is_placed_by_use(matcher: object) -> None:
    depths = find_depths(Described(matcher))
    assert depths.source == "timm"
    by_module = {name.rpartition(".")[0]: depth for name, depth in depths.by_name.items()}
    assert [by_module[f"blocks.{i}.up"] for i in range(3)] == [0, 1, 2]
    assert (by_module["between"], by_module["norm"], by_module["head"], by_module["never"]) == (2, 3, 3, 3)
    assert [note for note in depths.notes if "between.{weight,bias}" in note and "(depth 2)" in note]
    assert [note for note in depths.notes if "never.{weight,bias} (never used in the forward pass)" in note]
    assert not [note for note in depths.notes if "head.weight" in note]


def test_a_tied_tensor_has_the_smallest_depth_of_its_names() -> None:
    model = Described({"blocks": r"^blocks\.(\d+)"})
    model.blocks[0].up = model.blocks[2].up  # registered under the first block, and under the last
    assert find_depths(model).by_name["blocks.0.up.weight"] == 0
    assert "blocks.2.up.weight" not in find_depths(model).by_name


def test_a_model_without_a_description_cannot_be_asked_for_it() -> None:
    with pytest.raises(ConfigError, match=r"grouping\.source=timm: the model has no group_matcher"):
        find_depths(HeadFirst(), "timm")


def test_a_description_that_fails_or_fits_nothing_is_replaced_and_said() -> None:
    def broken(name: str) -> int:
        raise KeyError(name)

    for matcher in (broken, {"blocks": r"^layers\.(\d+)"}):
        depths = find_depths(Described(matcher))
        assert depths.source == "execution"
        assert any("group_matcher" in note for note in depths.notes)
