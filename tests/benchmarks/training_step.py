"""The whole training step: lwexp with all rates and the loss tracked at every step, a bare loop, and the peers.

    python tests/benchmarks/training_step.py [--device cuda] [--turns 30] [--threads 1] [--contestants lwexp ignite]
        [--alone --epochs 12]
        [--model vit_tiny_patch16_224 --image-size 224 --batch-size 256 --precision bf16 --workers 4]

What is trained is described in trainings.py; the peers come with `pip install 'lwexp[benchmark]'`, and one that is not
installed is omitted. Each contestant is its whole command or program, in a process of its own. They take turns of six
optimizer steps, in a new random order each time, and all others wait meanwhile, so what else the machine does hits all
alike. A step lasts from the end of one optimizer step to the end of the next; start-up, an epoch's first step and
evaluation are omitted.

"CPU" is user and system time of all threads of the training process; "with delivery" adds that of its own threads
between the turns (asynchronous logging) and that of the processes it has started, from the first step until all is
delivered, the run's files included, which long runs make small. Ratios are turn by turn, to `bare` and of lwexp to
each. Each figure is a median with its quartiles. A GPU is synchronised at both ends of a turn and nowhere else.

With `--alone` each trains without interruption, one after the other, and nothing is synchronised: milliseconds from a
step to the next, but for the first two epochs and the first step of each, and the main thread's processor time. On a
GPU, which turns leave idle in between, that is nearer to what a user sees.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from report import cell, children_cpu, interleave, machine, ratio, spread, table
from torch.optim.optimizer import register_optimizer_step_post_hook
from trainings import CONTESTANTS, Setting

_TURN = 6  # steps; fewer where an epoch has fewer
_END = "delivery"  # what a contestant's last word has


class Moment(NamedTuple):
    """Seconds of the wall clock and of this process's processor time."""

    wall: float
    cpu: float


def now() -> Moment:
    """This moment, when all that was given to a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Moment(time.perf_counter(), time.process_time())


def turn_of(steps_per_epoch: int) -> int:
    """Steps of a turn: all in one epoch, and not its first."""
    return min(_TURN, steps_per_epoch - 1)


class Player:
    """In a contestant's process: times its turns by a hook on torch's optimizers, and waits while others have theirs.

    `out` takes a line of JSON after each turn: milliseconds a step, or null for one that is not timed.
    """

    def __init__(self, out: IO[str], steps_per_epoch: int) -> None:
        """The training begins at once, and waits after its first step."""
        self._out, self._steps, self._count = out, steps_per_epoch, 0
        self._turn = turn_of(steps_per_epoch)
        self._started = now()
        self._children = self._waited = 0.0  # processor time: of processes before, of own threads between turns
        register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, *_: Any) -> None:
        place = self._count % self._steps
        if self._count == 0:
            self._children = children_cpu()
        self._count += 1
        if place % self._turn:
            return
        ended = now()
        self._say(
            [1e3 * (end - begin) / self._turn for begin, end in zip(self._started, ended, strict=True)]
            if place
            else None
        )
        sys.stdin.readline()
        self._waited += time.process_time() - ended.cpu
        self._started = now()

    def end(self, epochs: int) -> None:
        """Say what the started processes, and own threads between turns, took for each step."""
        if self._count != epochs * self._steps:
            raise RuntimeError(f"{self._count} optimizer steps were counted instead of {epochs * self._steps}")
        self._say({_END: 1e3 * (children_cpu() - self._children + self._waited) / self._count})

    def _say(self, what: Any) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()


def play(name: str, setting: Setting, alone: bool) -> None:
    """Be the process of one contestant."""
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what the training prints is not for the one who waits for results
    if alone:
        json.dump(pace(name, setting), out)
        out.close()
        return
    player = Player(out, setting.steps_per_epoch)
    CONTESTANTS[name][0](setting)
    player.end(setting.epochs)


def pace(name: str, setting: Setting) -> list[list[float]]:
    """Milliseconds of the wall clock, and of the main thread, from each step to the next of its epoch."""
    ends: list[Moment] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(Moment(time.perf_counter(), time.thread_time())))
    CONTESTANTS[name][0](setting)
    per_epoch = setting.steps_per_epoch
    pairs = [each for number, each in enumerate(pairwise(ends)) if number > 2 * per_epoch and (number + 1) % per_epoch]
    return [[1e3 * (end[kind] - start[kind]) for start, end in pairs] for kind in (0, 1)]


def one_by_one(names: list[str], setting: Setting) -> str:
    """The table of `names`, each alone on the machine."""
    found = {}
    for name in names:
        own = replace(setting, folder=setting.folder / name.replace(" ", "_"))
        own.folder.mkdir()
        command = [sys.executable, __file__, "--alone", "--play", name, *options_of(own)]
        done = subprocess.run(command, cwd=own.folder, env=own_environment(), stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise SystemExit(f"{name} has failed, with the status {done.returncode}")
        found[name] = [spread(values) for values in json.loads(done.stdout)]
    bare = found["bare"][0].median
    rows = [[name, *(cell(each) for each in both), f"{both[0].median / bare:.2f}"] for name, both in found.items()]
    return table(["milliseconds a step", "wall", "main thread", "wall / bare"], rows)


def own_environment() -> dict[str, str]:
    """Without what the user has set for MLflow and Hydra."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HYDRA_"))}


