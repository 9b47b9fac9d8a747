"""Calls of torch's fused kernels over tensor lists that are built once and reused at every step.

By hand, since torch's `foreach` and fused optimizers rebuild their lists at every step and for every group, which costs
more than the update itself where each parameter is a group (benchmarks/optimizer_step).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, chain, pairwise, repeat
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwexp.core.dtensor import is_sharded, local_shard

from .identity import are_same
from .joined import JoinedBatches, are_few, batched, can_join
from .kernel_fit import (
    Group,
    NoStateError,
    UnsupportedError,
    are_contiguous,
    are_in_order,
    check,
    tensor_guards,
)
from .kernel_spec import KernelCall, KernelSpec

# Private to torch; tried with torch 2.6 to 2.14. tests/core/test_private_interfaces.py checks their signatures.
FUSED_ADAM, FUSED_ADAMW, FUSED_SGD = torch._fused_adam_, torch._fused_adamw_, torch._fused_sgd_
FOREACH_ADDCMUL = torch._foreach_addcmul_

JOINED_WEIGHTS = 8192  # up to this size a second pass over a parameter is cheaper than a kernel call (same benchmark)
MAX_GUARDS = 4  # another is made where another context (autocast, …) makes the last one fail
_RATE, _GRADIENT, _BYTES = itemgetter("lr"), attrgetter("grad"), attrgetter("nbytes")


class KernelCalls:
    """An optimizer's parameters, state and options as arguments of as few kernel calls as possible."""

    def __init__(self, optimizer: Optimizer, spec: KernelSpec) -> None:
        """Build the lists. Raises `UnsupportedError` and `NoStateError`."""
        groups, state = optimizer.param_groups, optimizer.state
        self._spec = spec
        self._row = itemgetter("params", *spec.settings)
        self._rows = [([*params], *settings) for params, *settings in map(self._row, groups)]
        self._rates: list[float] | None = None
        self._call_rates: list[float] = []
        self._calls, self._without_gradient = self._build_calls(groups, state)
        own = [call for call in self._calls if not call.batched]  # the first ones
        self._parameters = [p for call in self._calls for p in call.parameters]
        if not self._parameters:
            raise NoStateError
        if len({p.device for p in self._parameters}) != 1:
            raise UnsupportedError
        self._device = self._parameters[0].device
        self._sharded = is_sharded(self._parameters[0])
        self._steps = _share_steps([state[p] for p in self._parameters if "step" in state.get(p, {})])
        # Below one entry for each call.
        self._kernels = [(call.kernel, call.options) for call in own]
        ends = [*accumulate([len(call.parameters) for call in self._calls], initial=0)]
        self._parts = [slice(*each) for each in pairwise(ends[: len(own) + 1])]
        self._count = ends[len(own)]  # of parameters in these calls
        self._single = self._count == len(own)
        lists = [tuple(map(local_shard, call.parameters)) for call in self._calls]
        buffers = [
            [tuple([local_shard(state[p][name]) for p in call.parameters]) if name else () for name in call.buffers]
            for call in self._calls
        ]
        own_buffers = buffers[: len(own)]
        self._columns = [self._column(each) for each in (lists[: len(own)], *map(list, zip(*own_buffers, strict=True)))]
        on_cpu = self._device.type == "cpu"  # of a GPU, the comparison would wait for it
        if self._steps is not None and own and self._single and on_cpu and bool((self._steps == self._steps[0]).all()):
            # All kernels read the same counter, which stays in the cache.
            position = own[0].buffers.index("step") + 1
            self._columns[position] = partial(repeat, (self._steps[0],), len(own))
        self._joined: list[
            tuple[tuple[Tensor, ...], tuple[Tensor, ...], list[Tensor]]
        ] = []  # parameters, buffers, rates
        self._joined_rates: list[tuple[array[Any], list[int]]] = []  # the same rates as one array, the group of each
        for call, parameters, (buffer, *_) in zip(self._calls, lists, buffers, strict=True):
            if call.joined:
                dtype = parameters[0].dtype
                kind = "f" if dtype == torch.float32 else "d"
                lr_array = array(kind, bytes(dtype.itemsize * len(parameters)))
                self._joined.append((parameters, buffer, list(torch.frombuffer(lr_array, dtype=dtype))))
                self._joined_rates.append((lr_array, call.groups))
        joint = [each for each in zip(self._calls, lists, buffers, strict=True) if each[0].batched]
        self._batches = JoinedBatches(joint) if joint else None
        self._shards = [*chain.from_iterable(lists)]
        self._shards_held = [*map(local_shard, self._held(state))] if self._sharded else []
        # What may change its order in memory; a vector of the state has only one.
        moments = (t for each in buffers for tensors in each for t in tensors if t.ndim > 1)
        self._tensors = (*self._shards, *moments)
        self._strides = list(map(Tensor.stride, self._tensors))
        self._contiguous = are_contiguous(self._tensors)
        known: dict[int, int] = {}
        self._bytes = [known.setdefault(size, size) for size in map(_BYTES, self._tensors)]  # few objects: few reads
        self._guards: list[tuple[Any, Any]] = []  # of `_tensors` and of gradients; the last ones are in use
        self._state, self._entries = state, [*map(dict, state.values())]

    def _build_calls(
        self, groups: Sequence[Group], state: Mapping[Tensor, dict[str, Any]]
    ) -> tuple[list[KernelCall], list[Tensor]]:
        """The calls, and the parameters that had no gradient so far and have no state."""
        spec = self._spec
        calls: dict[tuple[Any, ...], KernelCall] = {}
        without_gradient: list[Tensor] = []

        def add(key: tuple[Any, ...], p: Tensor, i: int, *, joined: bool = False, batch: bool = False) -> None:
            if key not in calls:
                group = groups[i]
                calls[key] = KernelCall(
                    spec.kernel(group), spec.options(group), spec.buffers(group), spec.decoupled(group), joined, batch
                )
            calls[key].parameters.append(p)
            calls[key].groups.append(i)

        together: dict[tuple[Any, ...], list[tuple[Tensor, int]]] = {}
        for i, group in enumerate(groups):
            settings = repr(self._rows[i][1:])
            for p in group["params"]:
                if p.grad is None and not state.get(p) and any(spec.buffers(group)):
                    without_gradient.append(p)
                    continue
                check(p, group, state.get(p, {}), spec.buffers(group))
                alike = (p.dtype, settings, spec.kernel(group))
                if can_join(p) and spec.is_batchable(group):
                    together.setdefault(alike, []).append((p, i))
                else:
                    joined = spec.is_joinable(group) and len(group["params"]) == 1 and _is_small(p)
                    add(alike if joined else (p.dtype, i), p, i, joined=joined)
        for alike, held in together.items():
            if are_few({i for _, i in held}):
                for p, i in held:
                    add((p.dtype, i), p, i)
                continue
            for number, places in enumerate(batched([p for p, _ in held])):
                for place in places:
                    add((*alike, number), *held[place], batch=True)
        return sorted(calls.values(), key=lambda call: call.batched), without_gradient

    def _column(self, tensors: list[tuple[Tensor, ...]]) -> Callable[[], Iterable[tuple[Tensor, ...]]]:
        """A function that returns `tensors`, one argument of each call.

        Where each has one tensor, tuples made on the way cost less than stored ones, which are no longer in the cache.
        """
        if self._single and all(tensors):
            return partial(zip, [*chain.from_iterable(tensors)])
        return partial(iter, tensors)

    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether the lists are still those of the optimizer's parameters and state; takes over changed options.

        Called at every step, so it must be cheap.
        """
        rows, state = list(map(self._row, optimizer.param_groups)), optimizer.state
        return (
            (are_same(rows, self._rows) or self._take_options(rows, optimizer.param_groups))
            and state is self._state
            and are_same(list(state.values()), self._entries)
            and (not self._sharded or self._has_shards())
        )

    def _take_options(self, rows: Sequence[tuple[Any, ...]], groups: Sequence[Group]) -> bool:
        """Copy the groups' options; False if they need other calls, or if the groups have other parameters."""
        spec = self._spec
        if not are_same([params for params, *_ in rows], [params for params, *_ in self._rows]):
            return False
        for call in self._calls:
            group, first = groups[call.groups[0]], rows[call.groups[0]][1:]
            if any(rows[i][1:] != first for i in call.groups) or spec.buffers(group) != call.buffers:
                return False
            if (call.joined and not spec.is_joinable(group)) or (call.batched and not spec.is_batchable(group)):
                return False
        for call in self._calls:
            call.options.update(spec.options(groups[call.groups[0]]))
        self._rows = [(params, *row[1:]) for row, (params, *_) in zip(rows, self._rows, strict=True)]
        return True

    def _has_shards(self) -> bool:
        """Whether the DTensors still hold the shards of the lists."""
        return are_same([*map(local_shard, self._held(self._state))], self._shards_held)

    def _held(self, state: Mapping[Tensor, dict[str, Any]]) -> Iterator[Tensor]:
        """The tensors whose local shards are in the lists."""
        for call in self._calls:
            yield from call.parameters
            yield from (state[p][name] for name in call.buffers if name for p in call.parameters)

    def _suit_kernel(self, gradients: tuple[Tensor, ...]) -> bool:
        """Whether parameters, state and `gradients` still have the dtypes and the order in memory of the lists."""
        if self._contiguous:  # the usual case reads little memory but that which the kernels read
            return (
                set(map(type, gradients)) == {Tensor}
                and are_contiguous(chain(gradients, self._tensors))
                and list(map(_BYTES, self._tensors)) == self._bytes  # of another device: torch checks
            )
        if self._guards:
            own, theirs = self._guards[-1]
            if theirs.check(*gradients) and own.check(*self._tensors):  # tuples, which a call takes without a copy
                return True
        if set(map(type, gradients)) != {Tensor}:
            return False
        # The guards are strict: they also fail where autocast, say, differs from when they were made.
        if list(map(_BYTES, self._tensors)) != self._bytes or not are_in_order(self._tensors, self._strides):
            return False
        if not are_in_order(gradients, self._strides) or list(map(_BYTES, gradients)) != self._bytes[: len(gradients)]:
            return False
        if len(self._guards) < MAX_GUARDS:
            self._guards.append((tensor_guards(self._tensors), tensor_guards(gradients)))
        return True

    def step(self, optimizer: Optimizer) -> bool:
        """Make a step and return True; return False, with nothing changed, where torch's own step is needed."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        gradients: tuple[Any, ...] = tuple(map(_GRADIENT, self._parameters))
        if self._sharded:
            gradients = tuple(map(local_shard, gradients))
        if any(p.grad is not None for p in self._without_gradient) or not self._suit_kernel(gradients):
            return False
        scaling = {key: getattr(optimizer, key, None) for key in ("grad_scale", "found_inf")}
        scaled = any(tensor is not None for tensor in scaling.values())  # by a GradScaler
        if scaled and (self._joined or any(t is not None and t.device != self._device for t in scaling.values())):
            return False
        if not self._update_rates(optimizer):
            return False
        with torch.inference_mode():  # as no_grad, with less overhead per kernel
            if self._steps is not None:
                self._steps += 1
            lists, *buffers = [column() for column in self._columns]
            own = gradients[: self._count] if self._batches is not None else gradients
            parts = zip(own, strict=True) if self._single else map(gradients.__getitem__, self._parts)
            arguments = zip(lists, parts, *buffers, strict=True)  # tuples, which a call takes without a copy
            for (kernel, options), lr, each in zip(self._kernels, self._call_rates, arguments, strict=True):
                if scaled:
                    kernel(*each, lr=lr, **options, **scaling)
                else:
                    kernel(*each, lr=lr, **options)
            if self._batches is not None:
                self._batches.step(gradients[self._count :], scaling if scaled else {})
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
            own = [call for call in self._calls if not call.batched]
            self._call_rates = [0.0 if call.joined else float(rates[call.groups[0]]) for call in own]
            if self._batches is not None:
                self._batches.set_rates(rates)
            for lr_array, groups in self._joined_rates:
                lr_array[:] = array(lr_array.typecode, [rates[i] for i in groups])
            self._rates = rates
        return True


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
