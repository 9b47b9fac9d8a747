"""What a measured decay may look at: weights, gradients of the training loss, trial steps. Nothing is disturbed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import full_tensor
from lwexp.errors import RunError

if TYPE_CHECKING:
    from lwexp.core.plan_table import PlanTable


class Probe:
    """A look at a training between two of its steps.

    Weights, gradients, buffers, torch's random generators and the optimizer are afterwards what they were, bit for bit.
    Of sharded tensors the full ones are given, so that all processes come to the same numbers: all must call.
    """

    def __init__(
        self,
        plan: PlanTable,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        backward: Callable[[Any], Tensor],
        batches: Callable[[], Iterable[Any]],
        *,
        step: int,
        clip: Callable[[], None] | None = None,
    ) -> None:
        """`batches` gives those of the coming optimizer steps, `backward` adds the gradients of one to `.grad`.

        It returns the mean loss. `clip` clips gradients in place, for a step of the optimizer.
        """
        self.plan, self.model, self.step = plan, model, step
        self.optimizer = optimizer
        self.batches = batches
        self._backward, self._clip = backward, clip
        self._parameters = dict(model.named_parameters())
        self._random: list[Tensor] | None = None  # of the measurement, between two batches

    @property
    def compared(self) -> list[int]:
        """Positions in `plan.groups` of the groups whose scales are asked for."""
        return [i for i, g in enumerate(self.plan.groups) if g.measured]

    def names(self, position: int) -> list[str]:
        """The parameters of a group that are trained."""
        group = self.plan.groups[position]
        return [name for name in group.optimizer_names if name not in group.frozen_names]

    def weight(self, name: str) -> Tensor:
        """The value of a parameter."""
        return full_tensor(self._parameters[name].detach())

    def gradients(self, batches: int = 1) -> Iterator[dict[str, Tensor]]:
        """For each of the next `batches` batches the gradient of its mean loss, by the names of trained parameters.

        A parameter that the loss does not depend on is missing.
        """
        for batch in self._next(batches):
            with self._undisturbed():
                self._backward(batch)
                found = {name: p.grad for name, p in self._trained() if p.grad is not None}
                yield {name: full_tensor(grad.detach()) for name, grad in found.items()}

    def updates(self, batch: int = 0) -> dict[str, Tensor]:
        """By how much one step of the optimizer would change each trained parameter, at `plan.lr` in all groups.

        On the next batch but `batch`, with the state that the optimizer has. Frozen groups and those that are not in
        the plan rest.
        """
        optimizer, found = self.optimizer, dict[str, Tensor]()
        *_, on = self._next(batch + 1)
        positions = self.plan.positions(optimizer.param_groups)
        with self._undisturbed(), _put_back(optimizer), _weights_put_back(optimizer) as before:
            self._backward(on)
            if self._clip is not None:
                self._clip()
            for group, position in zip(optimizer.param_groups, positions, strict=True):
                rests = position is None or self.plan.groups[position].frozen
                _set_rate(group, 0.0 if rests else self.plan.lr)
            optimizer.step()
            for name, p in self._trained():
                found[name] = full_tensor(p.detach() - before[p])
        return found

    def trial(self, rates: Iterable[Sequence[float]], batches: Iterator[Any]) -> Generator[float, None, None]:
        """Train from here on the next of `batches`, at `rates` of the plan's groups; yields the loss before each step.

        As the iterator ends or is closed, everything is put back.
        """
        optimizer, parameters = self.optimizer, [*self.model.parameters()]
        positions = self.plan.positions(optimizer.param_groups)
        self._random = None  # a trial does not depend on those before it
        with self._undisturbed(), _put_back(optimizer), _weights_put_back(optimizer):
            for row in rates:
                for p in parameters:
                    p.grad = None
                yield float(self._backward(next(batches)))
                if self._clip is not None:
                    self._clip()
                for group, position in zip(optimizer.param_groups, positions, strict=True):
                    _set_rate(group, 0.0 if position is None else row[position])
                optimizer.step()

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        names = [name for g in self.plan.groups for name in g.optimizer_names if name not in g.frozen_names]
        return [(name, self._parameters[name]) for name in names]

    def _next(self, count: int) -> Iterator[Any]:
        given = 0
        for given, batch in enumerate(self.batches(), 1):
            yield batch
            if given == count:
                return
        raise RunError(f"decay: {count} batches are needed for a measurement, and there are {given}")

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Gradients start empty; they, buffers and random generators are then put back."""
        parameters = [*self.model.parameters()]
        gradients = [p.grad for p in parameters]
        # some networks replace their buffers instead of filling them
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        devices = {p.device.index or 0 for p in parameters if p.device.type == "cuda"}
        with torch.random.fork_rng(devices=devices):
            if self._random is not None:
                torch.set_rng_state(self._random[0])
                for device, state in zip(sorted(devices), self._random[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            for p in parameters:
                p.grad = None
            try:
                yield
            finally:
                self._random = [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in sorted(devices))]
                for p, gradient in zip(parameters, gradients, strict=True):
                    p.grad = gradient
                with torch.no_grad():
                    for module, name, buffer, value in buffers:
                        module._buffers[name] = buffer
                        buffer.copy_(value)


def _set_rate(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr


@contextmanager
def _weights_put_back(optimizer: torch.optim.Optimizer) -> Iterator[dict[Tensor, Tensor]]:
    """After the block, all parameters of the optimizer are what they were; yields these values."""
    before = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"]}
    try:
        yield before
    finally:
        with torch.no_grad():
            for p, value in before.items():
                p.copy_(value)


@contextmanager
def _put_back(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """After the block, the optimizer's state and options are what they were."""
    state = {p: copy.deepcopy(entry) for p, entry in optimizer.state.items()}
    tensors = {p: {k: v for k, v in entry.items() if isinstance(v, Tensor)} for p, entry in optimizer.state.items()}
    groups = [{k: copy.deepcopy(v) for k, v in g.items() if k not in ("params", "lr")} for g in optimizer.param_groups]
    rates = [g["lr"].clone() if isinstance(g["lr"], Tensor) else g["lr"] for g in optimizer.param_groups]
    stepped = getattr(optimizer, "_opt_called", False)  # set by torch, for the warning of its schedulers
    try:
        yield
    finally:
        for p in [*optimizer.state]:
            if p not in state:
                del optimizer.state[p]
        for p, entry in state.items():
            for key, value in tensors[p].items():  # the same tensors, which others may hold
                value.copy_(entry[key])
            optimizer.state[p] = {**entry, **tensors[p]}
        for group, options, lr in zip(optimizer.param_groups, groups, rates, strict=True):
            for key in group.keys() - options.keys() - {"params", "lr"}:  # some count their steps there
                del group[key]
            group.update(options)
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(lr)
            else:
                group["lr"] = lr
        optimizer._opt_called = stepped  # type: ignore[attr-defined]
