"""Checkpoint files: the whole state of a training, written atomically; the newest few are kept.

A file `step_00000120.ckpt` is what `torch.save` writes, read with `weights_only=True`, so it executes no code. Beside
it, `step_00000120.best.safetensors` holds the best weights of that time (a hard link: no space while they stay best).
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lwexp.errors import RunError
from lwexp.formatting import one_line
from lwexp.host.files import link_or_copy, replacing

log = logging.getLogger(__name__)
FORMAT = 1  # of the state; a file of another one is not read
_NAME = re.compile(r"step_(\d+)\.ckpt")
_TEMPORARY = ".writing-"


class CheckpointFiles:
    """The checkpoints of one training, in a folder of their own."""

    def __init__(
        self, folder: Path, *, every_steps: int | None, every_minutes: float | None, keep: int, at_end: bool = False
    ) -> None:
        """A checkpoint is due `every_steps` optimizer steps or `every_minutes` minutes after the last one.

        With `at_end`, also after the last step, unless both are None. The newest `keep` stay. `folder` is created with
        the first.
        """
        self.folder = folder
        self.at_end = at_end and (every_steps is not None or every_minutes is not None)
        self._every_steps, self._every_minutes, self._keep = every_steps, every_minutes, keep
        self.saved_step: int | None = None  # of the last one in this process's time
        self._read_back = False
        self.begin(0)

    def begin(self, step: int) -> None:
        """The training starts or resumes at optimizer step `step`; the next checkpoint is counted from here."""
        self._step, self._time = step, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` optimizer steps."""
        if self._every_steps is not None and step - self._step >= self._every_steps:
            return True
        return self._every_minutes is not None and time.monotonic() - self._time >= 60 * self._every_minutes

    def go_back(self, step: int) -> bool:
        """The training is back at optimizer step `step`; returns whether there are checkpoints of later steps."""
        self.saved_step = None
        self.begin(step)
        return any(_step(path) > step for path in self.paths())

    def paths(self) -> list[Path]:
        """All checkpoints, the newest first."""
        try:
            found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path for _, path in sorted(found, reverse=True)]

    def best_weights(self, step: int) -> Path:
        """Where the best weights of the checkpoint of `step` are, if it has any."""
        return self.folder / f"step_{step:08d}.best.safetensors"

    def save(self, state: Mapping[str, Any], step: int, best: Path | None = None) -> Path:
        """Write `state` after `step` optimizer steps, and keep the file `best` with it.

        Files of later steps, from before a resume, are removed. Raises `RunError` if it cannot be written, with the
        earlier checkpoints intact, and if the first one of this process cannot be read back.
        """
        path = self.folder / f"step_{step:08d}.ckpt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_temporary()
            if best is not None:
                link_or_copy(best, self.best_weights(step), temporary=_temporary_name())
            self._write(path, {"format": FORMAT, **state})
        except OSError as error:
            raise RunError(f"cannot write the checkpoint {path}: {_line(error)}; {self._left()}") from error
        self._prune(step)
        self.note_saved(step)
        return path

    def note_saved(self, step: int) -> None:
        """A checkpoint was saved after `step` optimizer steps, by this rank or by rank 0."""
        self.saved_step = step
        self.begin(step)

    def newest(self) -> dict[str, Any] | None:
        """The state in the newest intact file, None if there is none; logs a warning for each damaged one."""
        for path in self.paths():
            try:
                state = _read(path)
            except Exception as error:  # a damaged file makes unpickling fail in any way
                log.warning("the checkpoint %s cannot be used: %s", path, _line(error))
                continue
            return state
        return None

    def restore_best(self, step: int, path: Path) -> bool:
        """Restore `path` to the best weights of the checkpoint of `step`; returns whether it has any."""
        kept = self.best_weights(step)
        if not kept.is_file():
            return False
        try:
            link_or_copy(kept, path, temporary=_temporary_name())
        except OSError as error:
            raise RunError(f"cannot restore {path}: {_line(error)}") from error
        return True

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        with replacing(path, temporary=_temporary_name()) as temporary:
            with temporary.open("wb") as opened:
                file = _Watched(opened)
                try:
                    torch.save(dict(state), file)  # type: ignore[arg-type]  # only `write` and `flush` are used
                except Exception as error:
                    if file.error is not None:  # torch's own error lacks the reason
                        raise file.error from error
                    raise RunError(f"cannot make the checkpoint {path}: {_line(error)}") from error
            if not self._read_back:  # the files of a process are alike, so one check is enough
                _check_readable(temporary, path)
                self._read_back = True

    def _prune(self, step: int) -> None:
        """Remove all but the newest ones up to `step`."""
        up_to_now = [path for path in self.paths() if _step(path) <= step][: self._keep]
        kept = {_step(path) for path in up_to_now}
        for path in self.folder.glob("step_*"):
            match = re.match(r"step_(\d+)\.", path.name)
            if match and int(match[1]) not in kept:
                with suppress(OSError):  # harmless if it stays
                    path.unlink()

    def _remove_temporary(self) -> None:
        """Remove partial files of a killed process."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                path.unlink()

    def _left(self) -> str:
        paths = self.paths()
        return f"{paths[0].name} is intact" if paths else "there is no earlier one"


class _Watched:
    """A file that keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise


def _read(path: Path) -> dict[str, Any]:
    """The state in `path`; raises any exception for an incomplete file."""
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with zipfile.ZipFile(path) as archive:  # torch itself does not verify checksums
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the file is damaged, the checksum of {damaged} differs")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError("the file is not an lwexp checkpoint")
    if state["format"] != FORMAT:
        raise ValueError(f"its format is {state['format']}, this version of lwexp reads {FORMAT}")
    return state


def _check_readable(file: Path, path: Path) -> None:
    """Raise `RunError` if the state in `file` cannot be loaded again."""
    try:
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        found = str(error).rpartition("WeightsUnpickler error:")[2].split("Please")[0]
        raise RunError(f"the checkpoint {path} could not be loaded again: {_line(ValueError(found))}") from error


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_").split(".")[0])


def _temporary_name() -> str:
    return f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


def _line(error: BaseException) -> str:
    return one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
