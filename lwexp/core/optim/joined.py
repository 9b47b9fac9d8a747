"""Parameters of many groups that move together on a GPU, each at its group's rate.

torch's fused kernels take one rate a call. A call for each of many groups leaves most of a GPU idle: on an H200, 62 to
500 of them took 2.2 to 3.8 times as long as one for a single group (benchmarks/optimizer_step). So one call moves zeros
at a rate of 1, and another adds each result times its rate. Numbers are those of a call for each group but for
rounding: the product is rounded before it is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .kernel_spec import KernelCall

DEVICES = frozenset({"cuda"})
FEW_GROUPS = 8  # a call for each is as fast: 7 are faster, 14 slower
ELEMENTS = 2**24  # of a batch: 64 MB of float32. A kernel alone with 2**21 elements leaves an H200 mostly idle
_ALIGNED = 32  # elements; the kernels read four at once where addresses allow it


class Scratch:
    """Memory that batches take in turn: what the kernel moves, and ones, or zeros for a skipped step."""

    def __init__(self, like: Tensor, elements: int) -> None:
        """Of the dtype and on the device of `like`."""
        self.moved = torch.zeros(elements, dtype=like.dtype, device=like.device)
        self.kept = torch.ones(elements, dtype=like.dtype, device=like.device)
        self._all_kept = True

    def keep(self, found_inf: Tensor | None) -> None:
        """Let `kept` be 0 if the device finds `found_inf` to be 1, without waiting for it."""
        if found_inf is not None:
            self.kept.copy_(1 - found_inf)
        elif not self._all_kept:
            self.kept.fill_(1.0)
        self._all_kept = found_inf is None


class JoinedBatch:
    """A call of a fused kernel for parameters that differ in their rates only, and a second one that adds the result.

    Weight decay that is not decoupled is part of the gradient, for which the kernel needs the parameters themselves. It
    must then move by `rate * buffers[0]`.
    """

    def __init__(
        self, call: KernelCall, parameters: Sequence[Tensor], buffers: Sequence[Sequence[Tensor]], scratch: Scratch
    ) -> None:
        """The tensors are those of the call, or their local shards; `buffers`: [kinds][parameters]."""
        self._call, self._parameters, self._buffers = call, list(parameters), [list(each) for each in buffers]
        starts = _starts(parameters)
        self._used = scratch.moved[: starts[-1]]
        self._moved, self._kept = (
            [flat.as_strided(p.shape, p.stride(), start) for p, start in zip(parameters, starts, strict=False)]
            for flat in (scratch.moved, scratch.kept)
        )

    @property
    def moves_anyway(self) -> bool:
        """Whether the second call would move something where the kernel skips the step: decay, or a kept buffer."""
        return bool(self._call.options["weight_decay"])

    def step(self, gradients: Sequence[Tensor], rates: Sequence[float], scaling: Mapping[str, Any]) -> None:
        """Move the parameters by their gradients; `scaling` is what a GradScaler tells the kernel."""
        options = dict(self._call.options)
        decay, kernel = options["weight_decay"], self._call.kernel
        if decay and not self._call.decoupled:
            kernel(self._parameters, gradients, *self._buffers, lr=0.0, **options, **scaling)
            torch._foreach_addcmul_(self._parameters, self._buffers[0], self._kept, [-rate for rate in rates])
            return
        if decay:
            torch._foreach_copy_(self._moved, self._parameters)
            self._used.mul_(-decay)
        else:
            self._used.zero_()
        options["weight_decay"] = 0.0
        kernel(self._moved, gradients, *self._buffers, lr=1.0, **options, **scaling)
        torch._foreach_addcmul_(self._parameters, self._moved, self._kept, rates)


class JoinedBatches:
    """All batches of an optimizer."""

    def __init__(self, calls: Sequence[tuple[KernelCall, Sequence[Tensor], Sequence[Sequence[Tensor]]]]) -> None:
        """Each with the tensors of a `JoinedBatch`."""
        largest = {each[0].dtype: each for _, each, _ in sorted(calls, key=lambda call: _starts(call[1])[-1])}
        self._scratch = {dtype: Scratch(each[0], _starts(each)[-1]) for dtype, each in largest.items()}
        self._groups = [call.groups for call, *_ in calls]
        self._rates: list[list[float]] = []
        self._batches = [JoinedBatch(*each, self._scratch[each[1][0].dtype]) for each in calls]

    def set_rates(self, rates: Sequence[float]) -> None:
        """Take over the rate of each group."""
        self._rates = [[float(rates[i]) for i in groups] for groups in self._groups]

    def step(self, gradients: Sequence[Tensor], scaling: Mapping[str, Any]) -> None:
        """Move all parameters by their gradients, which are in the order of the calls."""
        masks = any(batch.moves_anyway for batch in self._batches)
        for each in self._scratch.values():
            each.keep(scaling.get("found_inf") if masks else None)
        for batch, rates in zip(self._batches, self._rates, strict=True):
            batch.step(gradients[: len(rates)], rates, scaling)
            gradients = gradients[len(rates) :]


def batched(parameters: Sequence[Tensor]) -> list[range]:
    """Positions of consecutive parameters for one call each."""
    found, first, elements = [], 0, 0
    for i, p in enumerate(parameters):
        if i > first and elements + p.numel() > ELEMENTS:
            found.append(range(first, i))
            first, elements = i, 0
        elements += p.numel()
    return [*found, range(first, len(parameters))]


def can_join(p: Tensor) -> bool:
    """Whether a call of its own would be slower, and a second rounding is far below what its dtype tells apart."""
    return p.device.type in DEVICES and p.dtype in (torch.float32, torch.float64) and p.numel() <= ELEMENTS


def are_few(groups: Collection[int]) -> bool:
    """Whether a call for each of them is as fast, and exact."""
    return len(groups) <= FEW_GROUPS


def _starts(parameters: Sequence[Tensor]) -> list[int]:
    """Where each parameter starts in the scratch memory, and where the last one ends."""
    starts = [0]
    for p in parameters:
        starts.append(starts[-1] + -(-p.numel() // _ALIGNED) * _ALIGNED)
    return starts
