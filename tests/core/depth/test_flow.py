"""Where units stand: blocks, branches, recurrent layers, stems, necks and heads."""

from __future__ import annotations

import torch
from torch import nn

from lwexp.core.depth import find_depths
from tests.helpers.depth_networks import (
    Block,
    EncoderDecoder,
    GRUClassifier,
    HeadFirst,
    Layered,
    LSTMClassifier,
    Mixed,
    Parallel,
    Recurrent,
    TiedLanguageModel,
    UNet,
    groups,
    modules,
)


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


def test_layers_without_repeated_blocks_have_a_depth_each() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    assert modules(find_depths(model)) == [{"1", "3"}, {"4"}, {"5"}]


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


def test_a_layer_shared_by_two_blocks_is_where_it_is_used_first() -> None:
    model = TiedLanguageModel()
    model.blocks[1].up = model.blocks[0].up
    depths = find_depths(model).by_name
    assert depths["blocks.0.up.weight"] == depths["blocks.0.down.weight"]
    assert depths["blocks.1.down.weight"] == depths["blocks.0.down.weight"] + 1


def test_stem_down_sampling_norm_and_neck_are_where_they_belong() -> None:
    depths = {name.rpartition(".")[0]: depth for name, depth in find_depths(Layered(), "execution").by_name.items()}
    assert {depth for name, depth in depths.items() if name.startswith("stem")} == {0}
    assert depths["stages.0.0.0"] == 1
    assert depths["stages.1"] == depths["stages.2.0.0"] == 3  # a down-sampling layer belongs to the block it feeds
    assert depths["norm"] == depths["stages.2.2.0"] == 5  # a lone norm to the last block
    assert depths["pool.0"] == depths["pool.2"] == depths["head"] == 6
