"""The forward pass that is recorded: which parameters it sees, which inputs it tries."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from lwexp.core.depth import Depths, find_depths
from lwexp.errors import ConfigError
from tests.helpers.depth_networks import Block, ByValue, Choosy, Functional, HeadFirst, LSTMClassifier, groups, modules


def test_parameters_that_are_never_used_are_listed() -> None:
    notes = find_depths(HeadFirst()).notes
    assert notes == (
        "never used in the forward pass, so with its like or its neighbor: unused.{weight,bias} (depth 1)",
        "never used in the forward pass, so with its like or its neighbor: auxiliary.{weight,bias} (depth 3)",
    )


def test_parameters_used_without_their_module_are_seen() -> None:
    depths = find_depths(Functional(), "execution", torch.zeros(2, 16, 10))
    assert depths.notes == ()
    stem, *blocks, head = groups(depths)
    assert stem == {"token", "table", "weight"}
    assert blocks == [{f"blocks.{i}.{n}" for n in dict(Functional().blocks[i].named_parameters())} for i in range(3)]
    assert head == {"head.weight", "head.bias"}


def test_a_network_that_looks_at_its_numbers_is_run_with_real_ones() -> None:
    assert modules(find_depths(ByValue(), "execution")) == [{"first"}, {"last"}]


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


def test_lazy_layers_are_placed_without_being_initialized() -> None:
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
