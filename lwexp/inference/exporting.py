"""The network of a run as a graph of torch's own operators (`torch.export`), checked against the network."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.data import call
from lwexp.errors import RunError
from lwexp.formatting import one_line

from .inputs import TextInput
from .loaded import LoadedRun

TOLERANCE = 1e-4  # of the largest output: another order of additions, no other network


class TextNetwork(nn.Module):
    """A network of texts, with its two inputs by name."""

    def __init__(self, model: nn.Module) -> None:
        """`model` is a network as `lwexp.data.call` calls it."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [texts, classes] of int64 [texts, tokens]."""
        found = call(self.model, {"input_ids": input_ids, "attention_mask": attention_mask})
        assert isinstance(found, Tensor)
        return found


@dataclass(frozen=True)
class Exported:
    """An exported program, with an example of its inputs and the largest difference to the network's outputs."""

    program: torch.export.ExportedProgram
    example: tuple[Tensor, ...]
    names: tuple[str, ...]  # of the inputs
    difference: float


def example_inputs(run: LoadedRun, count: int, tokens: int = 6) -> tuple[Tensor, ...]:
    """Random inputs of the right shape and range, always the same ones; `tokens`: the length of texts."""
    generator = torch.Generator().manual_seed(count)
    if isinstance(run.transform, TextInput):
        vocabulary = run.transform.tokens.vocabulary
        tokens = min(tokens, run.transform.tokens.max_length)
        ids = torch.randint(0, vocabulary, (count, tokens), generator=generator)
        return ids, torch.ones_like(ids)
    shape = run.input_shape
    return (torch.randn(count, *shape, generator=generator),)


def as_module(run: LoadedRun) -> nn.Module:
    """The network on the CPU, with tensors as positional arguments."""
    model = run.model if run.device.type == "cpu" else copy.deepcopy(run.model).cpu()
    return TextNetwork(model) if run.kind == "text" else model


def input_names(run: LoadedRun) -> tuple[str, ...]:
    """Names of the network's inputs."""
    return ("input_ids", "attention_mask") if run.kind == "text" else ("images",)


def export_program(run: LoadedRun) -> Exported:
    """The network of `run` for batches of any size, and texts of any length up to the longest.

    Raises `RunError` where the network cannot be exported, or computes something else then.
    """
    module, example = as_module(run), example_inputs(run, 2)
    free = (0, 1) if run.kind == "text" else (0,)
    refusal: Exception | None = None
    for dim in (torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO):
        shapes: Any = tuple(dict.fromkeys(free, dim) for _ in example)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about an LSTM's flattened weights, which are no inputs
                program = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
                found = program.module()
                gap = max(difference(module, found, example_inputs(run, 3, 9)), difference(module, found, example))
            check_difference(gap, "torch.export's program")
            return Exported(program, example, input_names(run), gap)
        except RunError:
            raise
        except Exception as error:  # whatever a network's code or torch raises
            refusal = refusal or error
    assert refusal is not None
    raise RunError(f"the network cannot be exported by torch.export: {one_line(refusal, 160, kind=True)}")


def difference(module: nn.Module, found: Any, inputs: tuple[Tensor, ...]) -> float:
    """The largest difference of two networks' outputs, as a share of the largest output (or of 1)."""
    with torch.no_grad():
        expected, got = module(*inputs), found(*inputs)
    if got.shape != expected.shape:
        raise ValueError(f"its output is {list(got.shape)} in place of {list(expected.shape)}")
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1))


def check_difference(gap: float, what: str) -> None:
    """Raise `RunError` for a difference above the tolerance, and for NaN."""
    if not gap <= TOLERANCE:
        raise RunError(f"{what} differs from the network by {gap:.2g} of its largest output, more than {TOLERANCE:g}")
