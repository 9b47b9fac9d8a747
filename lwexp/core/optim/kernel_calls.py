"""Calls of torch's fused kernels over tensor lists that are built once and reused at every step.

By hand, since torch's `foreach` and fused optimizers rebuild their lists at every step and for every group, which costs
more than the update itself where each parameter is a group (benchmarks/optimizer_step).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwexp.core.dtensor import is_sharded, local_shard

from .kernel_fit import Group, NoStateError, UnsupportedError, check, order, tensor_guards

# Private to torch; tried with torch 2.6 to 2.14. tests/core/test_private_interfaces.py checks their signatures.
FUSED_ADAM, FUSED_ADAMW, FUSED_SGD = torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_
FOREACH_ADDCMUL = torch._foreach_addcmul_

JOINED_WEIGHTS = 8192  # up to this size a second pass over a parameter is cheaper than a kernel call (same benchmark)
MAX_GUARDS = 4  # another is made where another context (autocast, …) makes the last one fail
_RATE, _PARAMETERS, _BYTES = itemgetter("lr"), itemgetter("params"), attrgetter("nbytes")
_END = (object(),)  # ends a list whose length counts


@dataclass(frozen=True)
class KernelSpec:
    """How torch calls the fused kernel of an optimizer class; each function takes one of its param groups."""

    settings: itemgetter[Any]  # the group's options that the kernel takes
    kernel: Callable[[Group], Callable[..., None]]
    buffers: Callable[[Group], Sequence[str | None]]  # state tensors in the kernel's order; None: an empty list
    options: Callable[[Group], dict[str, Any]]  # the settings under the kernel's names
    is_joinable: Callable[[Group], bool] = lambda group: False  # a step is `parameter -= lr * buffer`


@dataclass
class _Call:
    """One kernel call: parameters of one dtype, of one group or, if `joined`, of groups that differ only in lr."""

    kernel: Callable[..., None]
    options: dict[str, Any]
    buffers: Sequence[str | None]
    joined: bool
    parameters: list[Tensor] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # of each parameter


class KernelCalls:
    """An optimizer's parameters, state and options as arguments of as few kernel calls as possible."""

    def __init__(self, optimizer: Optimizer, spec: KernelSpec) -> None:
        """Build the lists. Raises `UnsupportedError` and `NoStateError`."""
        groups, state = optimizer.param_groups, optimizer.state
        self._spec = spec
        self._settings = list(map(spec.settings, groups))
        self._rates: list[float] | None = None
        # Of a kernel's overloads torch tries the one with a tensor lr first. All lr tensors are views of one array of
        # doubles, written at once; the last one stays 0.
        self._lr_array = array("d", bytes(8 * (len(groups) + 1)))
        self._calls, self._without_gradient = self._build_calls(groups, state)
        self._parameters = [p for call in self._calls for p in call.parameters]
        if not self._parameters:
            raise NoStateError
        if len({p.device for p in self._parameters}) != 1:
            raise UnsupportedError
        self._device = self._parameters[0].device
        self._sharded = is_sharded(self._parameters[0])
        self._steps = _share_steps([state[p] for p in self._parameters if "step" in state.get(p, {})])
        self._arguments, first = [], 0
        for call in self._calls:
            part = slice(first, first := first + len(call.parameters))
            buffers = [[local_shard(state[p][name]) for p in call.parameters] if name else [] for name in call.buffers]
            self._arguments.append((call.kernel, [*map(local_shard, call.parameters)], part, buffers, call.options))
        self._joined: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []  # parameters, buffers, rates
        self._joined_rates: list[tuple[array[Any], list[int]]] = []  # the same rates as one array, the group of each
        for call, (_, parameters, _, buffers, _) in zip(self._calls, self._arguments, strict=True):
            if call.joined:
                dtype = parameters[0].dtype
                kind = "f" if dtype == torch.float32 else "d"
                lr_array = array(kind, bytes(dtype.itemsize * len(parameters)))
                self._joined.append((parameters, buffers[0], list(torch.frombuffer(lr_array, dtype=dtype))))
                self._joined_rates.append((lr_array, call.groups))
        self._shards = [p for _, parameters, *_ in self._arguments for p in parameters]
        # What may change its order in memory; a vector of the state has only one.
        moments = (t for *_, buffers, _ in self._arguments for each in buffers for t in each if t.ndim > 1)
        self._tensors = (*self._shards, *moments)
        self._strides = list(map(Tensor.stride, self._tensors))
        self._bytes = sum(map(_BYTES, self._tensors))
        self._gradient_bytes = sum(map(_BYTES, self._shards))
        self._guards: list[tuple[Any, Any]] = []  # of `_tensors` and of gradients; the last ones are in use
        self._state, self._entries = state, list(state.values())
        self._views = [entry.values() for entry in self._entries]
        self._values = [*chain.from_iterable(self._views), *_END]
        self._members = [p for group in groups for p in group["params"]]
        self._sizes = [len(group["params"]) for group in groups]

    def _build_calls(
        self, groups: Sequence[Group], state: Mapping[Tensor, dict[str, Any]]
    ) -> tuple[list[_Call], list[Tensor]]:
        """The calls, and the parameters that had no gradient so far and have no state."""
        spec, rate = self._spec, torch.frombuffer(self._lr_array, dtype=torch.float64)
        calls: dict[tuple[Any, ...], _Call] = {}
        without_gradient: list[Tensor] = []
        for i, group in enumerate(groups):
            for p in group["params"]:
                if p.grad is None and not state.get(p) and any(spec.buffers(group)):
                    without_gradient.append(p)
                    continue
                check(p, group, state.get(p, {}), spec.buffers(group))
                joined = spec.is_joinable(group) and len(group["params"]) == 1 and _is_small(p)
                key = (p.dtype, self._settings[i], spec.kernel(group)) if joined else (p.dtype, i)
                if key not in calls:
                    options = {"lr": rate[-1 if joined else i], **spec.options(group)}
                    calls[key] = _Call(spec.kernel(group), options, spec.buffers(group), joined)
                calls[key].parameters.append(p)
                calls[key].groups.append(i)
        return list(calls.values()), without_gradient

    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer still has the parameters, groups and state of the lists.

        Checked at every step, so it must be cheap.
        """
        state, members = optimizer.state, list(map(_PARAMETERS, optimizer.param_groups))
        return (
            state is self._state
            and len(state) == len(self._entries)
            and list(map(len, members)) == self._sizes
            and all(map(is_, chain.from_iterable(members), self._members))
            and all(map(is_, state.values(), self._entries))
            and all(map(is_, chain(chain.from_iterable(self._views), _END), self._values))
            and (not self._sharded or self._has_shards())
        )

    def _has_shards(self) -> bool:
        """Whether the DTensors still hold the shards of the lists."""
        lists = ([*parameters, *chain.from_iterable(buffers)] for _, parameters, _, buffers, _ in self._arguments)
        return all(map(is_, map(local_shard, self._held()), chain.from_iterable(lists)))

    def _held(self) -> Iterator[Tensor]:
        """The tensors whose local shards are in the lists of `self._arguments`."""
        for call in self._calls:
            yield from call.parameters
            yield from (self._state[p][name] for name in call.buffers if name for p in call.parameters)

    def _suit_kernel(self, gradients: tuple[Tensor, ...]) -> bool:
        """Whether parameters, state and `gradients` still have the dtypes and the order in memory of the lists."""
        if self._guards:
            own, theirs = self._guards[-1]
            if theirs.check(*gradients) and own.check(*self._tensors):  # tuples, which a call takes without a copy
                return True
        # The guards are strict: they also fail where autocast, say, differs from when they were made.
        if sum(map(_BYTES, self._tensors)) != self._bytes or not _are_in_order(self._tensors, self._strides):
            return False
        if not _are_in_order(gradients, self._strides) or sum(map(_BYTES, gradients)) != self._gradient_bytes:
            return False
        if len(self._guards) < MAX_GUARDS:
            self._guards.append((tensor_guards(self._tensors), tensor_guards(gradients)))
        return True

    def step(self, optimizer: Optimizer) -> bool:
        """Make a step and return True; return False, with nothing changed, where torch's own step is needed."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        gradients: tuple[Any, ...] = tuple([p.grad for p in self._parameters])
        if self._sharded:
            gradients = tuple([None if gradient is None else local_shard(gradient) for gradient in gradients])
        if set(map(type, gradients)) != {Tensor} or any(p.grad is not None for p in self._without_gradient):
            return False
        if not self._suit_kernel(gradients):
            return False
        scaling = {key: getattr(optimizer, key, None) for key in ("grad_scale", "found_inf")}
        scaled = any(tensor is not None for tensor in scaling.values())  # by a GradScaler
        if scaled and (self._joined or any(t is not None and t.device != self._device for t in scaling.values())):
            return False
        if not self._update_rates(optimizer) or not self._update_settings(optimizer):
            return False
        with torch.inference_mode():  # as no_grad, with less overhead per kernel
            if self._steps is not None:
                self._steps += 1
            for kernel, parameters, part, buffers, options in self._arguments:
                if scaled:
                    kernel(parameters, gradients[part], *buffers, **options, **scaling)
                else:
                    kernel(parameters, gradients[part], *buffers, **options)
            for parameters, buffer, rates in self._joined:
                FOREACH_ADDCMUL(parameters, buffer, rates, value=-1)  # rounds once, as the fused kernel does
            if self._steps is not None and scaling["found_inf"] is not None:
                self._steps -= scaling["found_inf"]
        return True

    def _update_rates(self, optimizer: Optimizer) -> bool:
        """Copy the groups' rates; False if one is a tensor."""
        rates = list(map(_RATE, optimizer.param_groups))
        if rates != self._rates:
            if any(isinstance(rate, Tensor) for rate in rates):
                return False
            self._lr_array[:-1] = array("d", rates)
            for lr_array, groups in self._joined_rates:
                lr_array[:] = array(lr_array.typecode, [rates[i] for i in groups])
            self._rates = rates
        return True

    def _update_settings(self, optimizer: Optimizer) -> bool:
        """Copy the groups' other options; False if they need other calls."""
        spec, settings = self._spec, list(map(self._spec.settings, optimizer.param_groups))
        if settings == self._settings:
            return True
        for call in self._calls:
            group, first = optimizer.param_groups[call.groups[0]], settings[call.groups[0]]
            if any(settings[i] != first for i in call.groups) or spec.buffers(group) != call.buffers:
                return False
            if call.joined and not spec.is_joinable(group):
                return False
        for call in self._calls:
            call.options.update(spec.options(optimizer.param_groups[call.groups[0]]))
        self._settings = settings
        return True


def _are_in_order(tensors: Sequence[Tensor], strides: Sequence[Sequence[int]]) -> bool:
    """Whether the elements of all `tensors` are in the order in memory that `strides` give; it may have more."""
    try:
        return all(
            own == stride or order(tensor.shape, own) == order(tensor.shape, stride)
            for tensor, own, stride in zip(tensors, map(Tensor.stride, tensors), strides, strict=False)
        )
    except RuntimeError:  # a sparse tensor has no order
        return False


def _is_small(p: Tensor) -> bool:
    """Whether a second pass over a group's only parameter costs less than a kernel call; never on a GPU."""
    return p.numel() <= JOINED_WEIGHTS and p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64)


def _share_steps(entries: Sequence[dict[str, Any]]) -> Tensor | None:
    """Replace all step counters by views of one tensor, which is returned, so that one addition updates them all."""
    if not entries:
        return None
    if any(not isinstance(entry["step"], Tensor) or entry["step"].shape for entry in entries):
        raise UnsupportedError
    steps = torch.stack([entry["step"] for entry in entries])
    for entry, step in zip(entries, steps, strict=True):
        entry["step"] = step
    return steps
