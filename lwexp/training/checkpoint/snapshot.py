"""The whole state of a training as one mapping of plain values and tensors, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lwexp.core.plan import Plan
from lwexp.errors import ConfigError, nearest
from lwexp.training.seeding import random_state

from .optimizer_state import load_optimizer
from .plan_diff import plan_difference, plan_record

if TYPE_CHECKING:
    from lwexp.training.trainer import Trainer

log = logging.getLogger(__name__)


def training_state(trainer: Trainer) -> dict[str, Any]:
    """All that continues `trainer` exactly. Tensors are the trainer's own, not copies: save them before it goes on."""
    seen, randoms = trainer.seen_rates, trainer.world.all_gather(random_state())
    return {
        "step": trainer.step,
        "epoch": trainer.epoch,
        "batches": trainer.batches,
        "skipped": trainer.skipped,
        "plan": plan_record(trainer.plan, optimizer_names(trainer.plan, trainer.optimizer)),
        "labels": list(trainer.plan.labels),
        "model": trainer.model.state_dict(),
        "optimizer_class": _class_name(trainer.optimizer),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.scheduler.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "random": randoms[0],
        "random_of_others": randoms[1:],
        "best": dict(trainer.best),
        "seen_rates": None if seen is None else torch.tensor(seen, dtype=torch.float64),
        "journal": trainer.tracker.position(),
        "config": dict(trainer.config),
    }


def load_training_state(trainer: Trainer, state: Mapping[str, Any], *, remap: bool) -> None:
    """Put `state` into `trainer`, all but the random states. Raises `ConfigError`, with nothing changed."""
    check_model(trainer.model, state["model"], trainer.plan)
    names = optimizer_names(trainer.plan, trainer.optimizer)
    same_plan = state["plan"]["hash"] == trainer.plan.hash and state["plan"]["optimizer_names"] == names
    if not same_plan and not remap:
        changes = plan_difference(state["plan"], trainer.plan)
        why = f"the plan is not that of the checkpoint of step {state['step']}: {changes}; true takes the new plan"
        raise ConfigError("checkpoint.remap", False, why)
    trainer.model.load_state_dict(state["model"])
    kind = _class_name(trainer.optimizer)
    if kind == state["optimizer_class"]:
        saved_names = state["plan"]["optimizer_names"]
        load_optimizer(trainer.optimizer, names, state["optimizer"], saved_names, remap=remap)
    elif remap:
        log.warning("the optimizer was %s and is now %s: its state starts fresh", state["optimizer_class"], kind)
    else:
        raise ConfigError("optimizer", kind, f"the checkpoint was made with {state['optimizer_class']}")
    trainer.scheduler.load_state_dict(state["scheduler"], remap=remap)
    if trainer.scaler.is_enabled() and state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.epoch, trainer.batches = state["step"], state["epoch"], state["batches"]
    trainer.skipped = state["skipped"]
    trainer.best = dict(state["best"])
    if trainer.seen_rates is not None:
        trainer.seen_rates = _seen_rates(state, trainer.plan)


def optimizer_names(plan: Plan, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {id(parameter): name for name, parameter in plan._parameters.items()}
    return [names[id(p)] for p in chain.from_iterable(group["params"] for group in optimizer.param_groups)]


def check_model(model: nn.Module, saved: Mapping[str, Any], plan: Plan) -> None:
    """Raise `ConfigError` unless `saved` has the names and shapes of the model's tensors."""
    own = model.state_dict()
    parts = []
    shapes = [name for name in own if name in saved and _shape(own[name]) != _shape(saved[name])]
    if shapes:
        name = shapes[0]
        more = f" ({len(shapes)} tensors differ)" if len(shapes) > 1 else ""
        parts.append(f"{name} is {_shape(saved[name])} in the checkpoint, {_shape(own[name])} in the model{more}")
    lacking, unknown = [n for n in own if n not in saved], [n for n in saved if n not in own]
    for names, others, what in (
        (lacking, unknown, "is not in the checkpoint"),
        (unknown, lacking, "of the checkpoint is not in the model"),
    ):
        if names:
            more = f" (nor are {len(names) - 1} others)" if len(names) > 1 else ""
            hint = f", {nearest(names[0], others)}" if others and not parts else ""
            parts.append(f"{names[0]} {what}{more}{hint}")
    if parts:
        raise ConfigError("model", plan.model, f"is not the model of the checkpoint: {'; '.join(parts)}")


def _seen_rates(state: Mapping[str, Any], plan: Plan) -> list[list[float]]:
    """The rates of all steps so far, in the order of `plan`; 0 for groups that there were not."""
    seen = state["seen_rates"]
    if seen is None:
        return [[0.0] * len(plan.groups)] * state["step"]
    columns = {label: i for i, label in enumerate(state["labels"])}
    rows: list[list[float]] = seen.reshape(-1, len(columns)).tolist()
    return [[row[columns[label]] if label in columns else 0.0 for label in plan.labels] for row in rows]


def _shape(value: object) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def _class_name(optimizer: torch.optim.Optimizer) -> str:
    """The class whose state it is: that of our own optimizers is torch's."""
    kind = getattr(optimizer, "stock", type(optimizer))
    return f"{kind.__module__}.{kind.__qualname__}"
