"""The whole training step: lwexp with 62 rates and the loss tracked at every step, a bare loop, and the peers.

    python tests/benchmarks/training_step.py [--device cuda] [--rounds 5] [--epochs 6] [--threads 1]
                                             [--contestants bare lwexp ignite] [--turns 40]

What is trained is described in trainings.py; the peers come with `pip install 'lwexp[benchmark]'`, and one that is not
installed is left out. Two tables:

One process: lwexp's Trainer and the bare loops take turns of a few steps in one process, so that what else the machine
does hits all alike. "ratio" is that of turns next to each other, by wall clock and by processor time of the process.

Own processes: the whole command or program of each contestant, in a process of its own, `--rounds` times in random
order. A step lasts from the end of one optimizer step to the end of the next, in the same epoch; start-up, an epoch's
first steps and evaluation are left out. "CPU" is user and system time of all threads of the training process, "with
delivery" adds that of the processes it has started, from the first step until all is delivered. Ratios are to `bare`.

Each figure is a median with its quartiles. Steps on a GPU are timed with it synchronised at both ends of each epoch.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import trainings
from report import cell, children_cpu, interleave, machine, ratio, spread, table
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainings import BATCH_SIZE, CONTESTANTS, LR, MULT, Setting

from lwexp.data import EpochLoader

_SKIPPED = 3  # of an epoch's first steps
_TURN = 6  # steps
_RESULT = "RESULT "


class Moment(NamedTuple):
    """Seconds of the wall clock and of this process's processor time."""

    wall: float
    cpu: float

    def since(self, earlier: Moment, steps: int) -> Moment:
        """What passed for each of `steps` steps, in milliseconds."""
        return Moment(1e3 * (self.wall - earlier.wall) / steps, 1e3 * (self.cpu - earlier.cpu) / steps)


def now() -> Moment:
    """This moment, when all that was given to a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Moment(time.perf_counter(), time.process_time())


# ------------------------------------------------------------------------------------------------- own processes


class Meter:
    """Milliseconds a step of each epoch, by a hook on torch's optimizers: the loops know nothing of it."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._steps, self._count, self._begun, self._children = steps_per_epoch, 0, now(), 0.0
        self.epochs: list[Moment] = []
        register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_: Any) -> None:
        place = self._count % self._steps
        if self._count == 0:
            self._children = children_cpu()
        if place == _SKIPPED:
            self._begun = now()
        elif place == self._steps - 1:
            self.epochs.append(now().since(self._begun, place - _SKIPPED))
        self._count += 1

    def result(self, epochs: int) -> dict[str, float]:
        """Of the median epoch, and of the processes started, for each step."""
        if self._count != epochs * self._steps:
            raise RuntimeError(f"{self._count} optimizer steps were counted instead of {epochs * self._steps}")
        wall, cpu = (spread(values).median for values in zip(*self.epochs, strict=True))
        return {"wall": wall, "cpu": cpu, "total": cpu + 1e3 * (children_cpu() - self._children) / self._count}


