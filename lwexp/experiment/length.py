"""Whether a run may continue with another number of steps: what is done must be as the other length has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lwexp.errors import ConfigError
from lwexp.training.state import Progress

from .changes import LENGTH, with_defaults
from .instantiate import Experiment
from .planning import build_schedule


def check_length(
    before: Mapping[str, Any], experiment: Experiment, *, done: int | None, in_sweep: bool, remap: bool
) -> None:
    """Raise `ConfigError` where the run with the config `before` cannot go on for as long as `experiment` says.

    It can where every rate up to the end of the shorter one of both is the same, or with `remap`. `done`: optimizer
    steps that the run has made; None: all that it was made for, it is finished.
    """
    config, old = experiment.config, with_defaults(before)
    length: dict[str, Any] = {key: old.get(key) for key in LENGTH}
    key = next((key for key in LENGTH if length[key] != getattr(config, key)), None)
    if key is None:
        return
    value, steps = getattr(config, key), experiment.steps
    per_epoch = experiment.steps_per_epoch
    all_steps = int(length["epochs"]) * per_epoch
    old_steps = min(all_steps, length["max_steps"] or all_steps)
    made = f"the run was made with {key}={'null' if length[key] is None else length[key]}"
    if in_sweep:
        raise ConfigError(key, value, f"{made}, as a job of a sweep, whose jobs train equally long; start a new run")
    if steps < (done or 0) or (done is None and steps <= old_steps):
        what = "is finished" if done is None else "is there already"
        raise ConfigError(key, value, f"{made} and {what} after {done or old_steps} steps; {steps} would be no more")
    if remap:
        return
    shorter = config.model_copy(update=length)
    schedule = build_schedule(shorter, experiment.plan, old_steps, per_epoch)
    moved = next((t for t in range(min(steps, old_steps)) if schedule.rates(t) != experiment.schedule.rates(t)), None)
    if moved is not None:
        name = "phases" if config.phases else f"policy={config.policy.name or config.policy.target}"
        why = f"{name} ends with the training, so its rates would have been others from step {moved} on"
        ways = (
            f"a new run with {key}={value} has them from the start, checkpoint.remap=true continues with them from here"
        )
        raise ConfigError(key, value, f"{made}, and {why}; {ways}")


def align(progress: Progress, experiment: Experiment) -> None:
    """Let `progress` of a run that `max_steps` had ended within an epoch go on there."""
    epoch, step = divmod(progress.step, experiment.steps_per_epoch)
    if progress.step < experiment.steps and step and not progress.batches and progress.epoch == epoch + 1:
        progress.epoch, progress.batches = epoch, step * experiment.config.accumulate
