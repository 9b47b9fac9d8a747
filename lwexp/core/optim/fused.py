"""Adam, AdamW and SGD of `torch.optim`, as fast with a group per parameter as torch's own are with a single group.

torch's fused optimizers gather every list of tensors anew at each step, and add 1 to a counter for each parameter. Here
the lists are kept and the counters share one tensor. What is left for each group is one call of the kernel that torch
calls, with the group's own rate; SGD with momentum takes all groups of a single small parameter on the CPU in two.
The numbers are torch's, bit for bit, and so is `state_dict`. Wherever the lists do not fit (a missing gradient,
`capturable`, sparse tensors), torch's own step is taken. Of parameters that are shared out among processes the kernels
take this process's parts: what these optimizers do with a number depends on no other number.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_, itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwexp.core.dtensor import is_sharded, local_shard

_SMALL = 8192  # numbers that are read once more in less time than a kernel call takes (benchmarks/optimizer_step)
_RATE, _PARAMETERS = itemgetter("lr"), itemgetter("params")


class _UnfitError(Exception):
    """What an optimizer holds does not fit into lists."""


class _NotYetError(Exception):
    """A first step has not made the state yet."""


class _Fused(Optimizer):
    """Goes before a class of torch's among the bases of an optimizer."""

    stock: ClassVar[type[Optimizer]]  # torch's class, which has the same state
    settings: ClassVar[itemgetter[Any]]  # a group's options that the kernel takes

    _lists: _Lists | None = None
    _unfit = False

    @classmethod
    @abstractmethod
    def kernel(cls, group: Mapping[str, Any]) -> Callable[..., None]:
        """The kernel that torch calls for the group."""

    @classmethod
    @abstractmethod
    def buffers(cls, group: Mapping[str, Any]) -> Sequence[str | None]:
        """Names, in the state, of the tensors that the kernel takes; None for an empty list."""

    @classmethod
    @abstractmethod
    def options(cls, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's options as the kernel names them."""

    @classmethod
    def joinable(cls, group: Mapping[str, Any]) -> bool:
        """Whether a step subtracts the only buffer, times the rate."""
        return False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step, see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._gathered() or self._lists is None or not self._lists.step(self):
            self._torchs_step()
        return loss

    def _torchs_step(self) -> None:
        step: Any = self.stock.step
        if getattr(step, "hooked", False):  # what torch runs before and after a step has its turn around ours
            step = step.__wrapped__
        unfit = [group for group in self.param_groups if group["fused"] and self._kernel_errs(group)]
        bad: Tensor | None = getattr(self, "found_inf", None)
        if unfit and bad is not None:  # torch's other ways take no such word
            if bad.item():
                return
            self.found_inf = None
        for group in unfit:
            group["fused"] = False
        try:
            step(self)
        finally:
            for group in unfit:
                group["fused"] = True

    def _kernel_errs(self, group: Mapping[str, Any]) -> bool:
        """Whether torch's kernel would go wrong where its other ways do not.

        It walks through parameter, gradient and state side by side in memory, and looks at no strides.
        """
        return any(not _alike(p, p.grad, self.state.get(p, {})) for p in group["params"] if p.grad is not None)

    def _gathered(self) -> bool:
        """Whether there are lists of what the optimizer holds now."""
        if self._unfit or torch.compiler.is_compiling():
            return False
        if self._lists is None or not self._lists.fit(self):
            self._lists = None
            try:
                self._lists = _Lists(self)
            except _UnfitError:
                self._unfit = True
            except _NotYetError:
                pass
        return self._lists is not None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, which hashes all parameters of all groups anew for each: half a minute for 10,000 groups."""
        earlier, self.param_groups = self.param_groups, []
        try:
            super().add_param_group(param_group)
            (added,) = self.param_groups
        finally:
            self.param_groups = earlier
        if {*map(id, added["params"])} & {*map(id, chain.from_iterable(map(_PARAMETERS, earlier)))}:
            raise ValueError("some parameters appear in more than one parameter group")
        earlier.append(added)
        self._lists, self._unfit = None, False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's; `load_state_dict` comes by here too."""
        super().__setstate__(state)
        self._lists, self._unfit = None, False


@dataclass
class _Call:
    """One kernel call: parameters of one type, of a group or, joined, of several that differ in their rates alone."""

    kernel: Callable[..., None]
    options: dict[str, Any]
    buffers: Sequence[str | None]
    joined: bool
    parameters: list[Tensor] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # of each parameter


class _Lists:
    """What an optimizer holds, in lists for few kernel calls."""

    def __init__(self, optimizer: _Fused) -> None:
        """Gather them. Raises `_UnfitError` and `_NotYetError`."""
        groups, state = optimizer.param_groups, optimizer.state
        self._settings = list(map(optimizer.settings, groups))
        self._rates: list[float] | None = None
        # Of a kernel's two forms torch tries the one with a tensor first. All the tensors are one array of doubles that
        # is written at once; the last one stays 0.
        self._written = array("d", bytes(8 * (len(groups) + 1)))
        rate = torch.frombuffer(self._written, dtype=torch.float64)
        found: dict[tuple[Any, ...], _Call] = {}
        self._idle: list[Tensor] = []  # had no gradient so far, and have no state
        for i, group in enumerate(groups):
            for p in group["params"]:
                if p.grad is None and not state.get(p) and any(optimizer.buffers(group)):
                    self._idle.append(p)
                    continue
                _check(p, group, state.get(p, {}), optimizer.buffers(group))
                joined = optimizer.joinable(group) and len(group["params"]) == 1 and _joins(p)
                key = (p.dtype, self._settings[i], optimizer.kernel(group)) if joined else (p.dtype, i)
                if key not in found:
                    options = {"lr": rate[-1 if joined else i], **optimizer.options(group)}
                    found[key] = _Call(optimizer.kernel(group), options, optimizer.buffers(group), joined)
                found[key].parameters.append(p)
                found[key].groups.append(i)
        self._calls = list(found.values())
        self._parameters = [p for call in self._calls for p in call.parameters]
        if not self._parameters:
            raise _NotYetError
        if len({p.device for p in self._parameters}) != 1:
            raise _UnfitError
        self._device = self._parameters[0].device
        self._sharded = is_sharded(self._parameters[0])
        self._steps = _share_steps([state[p] for p in self._parameters if "step" in state.get(p, {})])
        self._arguments, first = [], 0
        for call in self._calls:
            part = slice(first, first := first + len(call.parameters))
            buffers = [[local_shard(state[p][name]) for p in call.parameters] if name else [] for name in call.buffers]
            self._arguments.append((call.kernel, [*map(local_shard, call.parameters)], part, buffers, call.options))
        self._joined: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []  # parameters, buffers, rates
        self._joined_rates: list[tuple[array[Any], list[int]]] = []  # the same in one array, and the group of each
        for call, (_, parameters, _, buffers, _) in zip(self._calls, self._arguments, strict=True):
            if call.joined:
                dtype = parameters[0].dtype
                kind = "f" if dtype == torch.float32 else "d"
                written = array(kind, bytes(dtype.itemsize * len(parameters)))
                self._joined.append((parameters, buffers[0], list(torch.frombuffer(written, dtype=dtype))))
                self._joined_rates.append((written, call.groups))
        self._state, self._entries = state, list(state.values())
        self._members = [p for group in groups for p in group["params"]]
        self._sizes = [len(group["params"]) for group in groups]

    def fit(self, optimizer: _Fused) -> bool:
        """Whether the optimizer still has the parameters, groups and states that were gathered.

        What this costs counts, so it does not see a buffer that was exchanged inside a parameter's state.
        """
        state, members = optimizer.state, list(map(_PARAMETERS, optimizer.param_groups))
        return (
            state is self._state
            and len(state) == len(self._entries)
            and list(map(len, members)) == self._sizes
            and all(map(is_, chain.from_iterable(members), self._members))
            and all(map(is_, state.values(), self._entries))
        )

    def step(self, optimizer: _Fused) -> bool:
        """Make a step and return True, or leave everything as it is where torch's own step is needed."""
        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False
        gradients = [p.grad for p in self._parameters]
        if self._sharded:
            gradients = [None if gradient is None else local_shard(gradient) for gradient in gradients]
        if set(map(type, gradients)) != {Tensor} or any(p.grad is not None for p in self._idle):
            return False
        scaling = {key: getattr(optimizer, key, None) for key in ("grad_scale", "found_inf")}
        scaled = any(tensor is not None for tensor in scaling.values())  # by a GradScaler
        if scaled and (self._joined or any(t is not None and t.device != self._device for t in scaling.values())):
            return False
        if not self._take_rates(optimizer) or not self._take_settings(optimizer):
            return False
        with torch.inference_mode():  # as no_grad, with less on the way to a kernel
            if self._steps is not None:
                self._steps += 1
            for kernel, parameters, part, buffers, options in self._arguments:
                if scaled:
                    kernel(parameters, gradients[part], *buffers, **options, **scaling)
                else:
                    kernel(parameters, gradients[part], *buffers, **options)
            for parameters, buffer, rates in self._joined:
                torch._foreach_addcmul_(parameters, buffer, rates, value=-1)  # rounds once, as the kernel does
            if self._steps is not None and scaling["found_inf"] is not None:
                self._steps -= scaling["found_inf"]
        return True

    def _take_rates(self, optimizer: _Fused) -> bool:
        """Take over the groups' rates; False where they do not fit."""
        rates = list(map(_RATE, optimizer.param_groups))
        if rates != self._rates:
            if any(isinstance(rate, Tensor) for rate in rates):
                return False
            self._written[:-1] = array("d", rates)
            for written, groups in self._joined_rates:
                written[:] = array(written.typecode, [rates[i] for i in groups])
            self._rates = rates
        return True

    def _take_settings(self, optimizer: _Fused) -> bool:
        """Take over the groups' other options; False where they do not fit."""
        settings = list(map(optimizer.settings, optimizer.param_groups))
        if settings == self._settings:
            return True
        for call in self._calls:
            group, first = optimizer.param_groups[call.groups[0]], settings[call.groups[0]]
            if any(settings[i] != first for i in call.groups) or optimizer.buffers(group) != call.buffers:
                return False
            if call.joined and not optimizer.joinable(group):
                return False
        for call in self._calls:
            call.options.update(optimizer.options(optimizer.param_groups[call.groups[0]]))
        self._settings = settings
        return True


def _check(p: Tensor, group: Mapping[str, Any], entry: Mapping[str, Any], buffers: Sequence[str | None]) -> None:
    """Raises `_UnfitError` for what the kernels do not take in lists, `_NotYetError` for a parameter without state."""
    values = local_shard(p.data)
    gradient = values if p.grad is None else local_shard(p.grad)
    entry = {name: local_shard(value) if isinstance(value, Tensor) else value for name, value in entry.items()}
    if not group["fused"] or group.get("capturable") or group.get("differentiable") or isinstance(group["lr"], Tensor):
        raise _UnfitError
    if not p.is_floating_point() or p.device.type not in ("cpu", "cuda") or gradient.dtype != p.dtype:
        raise _UnfitError
    tensors = [values, gradient, *(entry[name] for name in buffers if name and name in entry)]
    if any(type(tensor) is not Tensor or tensor.layout != torch.strided for tensor in tensors):
        raise _UnfitError
    if not _alike(values, gradient, entry):
        raise _UnfitError
    if any(name not in entry for name in buffers if name):
        raise _NotYetError


def _alike(p: Tensor, gradient: Tensor, entry: Mapping[str, Any]) -> bool:
    """Whether parameter, gradient and state are in the same order in memory."""
    tensors = [gradient, *(value for value in entry.values() if isinstance(value, Tensor) and value.ndim)]
    return all(t.layout != torch.strided or t.shape != p.shape or _order(t) == _order(p) for t in tensors)


def _order(tensor: Tensor) -> list[int]:
    """The strides that matter: those of dimensions with more than one place."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _joins(p: Tensor) -> bool:
    """Whether a second pass over a group's only parameter costs less than a kernel call; on a GPU none is saved."""
    return p.numel() <= _SMALL and p.device.type == "cpu" and p.dtype in (torch.float32, torch.float64)


def _share_steps(entries: Sequence[dict[str, Any]]) -> Tensor | None:
    """One tensor of all step counters, which are its elements from now on, so that one addition moves them all."""
    if not entries:
        return None
    steps = torch.stack([entry["step"] for entry in entries])
    for entry, step in zip(entries, steps, strict=True):
        entry["step"] = step
    return steps


class FusedAdam(_Fused, torch.optim.Adam):
    """`torch.optim.Adam` with its fused kernel."""

    stock = torch.optim.Adam
    settings = itemgetter("betas", "eps", "weight_decay", "amsgrad", "maximize")

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> Callable[..., None]:
        """The kernel that torch calls for the group."""
        return torch._fused_adamw_ if group.get("decoupled_weight_decay") else torch._fused_adam_

    @classmethod
    def buffers(cls, group: Mapping[str, Any]) -> Sequence[str | None]:
        """Names, in the state, of the tensors that the kernel takes; None for an empty list."""
        return "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None, "step"

    @classmethod
    def options(cls, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's options as the kernel names them."""
        beta1, beta2 = group["betas"]
        same = {key: group[key] for key in ("eps", "weight_decay", "amsgrad", "maximize")}
        return {"beta1": beta1, "beta2": beta2, **same}


class FusedAdamW(_Fused, torch.optim.AdamW):
    """`torch.optim.AdamW` with its fused kernel."""

    stock = torch.optim.AdamW
    settings = FusedAdam.settings
    buffers = FusedAdam.buffers
    options = FusedAdam.options

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> Callable[..., None]:
        """The kernel that torch calls for the group."""
        return torch._fused_adamw_


class FusedSGD(_Fused, torch.optim.SGD):
    """`torch.optim.SGD` with its fused kernel."""

    stock = torch.optim.SGD
    settings = itemgetter("momentum", "dampening", "weight_decay", "nesterov", "maximize")

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> Callable[..., None]:
        """The kernel that torch calls for the group."""
        return torch._fused_sgd_

    @classmethod
    def buffers(cls, group: Mapping[str, Any]) -> Sequence[str | None]:
        """Names, in the state, of the tensors that the kernel takes; None for an empty list."""
        return ("momentum_buffer" if group["momentum"] else None,)

    @classmethod
    def options(cls, group: Mapping[str, Any]) -> dict[str, Any]:
        """The group's options as the kernel names them."""
        same = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
        return {**{key: group[key] for key in same}, "is_first_step": False}

    @classmethod
    def joinable(cls, group: Mapping[str, Any]) -> bool:
        """Whether a step subtracts the only buffer, times the rate."""
        return bool(group["momentum"]) and not group["nesterov"]

    def _kernel_errs(self, group: Mapping[str, Any]) -> bool:
        """Also where only some of the group's parameters have a buffer, the others having their first gradient now.

        Nor does this kernel take a parameter that is shared out as a whole.
        """
        if any(map(is_sharded, group["params"])):
            return True
        have = {"momentum_buffer" in self.state.get(p, {}) for p in group["params"] if p.grad is not None}
        return (bool(group["momentum"]) and len(have) > 1) or super()._kernel_errs(group)


FUSED: Mapping[type[Optimizer], type[Optimizer]] = {each.stock: each for each in (FusedAdam, FusedAdamW, FusedSGD)}