class Contestant:
    """A contestant's process, seen from outside."""

    def __init__(self, name: str, setting: Setting) -> None:
        """Start it; it comes as far as its first step."""
        folder = setting.folder
        folder.mkdir()
        self.name, self.taken = name, list[Moment]()
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--play", name, *options_of(setting)],
                cwd=folder, env=own_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def turn(self) -> float:
        """Let it have a turn that is timed; returns milliseconds of the wall clock for a step."""
        while (told := self._go()) is None:
            pass
        self.taken.append(Moment(*told))
        return self.taken[-1].wall

    def end(self) -> float:
        """Let it end; returns milliseconds of processor time, for a step, that its turns do not have."""
        while not isinstance(told := self._go(), dict):
            pass
        self._process.communicate()
        return float(told[_END])

    def ready(self) -> None:
        """Return when it waits for its first turn."""
        self._hear()

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()
        self._process.communicate()

    def _go(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has failed:\n{self._log.read_text(errors='replace')[-4000:]}")
        return json.loads(line)


def options_of(setting: Setting) -> list[str]:
    """The options of this script that say it again, but for the folder."""
    return [f"--{f.name.replace('_', '-')}={getattr(setting, f.name)}" for f in fields(setting) if f.name != "folder"]


def compete(names: list[str], turns: int, setting: Setting) -> str:
    """The table of `names` after so many turns of each."""
    per_epoch = (setting.steps_per_epoch - 1) // turn_of(setting.steps_per_epoch)
    epochs = -(-(turns + 1) // per_epoch)
    with ExitStack() as running:
        players = []
        for name in names:
            players.append(
                Contestant(name, replace(setting, folder=setting.folder / name.replace(" ", "_"), epochs=epochs))
            )
            running.callback(players[-1].kill)
        for player in players:
            player.ready()
        contestants: dict[str, Callable[[], float]] = {player.name: player.turn for player in players}
        interleave(contestants, turns + 1)
        measured = {}
        for player in players:
            wall, cpu = (list(values) for values in zip(*player.taken[1:], strict=True))  # the first one warms up
            delivery = player.end()
            measured[player.name] = (wall, cpu, [each + delivery for each in cpu])
    rows = []
    for name, columns in measured.items():
        to_bare = [cell(ratio(mine, other)) for mine, other in zip(columns, measured["bare"], strict=True)]
        ours = [cell(ratio(mine, other)) for mine, other in zip(measured.get("lwexp", columns), columns, strict=True)]
        rows.append([name, *(cell(spread(column), 1) for column in columns), *to_bare, ours[0], ours[2]])
    what = ["wall", "CPU", "with delivery"]
    header = ["milliseconds a step", *what, *(f"{each} / bare" for each in what), "lwexp / it", "with delivery"]
    return table(header, rows)


def installed(name: str) -> bool:
    """Whether the packages of a contestant are there; says which one is not."""
    missing = [package for package in CONTESTANTS[name][1] if importlib.util.find_spec(package) is None]
    if missing:
        print(f"{name} is omitted: {missing[0]} is not installed")
    return not missing


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=30, help=f"of {_TURN} steps, for each contestant")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--threads", type=int, help="of torch; by default one for each core")
    parser.add_argument("--play", choices=CONTESTANTS, help=argparse.SUPPRESS)  # a contestant's process
    parser.add_argument("--alone", action="store_true", help="one after the other, for --epochs each")
    parser.add_argument("--epochs", type=int, default=12)
    for each in fields(Setting):
        if each.name not in ("folder", "epochs"):
            parser.add_argument(f"--{each.name.replace('_', '-')}", type=type(each.default), default=each.default)
    given = parser.parse_args()
    if given.alone and given.epochs < 3:
        parser.error("--alone measures from the third epoch on: --epochs must be 3 or more")
    setting = Setting(**{f.name: getattr(given, f.name, Path.cwd()) for f in fields(Setting)})
    if given.play is not None:
        play(given.play, setting, given.alone)
        return
    if given.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(given.threads)  # of the contestants
        torch.set_num_threads(given.threads)
    names = [name for name in dict.fromkeys(["bare", *given.contestants]) if installed(name)]
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        setting = replace(setting, folder=Path(folder))
        print("\n" + (one_by_one(names, setting) if given.alone else compete(names, given.turns, setting)))


if __name__ == "__main__":
    main()
