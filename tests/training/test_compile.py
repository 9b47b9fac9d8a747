"""`compile=true`: one compilation for a whole training, whatever its rates do; and with the real compiler, slowly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lwexp.data.images import Inputs, SampleDataset
from tests.helpers.tiny_training import TinyNorms, load, make_trainer

GROUPINGS = ["per_parameter", "top_module", "depth_index"]


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every graph that torch.compile hands to its backend, which here runs it as it is."""
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield graphs
    torch.compiler.reset()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_moving_rates_compile_the_model_once(grouping: str, tmp_path: Path, compilations: list[Any]) -> None:
    plan = {"grouping": grouping, "freeze": ["blocks.0.norm"]}
    trainer = make_trainer(tmp_path, compile=True, plan_options=plan, freeze_stats=True)  # 13 steps, 3 epochs, cosine
    trainer.fit()
    assert len(compilations) == 1


def test_gradual_unfreezing_accumulation_and_a_resume_compile_the_model_once_each(
    tmp_path: Path, compilations: list[Any]
) -> None:
    trainer = make_trainer(tmp_path / "whole", compile=True, unfreeze=3, accumulate=2, steps=8)
    trainer.fit()
    assert len(compilations) == 1
    again = make_trainer(tmp_path / "again", compile=True, unfreeze=3, accumulate=2, steps=8)
    assert trainer.checkpointer.files is not None
    load(again, torch.load(trainer.checkpointer.files.paths()[4], weights_only=True))
    again.fit()
    assert len(compilations) <= 2, "a new model of the same kind may take the graph of the first"
    for name, value in trainer.learner.model.state_dict().items():
        assert torch.equal(value, again.learner.model.state_dict()[name])


class Words(SampleDataset):
    """Token ids of texts, each of another length."""

    def __init__(self, count: int) -> None:
        super().__init__(torch.arange(count) % 3)

    def inputs(self, keys: Any) -> list[Tensor]:
        return [torch.full((2 + key.sample % 7,), key.sample % 5) for key in keys]

    def collate(self, inputs: Any) -> Inputs:
        return {"ids": nn.utils.rnn.pad_sequence(list(inputs), batch_first=True)}


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids).mean(dim=1))


def test_texts_of_many_lengths_compile_the_model_twice(tmp_path: Path, compilations: list[Any]) -> None:
    trainer = make_trainer(tmp_path, compile=True, model=Bag(), train=Words(21), val=Words(6), batch_size=2)
    lengths = {max(2 + key.sample % 7 for key in keys) for keys in trainer.train.epoch_sampler}
    assert len(lengths) > 2
    trainer.fit()
    assert len(compilations) == 2, "once for the first length, once for any"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_the_real_compiler_gives_the_numbers_of_the_plain_model(tmp_path: Path) -> None:
    trained = []
    for compiled in (False, True):
        trainer = make_trainer(
            tmp_path / str(compiled), compile=compiled, model=without_dropout(), optimizer="sgd", steps=4
        )
        trainer.fit()
        trained.append(trainer.learner.model.state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-4, atol=1e-5)


def without_dropout() -> nn.Module:
    """Compiled, dropout draws its random numbers in another way."""
    torch.manual_seed(0)
    model = TinyNorms()
    for block in model.blocks:
        block.dropout = nn.Identity()  # type: ignore[assignment]
    return model
