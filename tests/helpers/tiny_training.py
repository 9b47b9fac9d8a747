"""A training of a few milliseconds a step, for the tests of the loop, of checkpoints and of signals."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexp import Event, make_plan
from lwexp.data import eval_loader, train_loader
from lwexp.data.images import SampleDataset
from lwexp.data.keys import SampleKey, uniforms
from lwexp.training.average import AverageOptions, WeightAverage
from lwexp.training.batches import Batches
from lwexp.training.callbacks import Callback
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.checkpoint.snapshot import restore
from lwexp.training.state import Learner, Progress, StepResult
from lwexp.training.step import Step
from lwexp.training.trainer import Trainer, TrainerOptions

SIZE = 4
BATCHES = 5  # in an epoch


class TinyNorms(nn.Module):
    """Stem, two blocks with norms and dropout, and a head."""

    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(SIZE, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.norm(self.linear(x)).relu())


class Noisy(SampleDataset):
    """Vectors [SIZE] with an augmentation that depends on seed, epoch and sample."""

    def __init__(self, count: int, augment: bool = True) -> None:
        generator = torch.Generator().manual_seed(count)
        super().__init__(torch.randint(3, (count,), generator=generator))
        self._values = torch.randn(count, SIZE, generator=generator)
        self._augment = augment

    def inputs(self, keys: Sequence[SampleKey]) -> Sequence[Tensor]:
        noise = torch.from_numpy(np.stack(uniforms(7, keys, SIZE), axis=1)).float() * self._augment
        return [self._values[key.sample] + part for key, part in zip(keys, noise, strict=True)]


class Recorder:
    """A tracker that keeps everything; a value of a step that it has must come again as it was."""

    run_id = None
    run_name = where = "recorder"

    def __init__(self, values: dict[tuple[str, int], float] | None = None) -> None:
        self.values = {} if values is None else dict(values)

    def log(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None, *, deliver: bool = True) -> None:
        for name, value in metrics.items():
            assert self.values.setdefault((name, step), value) == value or math.isnan(value)

    def position(self) -> int:
        return len(self.values)

    def artifact(self, path: Path, folder: str | None = None) -> None: ...

    def model(self, package: Path, facts: Mapping[str, Any]) -> None: ...

    def tag(self, tags: Mapping[str, str]) -> None: ...

    def finish(self, status: Any, reason: str | None = None) -> None: ...


def make_trainer(
    folder: Path,
    *,
    seed: int = 0,
    steps: int = 13,
    epochs: int = 3,
    workers: int = 0,
    batch_size: int = 4,
    every_steps: int | None = 1,
    keep: int = 100,
    optimizer: str = "adam",
    optimizer_options: Mapping[str, Any] | None = None,
    policy: str = "cosine",
    policy_options: Mapping[str, Any] | None = None,
    plan_options: Mapping[str, Any] | None = None,
    unfreeze: int | None = None,
    events: Sequence[Event] = (),
    model: nn.Module | None = None,
    loss: nn.Module | None = None,
    train: SampleDataset | None = None,
    val: SampleDataset | None = None,
    tracker: Recorder | None = None,
    device: str = "cpu",
    precision: Any = "fp32",
    checkpoints: bool = True,
    callbacks: Mapping[str, Callback] | None = None,
    average: AverageOptions | None = None,
    **options: Any,
) -> Trainer:
    """Build everything, as a process that starts does; `options` are those of `TrainerOptions`."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    model = (model or TinyNorms()).to(device)
    plan = make_plan(model, **{"grouping": "per_parameter", "lr": 0.05, "mult": 0.9, **(plan_options or {})})
    plan.apply_freeze(model)
    built = plan.optimizer(optimizer, **(optimizer_options or {}))
    schedule: dict[str, Any] = {
        "steps": steps,
        "steps_per_epoch": BATCHES,
        "unfreeze_every_steps": unfreeze,
        "lr_events": list(events),
    }
    learner = Learner(
        model=model,
        plan=plan,
        optimizer=built,
        scheduler=plan.scheduler(built, policy, **schedule, **(policy_options or {})),
        loss=loss or nn.CrossEntropyLoss(),
        device=torch.device(device),
        precision=precision,
        average=None if average is None else WeightAverage(model, average),
    )
    loading: dict[str, Any] = {"workers": workers, "device": device}
    folder.mkdir(parents=True, exist_ok=True)
    files = CheckpointFiles(folder / "checkpoints", every_steps=every_steps, every_minutes=None, keep=keep)
    data = train or Noisy(4 * BATCHES + 1)
    return Trainer(
        learner,
        train_loader(data, batch_size=batch_size, seed=seed, **loading),
        eval_loader(val or Noisy(6, augment=False), batch_size=4, **loading),
        Progress(steps, epochs, seen_rates=[] if policy == "plateau" else None),
        folder=folder,
        tracker=tracker or Recorder(),
        checkpoints=files if checkpoints else None,
        callbacks=callbacks,
        options=TrainerOptions(progress_bar=False, **options),
        measured_on=train_loader(data, batch_size=batch_size, seed=seed, workers=0, device=device),
    )


def load(trainer: Trainer, state: Mapping[str, Any] | None = None, *, remap: bool = False) -> Trainer:
    """Restore `state`, by default that of the newest checkpoint, as a resumed run does."""
    state = newest(trainer) if state is None else state
    restore(trainer.learner, trainer.progress, state, remap=remap)
    trainer.resumed = state
    return trainer


def newest(trainer: Trainer) -> dict[str, Any]:
    """The state of the newest checkpoint."""
    assert trainer.checkpointer.files is not None
    state = trainer.checkpointer.files.newest()
    assert state is not None
    return state


def lasting(trainer: Trainer) -> dict[str, Any]:
    """The state of the training but for its cost, which no two trainings have in common."""
    return {key: value for key, value in trainer.checkpointer.state().items() if key != "cost"}


class Killed(BaseException):
    """Stands for the end of the process."""


class WatchedStep:
    """A step with something before and after it."""

    def __init__(
        self,
        step: Step,
        before: Callable[[int], None] = lambda number: None,
        after: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._step, self._before, self._after = step, before, after

    def __call__(self, number: int, batches: Batches, rates: list[float]) -> list[StepResult]:
        self._before(number)
        results = self._step(number, batches, rates)
        self._after(number)
        return results

    def flush(self) -> list[StepResult]:
        return self._step.flush()


def die_before(trainer: Trainer, step: int) -> None:
    """Let the training end when optimizer step `step` begins; never, if there are fewer."""

    def die(number: int) -> None:
        if number == step:
            raise Killed

    trainer.step = WatchedStep(trainer.step, before=die)


def close(trainer: Trainer) -> None:
    trainer.train.close()
    trainer.val.close()


def flat(value: Any) -> Any:
    """Nested state as something that `==` compares bit for bit (NaN equals itself)."""
    if isinstance(value, Tensor):
        return (str(value.dtype), list(value.shape), value.detach().contiguous().reshape(-1).view(torch.uint8).tolist())
    if isinstance(value, Mapping):
        return {str(key): flat(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(inner) for inner in value]
    return value.hex() if isinstance(value, float) else value
