"""Small trainings that one process, or several under torchrun, make alike; as a script it makes all of them.

torchrun … distributed_training.py FOLDER [slow] writes what came out of each case to FOLDER/cases.pt.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwexp import make_plan
from lwexp.data import SampleKey, eval_loader, train_loader
from lwexp.data.images import CorruptImageError, SampleDataset
from lwexp.distributed.parallel import Parallel, parallelize
from lwexp.distributed.world import SINGLE, World, join
from lwexp.errors import LwexpError
from lwexp.host.signals import Interrupted
from lwexp.training.checkpoint.files import CheckpointFiles
from lwexp.training.checkpoint.snapshot import restore
from lwexp.training.loss import make_loss
from lwexp.training.state import Learner, Progress
from lwexp.training.trainer import Trainer, TrainerOptions
from tests.helpers.tiny_training import Recorder, WatchedStep, flat

SAMPLES, BATCH, STEPS, EPOCHS = 31, 7, 7, 2  # 4 batches of 7 in an epoch: parts of 3 and 4


class Layers(nn.Module):
    """Two blocks with layer norms, a tied matrix, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 4, bias=False)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU()) for _ in range(2)))
        self.tied = nn.Linear(6, 4, bias=False)
        self.tied.weight = self.stem.weight
        self.head = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)) + self.tied(x))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class Images(nn.Module):
    """As resnet18 is built: 62 parameters, of convolutions and batch norms."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(*(Residual(width) for _ in range(9)))
        self.bn2, self.fc = nn.BatchNorm2d(width, affine=False), nn.Linear(width, 3)
        self.bias = nn.Parameter(torch.zeros(1))
        self.cumulative = nn.BatchNorm2d(width, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 1, 2, 3).repeat(1, 1, 3, 2)
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return self.fc(self.bn2(self.cumulative(x)).mean(dim=(2, 3))) + self.bias


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dropout, self.head = nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.stem(x)))


class Vectors(SampleDataset):
    def __init__(self, count: int, dtype: torch.dtype, broken: int | None = None) -> None:
        generator = torch.Generator().manual_seed(count)
        super().__init__(torch.randint(3, (count,), generator=generator))
        self._values = torch.randn(count, 6, generator=generator).to(dtype)
        self._broken = broken

    def inputs(self, keys: Sequence[SampleKey]) -> Tensor:
        if any(key.sample == self._broken for key in keys):
            raise CorruptImageError.of("data.path", "photos", "seven.png", ValueError("the file is empty"))
        return self._values[[key.sample for key in keys]]


@dataclass
class Case:
    """Options of one training; `before` changes the trainer before it starts."""

    model: Callable[[], nn.Module] = Layers
    dtype: torch.dtype = torch.float64
    optimizer: str = "adam"
    optimizer_options: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    weights: list[float] | None = None
    label_smoothing: float = 0.0
    broken: int | None = None
    before: Callable[[Trainer], None] | None = None
    every_steps: int | None = None  # between checkpoints
    slow: bool = False
    options: dict[str, Any] = field(default_factory=dict)


def poisoned(*steps: int) -> Callable[[Trainer], None]:
    """At these optimizer steps the last rank's loss is not finite."""

    def poison(trainer: Trainer) -> None:
        learner, progress, world = trainer.learner, trainer.progress, trainer.world
        forward = learner.loss.forward

        def poisoned_forward(scores: Tensor, labels: Tensor) -> Tensor:
            loss = forward(scores, labels)
            bad = progress.step in steps and learner.model.training and world.rank == world.size - 1
            return loss * torch.nan if bad else loss

        learner.loss.forward = poisoned_forward  # type: ignore[method-assign]

    return poison


def signaled(signum: int, step: int) -> Callable[[Trainer], None]:
    """The last rank gets a signal during this optimizer step."""

    def install(trainer: Trainer) -> None:
        def send(number: int) -> None:
            if number == step and trainer.world.rank == trainer.world.size - 1:
                os.kill(os.getpid(), signum)

        trainer.step = WatchedStep(trainer.step, before=send)

    return install


PLAN = {"grouping": "per_parameter", "lr": 0.02, "mult": 0.9}
NORMS = Case(weights=[0.2, 1.0, 3.0], optimizer="adamw", optimizer_options={"weight_decay": 0.3}, every_steps=3,
             plan={"no_weight_decay": True, "freeze": ["blocks.0"], "freeze_mode": "lr_zero"})  # fmt: skip
BATCH_NORMS = Case(Images, optimizer="sgd", optimizer_options={"momentum": 0.9}, plan={"lr": 0.05}, every_steps=3)
CASES = {
    "layer norms": NORMS,
    "batch norms": BATCH_NORMS,
    "frozen": Case(plan={"freeze": ["blocks.1", "stem"]},
                   options={"accumulate": 2, "clip_grad_norm": 0.05, "diagnose_every": 2},
                   weights=[0.0, 1.0, 3.0], label_smoothing=0.1),
    "skipped": Case(before=poisoned(0, 3), options={"nonfinite": "skip", "clip_grad_norm": 0.05, "diagnose_every": 1}),
    "float32": Case(Images, dtype=torch.float32, optimizer="sgd", optimizer_options={"momentum": 0.9}, slow=True),
    "batch norms, frozen statistics": Case(
        Images, plan={"freeze": ["layer1", "bn1"]}, options={"freeze_stats": True, "defer": True}, slow=True),
    "rmsprop": Case(optimizer="rmsprop", slow=True),
}  # fmt: skip