def train_here(name: str, setting: Setting) -> None:
    """Be the process of one contestant: train, and print what it took as the last line."""
    meter = Meter(len(trainings.images()) // BATCH_SIZE)
    CONTESTANTS[name][0](setting)
    print(f"\n{_RESULT}{json.dumps(meter.result(setting.epochs))}")


def trained(name: str, given: argparse.Namespace) -> dict[str, float]:
    """What one contestant's process printed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, __file__, "--train", name, "--epochs", str(given.epochs), "--device", given.device]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    found = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    if not found:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    print(f"  {name} {found[-1]}", file=sys.stderr, flush=True)
    return dict(json.loads(found[-1].removeprefix(_RESULT)))


def processes(given: argparse.Namespace) -> str:
    """The table of all contestants, each in processes of its own."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in given.contestants}

    def contestant(name: str) -> Callable[[], float]:
        def train() -> float:
            results[name].append(trained(name, given))
            return results[name][-1]["wall"]

        return train

    interleave({name: contestant(name) for name in given.contestants}, given.rounds)
    rows = []
    for name, found in results.items():
        values = {key: [each[key] for each in found] for key in ("wall", "cpu", "total")}
        base = {key: [each[key] for each in results["bare"]] for key in values}
        ours = {key: [each[key] for each in results.get("lwexp", found)] for key in values}
        rows.append(
            [
                name,
                *(cell(spread(values[key]), 1) for key in values),
                *(cell(ratio(values[key], base[key])) for key in values),
                cell(ratio(ours["wall"], values["wall"])),
            ]
        )
    header = ["own processes", "ms a step", "CPU ms", "with delivery", "ratio", "CPU", "with delivery", "lwexp to it"]
    return table(header, rows)


# --------------------------------------------------------------------------------------------------- one process


class Turns(EpochLoader):
    """lwexp's loader, which lets the bare loops make as many steps between its own batches and times them all."""

    bare: dict[str, Iterator[None]]
    taken: list[dict[str, Moment]]  # by contestant

    def __iter__(self) -> Any:
        """The epoch's batches; steps that fill no turn at its end are not timed."""
        batches = super().__iter__()
        while True:
            turn = {}
            for name, steps in self.bare.items():
                begun = now()
                for _ in itertools.islice(steps, _TURN):
                    pass
                turn[name] = now().since(begun, _TURN)
            begun, count = now(), 0
            for batch in itertools.islice(batches, _TURN):
                yield batch
                count += 1
            if count < _TURN:
                return
            turn["lwexp"] = now().since(begun, _TURN)
            self.taken.append(turn)


def turns(given: argparse.Namespace, folder: Path) -> str:
    """The table of lwexp's Trainer and the bare loops in turns."""
    from torch import nn

    from lwexp import make_plan
    from lwexp.config import MLflowConfig
    from lwexp.data import EpochSampler, eval_loader
    from lwexp.tracking import prepare, start
    from lwexp.train import Trainer

    device = torch.device(given.device)
    data = trainings.splits()
    sampler = EpochSampler(len(data.train), BATCH_SIZE, 0)
    train = Turns(data.train, sampler, 0, device)
    train.bare = {
        "bare": trainings.bare_steps(given.device, fused=True),
        "bare default": trainings.bare_steps(given.device),
    }
    train.taken = []
    epochs = -(-given.turns // (sampler.batches_per_epoch // _TURN))
    model = trainings.network().to(device)
    plan = make_plan(model, grouping="per_parameter", lr=LR, mult=MULT)
    optimizer = plan.optimizer("adam")
    steps = epochs * sampler.batches_per_epoch
    config = MLflowConfig(
        name="mlflow", uri=f"sqlite:///{folder / 'mlflow.db'}", experiment="lwexp", timeout=8.0, flush_timeout=60.0
    )
    answers = prepare(config, folder)
    tracker = start(
        config, folder=folder, run_name="turns", params={}, tags={}, description="", base=folder, answers=answers
    )
    trainer = Trainer(
        model=model, plan=plan, optimizer=optimizer, scheduler=plan.scheduler(optimizer, "cosine", steps=steps),
        loss=nn.CrossEntropyLoss(), train=train, tracker=tracker, folder=folder, device=device, steps=steps,
        val=eval_loader(data.val, batch_size=BATCH_SIZE, workers=0, device=device), epochs=epochs, progress=False,
    )  # fmt: skip
    before = children_cpu()
    trainer.fit()
    tracker.finish("FINISHED")
    delivery = 1e3 * (children_cpu() - before) / steps
    taken = train.taken[1:]  # the first turn warms up
    base_wall, base_cpu = [turn["bare"].wall for turn in taken], [turn["bare"].cpu for turn in taken]
    rows = []
    for name in taken[0]:
        wall, cpu = [turn[name].wall for turn in taken], [turn[name].cpu for turn in taken]
        total = [each + delivery for each in cpu] if name == "lwexp" else cpu
        measures = ((wall, base_wall), (cpu, base_cpu), (total, base_cpu))
        rows.append([name, *(cell(spread(m), 1) for m, _ in measures), *(cell(ratio(*pair)) for pair in measures)])
    header = ["one process", "ms a step", "CPU ms", "with delivery", "ratio", "CPU", "with delivery"]
    return table(header, rows)


def installed(name: str) -> bool:
    """Whether the packages of a contestant are there; says which one is not."""
    missing = [package for package in CONTESTANTS[name][1] if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{name} is left out: {missing[0]} is not installed")
    return not missing


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each contestant; 0: no such table")
    parser.add_argument("--epochs", type=int, default=6, help="of 19 steps, in each process")
    parser.add_argument("--turns", type=int, default=40, help=f"of {_TURN} steps, in one process; 0: no such table")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--threads", type=int, help="of torch; by default one for each core")
    parser.add_argument("--train", choices=CONTESTANTS, help=argparse.SUPPRESS)  # used for the own processes
    given = parser.parse_args()
    if given.train is not None:
        train_here(given.train, Setting(Path.cwd(), given.epochs, given.device))
        return
    if given.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of the processes
        torch.set_num_threads(given.threads)
    given.contestants = [name for name in dict.fromkeys(["bare", *given.contestants]) if installed(name)]
    print(machine(), flush=True)
    if given.turns:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            print("\n" + turns(given, Path(folder)), flush=True)
    if given.rounds:
        print("\n" + processes(given))


if __name__ == "__main__":
    main()
