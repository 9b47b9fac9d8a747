"""lwexp's commands in processes of their own, which can be killed; and what they leave in a run's folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.helpers.processes import Process, WarmServer, clean_environment

TRACEBACK = "Traceback (most recent call last)"
# A recurrent network on 8×8 digits with all that is random in it: two layers with dropout between, augmented images
TINY = (
    "model=lstm", "model.hidden_size=8", "model.dropout=0.1", "data.image_size=8", "grouping=per_parameter",
    "policy=cosine", "policy.warmup_steps=5", "lr=0.02", "mult=0.9", "batch_size=64", "epochs=3",
    "progress=false", "device=cpu",
)  # fmt: skip


@dataclass
class Command:
    """A running or ended command. `code` is None while it runs, negative where a signal ended it."""

    arguments: Sequence[str]
    out_file: Path
    err_file: Path
    pid: int = 0
    code: int | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0  # how long it ran
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def out(self) -> str:
        return self.out_file.read_text(errors="replace") if self.out_file.exists() else ""

    @property
    def err(self) -> str:
        return self.err_file.read_text(errors="replace") if self.err_file.exists() else ""

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err

    def wait(self, timeout: float = 120.0) -> int:
        """Its exit code; fails where it does not end."""
        assert self.ended.wait(timeout), f"{self.arguments} still runs after {timeout} s:\n{self.text[-3000:]}"
        assert self.code is not None
        return self.code

    def succeeded(self, timeout: float = 120.0) -> Command:
        """Itself, ended with code 0 and no traceback."""
        code = self.wait(timeout)
        assert code == 0, f"exit code {code} of {' '.join(self.arguments)}\n{self.text[-4000:]}"
        assert TRACEBACK not in self.text, self.text[-4000:]
        return self

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.code is None and self.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(20)

    def end(self, code: int) -> None:
        self.code, self.seconds = code, time.monotonic() - self.started
        self.ended.set()


class Launcher:
    """Starts commands in `folder`; `warm` ones from a process that has imported everything already.

    Commands take `environment` on top of ours without MLflow's, Hydra's and the hooks' variables. `close` ends what
    still runs, delivery processes of runs below `folder` too.
    """

    def __init__(self, folder: Path, warm: WarmServer | None) -> None:
        self.folder, self._warm, self._commands = folder, warm, list[Command]()

    def __call__(
        self, name: str, *arguments: str, environment: Mapping[str, object] | None = None, cwd: Path | None = None
    ) -> Command:
        """Start `python -m lwexp.<name> <arguments>`."""
        logs = self.folder / "commands"
        logs.mkdir(exist_ok=True)
        number = len(self._commands)
        command = Command((name, *arguments), logs / f"{number}.out", logs / f"{number}.err")
        given = {**clean_environment("FAULTS_"), **{key: str(value) for key, value in (environment or {}).items()}}
        folder = cwd or self.folder
        process = _start_warm(self._warm, command, folder, given) if self._warm else _start_cold(command, folder, given)
        command.pid = process.pid
        threading.Thread(target=lambda: command.end(process.wait()), daemon=True).start()
        self._commands.append(command)
        return command

    def outputs(self) -> str:
        """All that all commands have written, and the log files of all runs."""
        logs = [path.read_text(errors="replace") for path in self.folder.rglob("*.log")]
        return "\n".join([*(command.text for command in self._commands), *logs])

    def close(self) -> None:
        for command in self._commands:
            command.signal(signal.SIGKILL)
        for pid in delivery_processes(self.folder):
            kill(pid)


def _start_warm(warm: WarmServer, command: Command, folder: Path, environment: Mapping[str, str]) -> Process:
    hooks = ["tests.system.faults.hooks:install"]
    if environment.get("FAULTS_PICTURES") != "1":
        hooks.append("tests.system.faults.hooks:leave_pictures_out")
    with command.out_file.open("ab") as out, command.err_file.open("ab") as err:
        return warm.start(*command.arguments, cwd=folder, environment=environment, stdout=out, stderr=err, before=hooks)


def _start_cold(command: Command, folder: Path, environment: Mapping[str, str]) -> Process:
    name, *arguments = command.arguments
    hooked = any(key.startswith("FAULTS_") for key in environment)
    module = ["tests.system.faults.cold", name] if hooked else [f"lwexp.{name}"]
    with command.out_file.open("ab") as out, command.err_file.open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", *module, *arguments], cwd=folder, env=dict(environment),
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, text=True, start_new_session=True,
        )  # fmt: skip


# ----------------------------------------------------------------------------------------------- delivery processes


def delivery_processes(folder: Path) -> list[int]:
    """The delivery processes that work on runs at or below `folder`: they have a file of theirs open."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "lwexp.tracking.delivery_process" in words and (
                any(word.startswith(str(folder)) for word in words) or _has_open(process, folder)
            ):
                found.append(int(process.name))
    return found


def _has_open(process: Path, folder: Path) -> bool:
    for number in (process / "fd").iterdir():
        with suppress(OSError):
            if number.readlink().is_relative_to(folder):
                return True
    return False


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), 20, f"the end of process {pid}")


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)
    return value


# ------------------------------------------------------------------------------------------------ what a run leaves


def weights(folder: Path) -> dict[str, dict[str, bytes]]:
    """file -> tensor -> bytes, of the weights in a run's folder."""
    return {
        name: {key: tensor.contiguous().view(torch.uint8).numpy().tobytes() for key, tensor in _tensors(folder / name)}
        for name in ("model.safetensors", "best.safetensors")
    }


def _tensors(path: Path) -> list[tuple[str, torch.Tensor]]:
    return [(key, tensor.reshape(-1)) for key, tensor in sorted(load_file(path).items())]


def step_seconds(path: Path) -> list[float]:
    """Seconds from each optimizer step to the next, of a file that FAULTS_STEP_TIMES named."""
    moments = [float(line) for line in path.read_text().split()]
    return [later - earlier for earlier, later in pairwise(moments)]


def journal_bytes(folder: Path) -> int:
    """How much a run has written to its journal."""
    path = folder / "journal.lwexp"
    return path.stat().st_size if path.exists() else 0
