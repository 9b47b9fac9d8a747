"""Callbacks: what listens to a training. Subclass `Callback` and override the events you need.

The events in order:

    setup                     once, before anything else
    load_state_dict           where a training resumes, with what `state_dict` returned when the checkpoint was saved
    fit_start
        epoch_start           also where an epoch resumes in the middle
            step_start
            gradients_ready   gradients of the whole step, unscaled, before they are checked and clipped
            update_start      gradients as the optimizer is about to use them; not where they are found not finite
            update_end        the optimizer has just moved the weights; not after a skipped step
            step_end          the numbers of a step
        evaluation_start
        evaluation_end
        epoch_end
        epoch_undone          in place of evaluation and epoch_end, where the epoch is run again (decay=auto_lr)
    fit_end                   after the last epoch; not after an error or an interrupt
    close                     always last, also after an error

On a GPU `step_end` comes one step late, since no step waits for its numbers; `gradients_ready`, `update_start` and
`update_end` come in time with the device and should not wait for it either. Where several processes train, each has its
own callbacks, and the state of those of rank 0 is saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lwexp.errors import LwexpError, RunError
from lwexp.formatting import one_line
from lwexp.tracking import Tracker

from .state import Learner, Progress, StepResult

EVENTS = (
    "setup", "fit_start", "epoch_start", "step_start", "gradients_ready", "update_start", "update_end", "step_end",
    "evaluation_start", "evaluation_end", "epoch_end", "epoch_undone", "fit_end", "close",
)  # fmt: skip


class Pruned(Exception):  # noqa: N818 (not an error)
    """Raised in `evaluation_end` to end a run that is not worth finishing; the text says why."""


class Callback:
    """Listens to a training; every event does nothing unless it is overridden."""

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Keep what the other events need: model, plan and optimizer of `learner`; `tracker.log` for metrics."""

    def fit_start(self, progress: Progress) -> None:
        """The training starts or resumes."""

    def epoch_start(self, progress: Progress) -> None:
        """An epoch starts, or resumes after `progress.batches` batches."""

    def step_start(self, progress: Progress) -> None:
        """Optimizer step `progress.step` starts."""

    def gradients_ready(self, progress: Progress) -> None:
        """Every `parameter.grad` is that of the whole step."""

    def update_start(self, progress: Progress) -> None:
        """Every `parameter.grad` is as the optimizer uses it: unscaled and clipped."""

    def update_end(self, progress: Progress) -> None:
        """The optimizer has made step `progress.step`."""

    def step_end(self, result: StepResult) -> None:
        """The number, loss and learning rates of a step."""

    def evaluation_start(self, split: str) -> None:
        """An evaluation on "val" or "test" starts."""

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Metrics of the validation split, such as `val/loss`; may raise `Pruned`."""

    def epoch_end(self, progress: Progress) -> None:
        """An epoch has ended, its evaluation included."""

    def epoch_undone(self, progress: Progress) -> None:
        """The epoch is to be run again: all is as at its start, this callback too by its `load_state_dict`."""

    def fit_end(self, progress: Progress) -> None:
        """The training is complete; `progress.best` has the best metrics."""

    def close(self) -> None:
        """Release what is open."""

    def state_dict(self) -> dict[str, Any]:
        """What to save with a checkpoint: plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""


class Callbacks:
    """A training's callbacks, called in order. An error in one of the user's names it."""

    def __init__(self, own: Sequence[Callback], named: Mapping[str, Callback]) -> None:
        """`own` are the training's; `named` are the user's, by their names in the config."""
        self._named = dict(named)
        every = [("", callback) for callback in own] + list(named.items())
        self._listeners: dict[str, list[tuple[str, Callable[..., None]]]] = {
            event: [
                (name, getattr(callback, event))
                for name, callback in every
                if getattr(type(callback), event, None) is not getattr(Callback, event)
            ]
            for event in EVENTS
        }

    def __enter__(self) -> None:
        """Close the callbacks at the end of the block, whatever ends it."""

    def __exit__(self, *_: object) -> None:
        """Close them."""
        self.close()

    def listens(self, event: str) -> bool:
        """Whether any callback listens to `event`."""
        return bool(self._listeners[event])

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """See `Callback`; so for all events."""
        self._call("setup", learner, tracker)

    def fit_start(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("fit_start", progress)

    def epoch_start(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("epoch_start", progress)

    def step_start(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("step_start", progress)

    def gradients_ready(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("gradients_ready", progress)

    def update_start(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("update_start", progress)

    def update_end(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("update_end", progress)

    def step_end(self, result: StepResult) -> None:
        """See `Callback`."""
        self._call("step_end", result)

    def evaluation_start(self, split: str) -> None:
        """See `Callback`."""
        self._call("evaluation_start", split)

    def evaluation_end(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._call("evaluation_end", progress, metrics)

    def epoch_end(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("epoch_end", progress)

    def epoch_undone(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("epoch_undone", progress)

    def fit_end(self, progress: Progress) -> None:
        """See `Callback`."""
        self._call("fit_end", progress)

    def close(self) -> None:
        """See `Callback`."""
        self._call("close")

    def state_dict(self) -> dict[str, Any]:
        """The states of the user's callbacks that have one, by name."""
        states = {}
        for name, callback in self._named.items():
            state = _named(name, "state_dict", callback.state_dict)
            if state:
                states[name] = state
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Continue from `states`; a callback that is new starts fresh."""
        for name, callback in self._named.items():
            if name in states:
                _named(name, "load_state_dict", callback.load_state_dict, states[name])

    def _call(self, event: str, *arguments: Any) -> None:
        for name, listener in self._listeners[event]:
            if name:
                _named(name, event, listener, *arguments)
            else:
                listener(*arguments)


def _named(name: str, event: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, whose errors name the callback and the event."""
    try:
        return function(*arguments)
    except (LwexpError, Pruned):
        raise
    except Exception as error:
        raise RunError(f"callbacks.{name}: {event} failed: {type(error).__name__}: {one_line(error)}") from error