def make_trainer(
    folder: Path,
    case: Case,
    world: World = SINGLE,
    *,
    parallel: Parallel = "ddp",
    saved: Path | None = None,
    **options: Any,
) -> Trainer:
    """The trainer of `case`, resumed from the file `saved`; `options` are the precision and those of the trainer."""
    given: dict[str, Any] = {"precision": "fp32", **case.options, **options}
    torch.manual_seed(3)
    model = case.model().to(case.dtype)
    plan = make_plan(model, **{**PLAN, **case.plan})
    plan.apply_freeze(model)
    optimizer = plan.optimizer(case.optimizer, **case.optimizer_options)
    learner = Learner(
        model=model,
        plan=plan,
        optimizer=optimizer,
        scheduler=plan.scheduler(optimizer, "cosine", steps=STEPS, warmup_steps=2),
        loss=make_loss("CrossEntropyLoss", 3, class_weights=case.weights, label_smoothing=case.label_smoothing).loss.to(
            case.dtype
        ),
        device=torch.device("cpu"),
        precision=given.pop("precision"),
    )
    progress = Progress(STEPS, EPOCHS)
    state = None if saved is None else torch.load(saved, weights_only=True)
    if state is not None:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        restore(learner, progress, state)
    trainer_options = TrainerOptions(progress_bar=False, **given)
    if world.size > 1:
        learner.parallel, learner.plan = parallelize(
            model, plan, optimizer, learner.device, world, parallel, trainer_options.sync_batchnorm
        )
    loading: dict[str, Any] = {"batch_size": BATCH, "workers": 0, "device": "cpu", "shard": world.shard}
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        learner,
        train_loader(Vectors(SAMPLES, case.dtype, case.broken), seed=5, **loading),
        eval_loader(Vectors(15, case.dtype), **loading),  # the last batch has one sample
        progress,
        folder=folder,
        tracker=Recorder(),
        checkpoints=CheckpointFiles(folder / "checkpoints", every_steps=case.every_steps, every_minutes=None, keep=100),
        world=world,
        options=trainer_options,
        resumed=state,
    )
    if case.before is not None:
        case.before(trainer)
    return trainer


def outcome(trainer: Trainer) -> dict[str, Any]:
    """What the training logged, ended with, and left in its files."""
    try:
        trainer.fit()
        ended = "finished"
    except (LwexpError, KeyboardInterrupt, Interrupted) as error:
        ended = f"{type(error).__name__}: {error}"
    assert isinstance(trainer.tracker, Recorder)
    assert trainer.checkpointer.files is not None
    state = trainer.checkpointer.state()
    saved = [path.name for path in trainer.checkpointer.files.paths()]
    return {
        "ended": ended, "logged": trainer.tracker.values, "model": state["model"], "optimizer": state["optimizer"],
        "random": flat([state["random"], state["random_of_others"]]), "saved": saved,
        "labels": trainer.learner.plan.labels, "step": state["step"],
    }  # fmt: skip


def resumed(folder: Path, case: Case, world: World, saved: Path, **options: Any) -> dict[str, Any]:
    """The training of `case` resumed from the file `saved`."""
    return outcome(make_trainer(folder, case, world, saved=saved, **options))


def until(step: int) -> Callable[[Trainer], None]:
    """Ends the training with a checkpoint after `step` optimizer steps."""
    return signaled(signal.SIGTERM, step - 1)


def made(folder: Path, world: World, *, slow: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The outcome of each case by name; `folder`/alone has checkpoints of a single process to resume from."""

    def run(name: str, case: Case, **options: Any) -> tuple[str, dict[str, Any]]:
        return f"{parallel} {name}", outcome(
            make_trainer(folder / parallel / name, case, world, parallel=parallel, **options)
        )

    for parallel in ("ddp", "fsdp"):
        for name, case in CASES.items():
            if slow == case.slow:
                yield run(name, case)
        if slow:
            for signum in (signal.SIGINT, signal.SIGUSR1):
                yield run(signum.name, Case(before=signaled(signum, 2)))
            for precision in ("bf16", "fp16"):
                options = {"precision": precision, "clip_grad_norm": 0.5}
                yield run(precision, Case(dtype=torch.float32, options=options))
            continue
        yield run("stop", Case(before=poisoned(4)))
        yield run("broken", Case(broken=next(iter(make_trainer(folder / "x", Case()).train.epoch_sampler))[-1].sample))
        # from a file of one process, and from there to the other way of sharing out
        name = "layer norms" if parallel == "ddp" else "batch norms"
        there, case = folder / "back" / name, replace(CASES[name], before=until(5))
        file = folder / "alone" / name / "checkpoints" / "step_00000003.ckpt"
        yield f"{parallel} from one", resumed(there, case, world, file, parallel=parallel)
        file, other = there / "checkpoints" / "step_00000005.ckpt", "fsdp" if parallel == "ddp" else "ddp"
        yield f"{other} over", resumed(folder / "over" / name, CASES[name], world, file, parallel=other)
        yield run("dropout", (dropping := Case(Dropping, every_steps=3)))
        file = folder / parallel / "dropout" / "checkpoints" / "step_00000003.ckpt"
        yield (
            f"{parallel} dropout again",
            resumed(folder / "again" / parallel, dropping, world, file, parallel=parallel),
        )


def main(folder: Path, *, slow: bool) -> None:
    torch.set_num_threads(1)
    world = join()
    found = dict(made(folder, world, slow=slow))
    every = world.all_gather({name: (result["ended"], result["step"]) for name, result in found.items()})
    if world.is_rank_zero:
        torch.save({"found": found, "ends": every}, folder / "cases.pt")
    world.leave()


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(Path(sys.argv[1]), slow=sys.argv[2:] == ["slow"])
