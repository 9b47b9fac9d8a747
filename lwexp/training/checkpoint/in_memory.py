"""The whole state of a training kept in memory, to go back to it: as a checkpoint, but without a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lwexp.core.dtensor import is_sharded, shard_like
from lwexp.distributed.world import World
from lwexp.training.callbacks import Callbacks
from lwexp.training.seeding import random_state_of, set_random_state
from lwexp.training.state import Learner, Progress

from .snapshot import restore, snapshot


def remember(learner: Learner, progress: Progress, callbacks: Callbacks, world: World) -> dict[str, Any]:
    """A copy of everything that continues the training exactly. All ranks must call."""
    state = snapshot(learner, progress, callbacks.state_dict(), 0, world, {})
    return _copied({**state, "unsaved_buffers": _unsaved_buffers(learner.model)})  # type: ignore[no-any-return]


def go_back(state: Mapping[str, Any], learner: Learner, progress: Progress, callbacks: Callbacks, world: World) -> None:
    """Put back what `remember` returned, random generators last. The tensors in `state` become the learner's own."""
    restore(learner, progress, state)
    for buffer, value in zip(_unsaved_buffers(learner.model), state["unsaved_buffers"], strict=True):
        buffer.copy_(value)
    callbacks.load_state_dict(state["callbacks"])
    random = random_state_of(state, world.rank)
    if random is not None:  # resumed by more processes than saved it
        set_random_state(random)


def sharded_as(state: Mapping[str, Any], learner: Learner) -> dict[str, Any]:
    """`state`, read from a checkpoint, with its full tensors sharded as the learner's are. All ranks must call."""
    own, parameters = learner.model.state_dict(), learner.trainable
    model = {name: shard_like(value, own[name]) for name, value in state["model"].items()}
    entries: dict[Any, Any] = {
        key: {name: _like(value, parameters[key]) for name, value in entry.items()} if isinstance(key, int) else entry
        for key, entry in state["optimizer"]["state"].items()
    }
    return {**state, "model": model, "optimizer": {**state["optimizer"], "state": entries}}


def _like(value: Any, parameter: Tensor) -> Any:
    same = isinstance(value, Tensor) and value.shape == parameter.shape
    return shard_like(value, parameter) if same else value


def _copied(values: Any) -> Any:
    """A deep copy whose tensors are in the host's memory, but for sharded ones."""
    if isinstance(values, Tensor):
        return values.detach().clone() if is_sharded(values) else values.detach().to("cpu", copy=True)
    if isinstance(values, Mapping):
        return {key: _copied(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_copied(value) for value in values)
    return copy.deepcopy(values)


def _unsaved_buffers(model: nn.Module) -> list[Tensor]:
    """Buffers that no state dict has."""
    saved = model.state_dict().keys()
    return [buffer for name, buffer in model.named_buffers() if name not in saved]
