"""Adam, AdamW and SGD of `torch.optim` that stay fast with one group per parameter.

torch's fused optimizers rebuild every tensor list at each step and increment one counter per parameter. Here the lists
are kept (`kernel_calls.py`) and all counters share one tensor. On the CPU each group has one kernel call, but SGD with
momentum updates all groups of a single small parameter in two; results equal torch's, bit for bit. On a GPU many groups
share two calls (`joined.py`), and parameters equal torch's but for rounding. `state_dict` is torch's. Where the lists
cannot be used (a missing gradient, `capturable`), torch's own step runs, with its default implementation for groups
that the kernel cannot update (`kernel_fit.py`: sparse gradients, another order in memory). Of sharded parameters the
kernels take the local shards: the updates are elementwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lwexp.core.dtensor import is_sharded, local_shard

from .kernel_calls import FUSED_ADAM, FUSED_ADAMW, FUSED_SGD, KernelCalls
from .kernel_fit import Group, NoStateError, UnsupportedError, is_half_wrong, suits_kernel
from .kernel_spec import KernelSpec


class _Fused(Optimizer):
    """Mixin that goes before a class of torch's among the bases of an optimizer."""

    stock: ClassVar[type[Optimizer]]  # torch's class, which has the same state
    spec: ClassVar[KernelSpec]

    _calls: KernelCalls | None = None
    _unsupported = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step, see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def update(self) -> None:
        """Move the parameters once: `step` without closure and hooks."""
        calls = self._current_calls()
        if calls is None or not calls.step(self):
            self._stock_step()

    def _stock_step(self) -> None:
        """torch's own step; groups that the fused kernel cannot update correctly go torch's default way."""
        step: Any = self.stock.step
        # torch wraps `step` to run hooks and the profiler (2.6 to 2.14); those already run around our own step.
        if getattr(step, "hooked", False):
            step = step.__wrapped__
        wrong = [group for group in self.param_groups if group["fused"] and self._is_kernel_wrong(group)]
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and (wrong or any(map(self._starts, self.param_groups))) and found_inf.item():
            return
        if not wrong:
            step(self)
            return
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        if grad_scale is not None:  # torch's default way does not take it, and the kernel would apply it once more
            self._unscale(1 / grad_scale.item())
            self.grad_scale = None
        if found_inf is not None:
            self.found_inf = None
        for group in wrong:
            group["fused"] = None
        try:
            step(self)
        finally:
            for group in wrong:
                group["fused"] = True
            for p in chain.from_iterable(map(itemgetter("params"), wrong)):
                entry = self.state.get(p, {})
                if "step" in entry:  # torch's default keeps a new counter on the CPU
                    entry["step"] = entry["step"].to(p.device)

    def _unscale(self, factor: float) -> None:
        """Multiply all gradients by `factor`, in place as the kernels do it."""
        for p in chain.from_iterable(map(itemgetter("params"), self.param_groups)):
            if p.grad is not None:
                gradient = local_shard(p.grad)
                (gradient._values() if gradient.is_sparse else gradient).mul_(factor)

    def _is_kernel_wrong(self, group: Group) -> bool:
        """Whether the fused kernel would fail or be wrong: it ignores strides and takes dense gradients only."""
        return any(not suits_kernel(p, p.grad, self.state.get(p, {})) for p in group["params"] if p.grad is not None)

    def _starts(self, group: Group) -> bool:
        """Whether state that the kernel leaves uninitialized in a skipped step would be created now."""
        return False

    def _current_calls(self) -> KernelCalls | None:
        """The kernel calls for what the optimizer holds now; None if torch's own step is needed."""
        if self._unsupported or torch.compiler.is_compiling():
            return None
        if self._calls is None or not self._calls.is_current(self):
            self._calls = None
            try:
                self._calls = KernelCalls(self, self.spec)
            except UnsupportedError:
                self._unsupported = True
            except NoStateError:
                pass
        return self._calls

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, which rehashes all parameters of all groups at each call: 30 s for 10,000 groups."""
        earlier, self.param_groups = self.param_groups, []
        try:
            super().add_param_group(param_group)
            (added,) = self.param_groups
        finally:
            self.param_groups = earlier
        if {*map(id, added["params"])} & {*map(id, chain.from_iterable(map(itemgetter("params"), earlier)))}:
            raise ValueError("some parameters appear in more than one parameter group")
        earlier.append(added)
        self._calls, self._unsupported = None, False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's; `load_state_dict` calls it too."""
        super().__setstate__(state)
        self._calls, self._unsupported = None, False


def _adam_buffers(group: Group) -> Sequence[str | None]:
    return "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if group["amsgrad"] else None, "step"


def _adam_options(group: Group) -> dict[str, Any]:
    beta1, beta2 = group["betas"]
    same = {key: group[key] for key in ("eps", "weight_decay", "amsgrad", "maximize")}
    return {"beta1": beta1, "beta2": beta2, **same}


def _adam_spec(decoupled: Callable[[Group], bool]) -> KernelSpec:
    settings = ("betas", "eps", "weight_decay", "amsgrad", "maximize")
    return KernelSpec(
        settings,
        kernel=lambda group: FUSED_ADAMW if decoupled(group) else FUSED_ADAM,
        buffers=_adam_buffers,
        options=_adam_options,
        decoupled=decoupled,
    )


_SGD_SETTINGS = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")


class FusedAdam(_Fused, torch.optim.Adam):
    """`torch.optim.Adam` with its fused kernel."""

    stock = torch.optim.Adam
    spec = _adam_spec(lambda group: bool(group.get("decoupled_weight_decay")))


class FusedAdamW(_Fused, torch.optim.AdamW):
    """`torch.optim.AdamW` with its fused kernel."""

    stock = torch.optim.AdamW
    spec = _adam_spec(lambda group: True)


class FusedSGD(_Fused, torch.optim.SGD):
    """`torch.optim.SGD` with its fused kernel."""

    stock = torch.optim.SGD
    spec = KernelSpec(
        settings=_SGD_SETTINGS,
        kernel=lambda group: FUSED_SGD,
        buffers=lambda group: ("momentum_buffer" if group["momentum"] else None,),
        options=lambda group: {**{key: group[key] for key in _SGD_SETTINGS}, "is_first_step": False},
        decoupled=lambda group: False,
        is_joinable=lambda group: bool(group["momentum"]) and not group["nesterov"],
    )

    def _is_kernel_wrong(self, group: Group) -> bool:
        """Also where only some parameters of the group have a momentum buffer, or where one is a DTensor."""
        if any(is_sharded(p) or is_half_wrong(p) for p in group["params"]):
            return True
        return (bool(group["momentum"]) and len(self._have_momentum(group)) > 1) or super()._is_kernel_wrong(group)

    def _starts(self, group: Group) -> bool:
        """Momentum starts at the first step that is taken."""
        return bool(group["momentum"]) and False in self._have_momentum(group)

    def _have_momentum(self, group: Group) -> set[bool]:
        return {self.state.get(p, {}).get("momentum_buffer") is not None for p in group["params"] if p.grad is not None}


def takes_found_inf(optimizer: Optimizer) -> bool:
    """Whether its step reads `found_inf` on the device, so that a step can be skipped without waiting for it."""
    ours = isinstance(optimizer, _Fused) and all(group["fused"] for group in optimizer.param_groups)
    return ours or bool(getattr(optimizer, "_step_supports_amp_scaling", False))


FUSED: Mapping[type[Optimizer], type[Optimizer]] = {each.stock: each for each in (FusedAdam, FusedAdamW, FusedSGD)}
