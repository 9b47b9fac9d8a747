"""The whole state of a training as one mapping of plain values and tensors, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.core.optim.state_by_name import load_optimizer
from lwexp.core.plan import Plan
from lwexp.core.plan_diff import plan_difference, plan_record
from lwexp.distributed.world import World
from lwexp.errors import ConfigError, nearest
from lwexp.training.seeding import random_state
from lwexp.training.state import Learner, Progress

log = logging.getLogger(__name__)


def snapshot(
    learner: Learner,
    progress: Progress,
    callbacks: Mapping[str, Any],
    journal: int,
    world: World,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that continues the training exactly, as state of format 1.

    `callbacks` are the states of the callbacks, `journal` is how much of the record is on the disk, in bytes.
    Tensors are the learner's own, not copies: save them before the next step.
    """
    seen, randoms = progress.seen_rates, world.all_gather(random_state())
    return {
        "step": progress.step,
        "epoch": progress.epoch,
        "batches": progress.batches,
        "skipped": progress.skipped,
        "evaluated": progress.evaluated,
        "stopping": {
            "steps": progress.steps,
            "waited": progress.waited,
            "reached": progress.reached,
            "stopped": progress.stopped,
        },
        "plan": plan_record(learner.plan, learner.plan.names_in(learner.optimizer)),
        "labels": list(learner.plan.labels),
        "model": learner.model.state_dict(),
        "average": None if learner.average is None else learner.average.state_dict(),
        "optimizer_class": optimizer_class(learner.optimizer),
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "random": randoms[0],
        "random_of_others": randoms[1:],
        "best": dict(progress.best),
        "cost": asdict(progress.cost),
        "seen_rates": None if seen is None else torch.tensor(seen, dtype=torch.float64),
        "callbacks": dict(callbacks),
        "journal": journal,
        "config": dict(config),
    }


def restore(learner: Learner, progress: Progress, state: Mapping[str, Any], *, remap: bool = False) -> None:
    """Put `state` into an equal learner in a single process, or with `remap` into one with another plan.

    The tensors in `state` become the learner's own. Optimizer state follows the parameters' names. With `remap`, rates,
    freezing and the optimizer's options are the learner's own. Random states and callbacks are restored when the
    training starts. Raises `ConfigError`, with nothing changed, if the model or, without `remap`, the plan differs.
    """
    plan = learner.plan
    check_model(learner.model, state["model"], plan)
    names = plan.names_in(learner.optimizer)
    same_plan = state["plan"]["hash"] == plan.hash and state["plan"]["optimizer_names"] == names
    if not same_plan and not remap:
        changes = plan_difference(state["plan"], plan)
        why = f"the plan is not that of the checkpoint of step {state['step']}: {changes}; true takes the new plan"
        raise ConfigError("checkpoint.remap", False, why)
    kind = optimizer_class(learner.optimizer)
    if kind != state["optimizer_class"] and not remap:
        raise ConfigError("optimizer", kind, f"the checkpoint was made with {state['optimizer_class']}")
    learner.model.load_state_dict(state["model"])
    if kind == state["optimizer_class"]:
        saved_names = state["plan"]["optimizer_names"]
        load_optimizer(learner.optimizer, names, state["optimizer"], saved_names, remap=remap)
    else:
        log.warning("the optimizer was %s and is now %s: its state starts fresh", state["optimizer_class"], kind)
    if learner.average is not None and state.get("average") is not None:
        learner.average.load_state_dict(state["average"])
    learner.scheduler.load_state_dict(state["scheduler"], remap=remap)
    if learner.scaler.is_enabled() and state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    progress.step, progress.epoch, progress.batches = state["step"], state["epoch"], state["batches"]
    progress.skipped, progress.evaluated = state["skipped"], state.get("evaluated")
    stopping = state.get("stopping") or {"steps": progress.steps}  # not saved before
    if stopping["steps"] == progress.steps:  # a training of another length starts to count again
        progress.waited, progress.stopped = stopping.get("waited", 0), stopping.get("stopped")
    progress.reached = stopping.get("reached")
    progress.best = dict(state["best"])
    progress.cost.include(state.get("cost") or {})  # not saved before
    if progress.seen_rates is not None:
        progress.seen_rates = _seen_rates(state, plan)


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
    """The rates of all steps so far, in the order of `plan`; 0 for groups that did not exist."""
    seen = state["seen_rates"]
    if seen is None:
        return [[0.0] * len(plan.groups)] * state["step"]
    columns = {label: i for i, label in enumerate(state["labels"])}
    rows: list[list[float]] = seen.reshape(-1, len(columns)).tolist()
    return [[row[columns[label]] if label in columns else 0.0 for label in plan.labels] for row in rows]


def _shape(value: object) -> list[int] | None:
    return list(value.shape) if isinstance(value, Tensor) else None


def optimizer_class(optimizer: torch.optim.Optimizer) -> str:
    """The class whose state it is: that of our own optimizers is torch's."""
    kind = getattr(optimizer, "stock", type(optimizer))
    return f"{kind.__module__}.{kind.__qualname__}"
