"""The forward pass that is recorded: which parameters it sees, which inputs it tries."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
import types

import pytest
import torch
from torch import nn

from lwexp import make_plan
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


def test_a_compiled_module_is_not_run_itself() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    expected = find_depths(model, "execution").by_name
    model.compile()
    model[0].compile()
    assert find_depths(model, "execution").by_name == expected
    assert model[1].num_batches_tracked == 0


def test_tensors_that_a_closure_holds_are_seen_and_never_changed() -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)
            self.norm = nn.BatchNorm1d(4).train()
            self.inner = nn.Linear(4, 4)
            self.run = lambda x: self.norm(self.inner(x))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.run(x))

    model = Closed()
    for _ in range(2):
        assert modules(find_depths(model, "execution", torch.ones(3, 4))) == [{"inner", "norm"}, {"head"}]
    assert model.norm.num_batches_tracked == 0
    assert torch.equal(model.norm.running_mean, torch.zeros(4))


class Collecting(nn.Module):
    """Its own hooks collect what its head takes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.found: list[torch.Tensor] = []
        self.blocks[0].register_forward_hook(self.collect)
        self.blocks[1].register_forward_hook(lambda module, inputs, output: self.found.append(output))

    def collect(self, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        self.found.append(output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.found.clear()
        for block in self.blocks:
            x = block(x)
        return self.head(self.found[0] + self.found[1])


def test_hooks_of_the_network_run_and_those_of_its_user_do_not() -> None:
    model, seen = Collecting(), []
    model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    model.head.register_forward_pre_hook(lambda *_: seen.append(2))
    depths = find_depths(model, "execution", torch.zeros(2, 3, 8))
    assert modules(depths)[2] == {"head"}
    assert (seen, model.found) == ([], [])


def test_inputs_and_outputs_inside_objects_are_followed() -> None:
    @dataclasses.dataclass
    class Batch:
        rows: torch.Tensor

    @dataclasses.dataclass
    class Answer:
        inner: object

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(4, 2)
            self.body = nn.Linear(4, 4)

        def forward(self, batch: Batch) -> Answer:
            return Answer({"policy": torch.distributions.Normal(self.out(self.body(batch.rows)), 1.0)})

    batch = Batch(torch.ones(2, 4))
    assert modules(find_depths(Asked(), "execution", (batch,))) == [{"body"}, {"out"}]
    assert torch.equal(batch.rows, torch.ones(2, 4))


class Slow(nn.Module):
    """Endless, as far as anyone can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.body = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            with contextlib.suppress(Exception):  # must not swallow the end of the time
                x = self.body(x)


def test_a_slow_network_is_given_up_and_registration_said() -> None:
    depths = find_depths(Slow(), "auto", torch.zeros(2, 4), timeout=0.2)
    assert depths.source == "registration"
    assert "longer than grouping.timeout=0.2 seconds" in depths.notes[0]
    assert "may not be the order of their use" in depths.notes[1]
    with pytest.raises(ConfigError, match=r"grouping\.source=execution: .*grouping\.timeout=0\.2"):
        find_depths(Slow(), "execution", torch.zeros(2, 4), timeout=0.2)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), True, "20"])
def test_a_timeout_is_a_positive_number(timeout: object) -> None:
    for grouping in ("depth_index", "per_parameter", "top_module"):
        with pytest.raises(ConfigError, match=r"grouping\.timeout=.*(number|finite)"):
            make_plan(nn.Linear(2, 2), grouping=grouping, grouping_options={"timeout": timeout})


def test_networks_that_cannot_run_are_not_asked_for_an_input() -> None:
    listed = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])
    depths = find_depths(listed)
    assert depths.source == "registration"
    assert modules(depths) == [{"0"}, {"1"}]
    assert depths.notes[0] == "no forward pass got through, ModuleList has no forward"


def test_nothing_runs_through_fully_sharded_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullyShardedDataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    fsdp = types.ModuleType("torch.distributed.fsdp")
    fsdp.FullyShardedDataParallel = FullyShardedDataParallel
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", fsdp)
    depths = find_depths(nn.Sequential(FullyShardedDataParallel(), nn.Linear(4, 2)))
    assert depths.source == "registration"
    assert "FullyShardedDataParallel" in depths.notes[0]


def test_the_guess_that_uses_most_weights_wins() -> None:
    class Towers(nn.Module):
        """As in open_clip: both inputs are optional."""

        def __init__(self) -> None:
            super().__init__()
            self.context_length = 7
            self.words, self.position = nn.Embedding(30, 8), nn.Parameter(torch.zeros(7, 8))
            self.reading = nn.Sequential(*(Block() for _ in range(3)))
            self.patches, self.seeing = nn.Conv2d(3, 8, 8, 8), nn.Sequential(*(Block() for _ in range(3)))

        def forward(self, image: torch.Tensor | None = None, text: torch.Tensor | None = None) -> list[torch.Tensor]:
            found = []
            if image is not None:
                found.append(self.seeing(self.patches(image).flatten(2).mT))
            if text is not None:
                found.append(self.reading(self.words(text) + self.position))
            return found

    depths = find_depths(Towers())
    assert depths.source == "execution"
    assert depths.notes == ()
    assert modules(depths)[0] == {"words", "position", "patches"}


def test_failing_passes_end_with_the_time() -> None:
    """Also where they fail before their first operation, at which the time is looked at."""
    calls = []

    class Failing(nn.Sequential):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            calls.append(batch.shape)
            time.sleep(0.15)
            raise ValueError("wrong shape")

    model = Failing(*(nn.Linear(width, width + 1) for width in range(3, 9)))
    depths = find_depths(model, "auto", timeout=0.2)
    assert depths.source == "registration"
    assert "longer than grouping.timeout=0.2 seconds" in depths.notes[0]
    assert len(calls) == 2


def test_a_forward_that_is_not_implemented_is_tried_at_most_twice_with_each_input() -> None:
    """As that of a LightningModule without one of its own; once with meta tensors, once with real ones."""
    inputs = []

    class Unimplemented(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            inputs.append((args[0].device.type, tuple(args[0].shape)))
            assert len(inputs) < 1000
            raise NotImplementedError

    assert find_depths(Unimplemented()).source == "registration"
    assert len(inputs) == len(set(inputs))
