"""Hugging Face Accelerate: prepares a model with the optimizer and scheduler of its plan.

`accelerator.prepare(model, optimizer, scheduler)` is enough on one process. On several, Accelerate steps a scheduler
once per process at each step, so a policy of T steps would end after T / processes.

Example, for any `model` and `data`::

    from accelerate import Accelerator
    from lwexp.integrations.accelerate import prepare

    accelerator = Accelerator()
    plan = {"grouping": "depth_index", "lr": 1e-3, "mult": 0.9}
    model, optimizer, scheduler, data = prepare(accelerator, model, data, steps=len(data), policy="cosine", **plan)
    for images, labels in data:
        optimizer.zero_grad()
        accelerator.backward(torch.nn.functional.cross_entropy(model(images), labels))
        optimizer.step()
        scheduler.step()
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from torch import nn

from lwexp.errors import ConfigError

from .settings import Settings


def prepare(accelerator: Accelerator, model: nn.Module, *others: Any, steps: int | None = None, **settings: Any) -> Any:
    """`(model, optimizer, scheduler, *others)`, prepared; `others` are data loaders, `settings` those of `Settings`.

    The scheduler counts the optimizer's steps on any number of processes, and not those that a gradient scaler skipped:
    `steps` is how many there are in all. `scheduler.scheduler` is the plan's (`observe`, `set_lr`), `rates` of
    `lwexp.integrations.settings` names what `accelerator.log` shall log.
    """
    chosen = Settings(**settings)
    plan = chosen.make_plan(model)
    optimizer = chosen.make_optimizer(plan)
    if accelerator.scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        why = "hides skipped steps from Accelerate; leave it out, the fused kernel is used without it as well"
        raise ConfigError("optimizer.fused", True, why)
    model, optimizer, *prepared = accelerator.prepare(model, optimizer, *others)
    plain = getattr(optimizer, "optimizer", optimizer)
    scheduler = accelerator.prepare_scheduler(chosen.make_scheduler(plan, plain, steps=steps))
    scheduler.split_batches = True  # one step for each of the optimizer's, as with batches that are split
    return (model, optimizer, scheduler, *prepared)
