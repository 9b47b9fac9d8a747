"""Mirrors: TensorBoard and W&B, fed from a run's journal beside MLflow or in its place.

A mirror reads the journal in the delivery process. The position behind what the tool has flushed is saved, so that
nothing is missing however often it is interrupted; entries just behind it are written twice where the delivery process
is killed between the two: at least once, with the same step and value.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.errors import ConfigError, RunError
from lwexp.formatting import one_line
from lwexp.host.files import atomic_write
from lwexp.host.lock import Lock

from .journal import FILE, Entry, Reader, Rows, run_record

_POLL_SECONDS = 1.0
_LOCK_SECONDS = 5.0  # a mirror that has just written its last rows still holds the run
_IMAGES = {".png", ".jpg", ".jpeg"}


NAMES = {"tensorboard": "TensorBoard", "wandb": "W&B"}


class Writer(Protocol):
    """Writes one run to a tool; the record of the run is the journal's."""

    where: str  # where the tool finds the run

    def rows(self, rows: Rows) -> None:
        """Write the metrics of a step."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Write tags."""

    def image(self, name: str, path: Path) -> None:
        """Write a picture."""

    def flush(self) -> None:
        """Return once all that was written would survive the death of this process."""

    def close(self, status: str | None) -> None:
        """End the session; `status` is the final one of the run, None for one whose process died."""


@dataclass
class MirrorState:
    """How far a mirror has come; the fields are those of its file."""

    position: int = 0  # bytes of the journal that the tool has
    rows: int = 0  # metric rows among them
    status: str | None = None  # the final one of the run; None while it is open
    where: str = ""
    problem: str | None = None  # why it stopped


def packages(config: MLflowConfig | NoTrackingConfig) -> None:
    """Raise `ConfigError` for a mirror whose package is not installed."""
    for kind in mirrors_of(config):
        if importlib.util.find_spec(kind) is None:
            why = f"needs the package {kind}: pip install 'lwexp[{kind}]'"
            raise ConfigError("tracking", kind, why)


def mirrors_of(config: MLflowConfig | NoTrackingConfig) -> dict[str, dict[str, Any]]:
    """The options of each mirror that the config names, by its kind."""
    named = {"tensorboard": config.tensorboard, "wandb": config.wandb}
    return {kind: section.model_dump() for kind, section in named.items() if section is not None}


def recorded_mirrors(folder: Path) -> dict[str, dict[str, Any]]:
    """The mirrors of the run in `folder`, as they were when it was started or last resumed."""
    found: dict[str, dict[str, Any]] = {}
    if (folder / FILE).is_file():
        for entry in Reader(folder / FILE).entries():
            if entry.kind in ("run", "resumed"):
                found = entry.value.get("mirrors", found)
    known = found if isinstance(found, dict) else {}
    return {kind: options for kind, options in known.items() if kind in NAMES and isinstance(options, dict)}


def state_file(kind: str) -> str:
    """The name of a mirror's state in the run's folder."""
    return f"delivery.{kind}.json"


def lock_file(kind: str) -> str:
    """The name of a mirror's lock in the run's folder."""
    return f"delivery.{kind}.lock"


def read_mirror(folder: Path, kind: str) -> MirrorState:
    """The state in `folder`; the initial one if there is none or it cannot be read."""
    try:
        found = json.loads((folder / state_file(kind)).read_text(encoding="utf-8"))
        known = {known.name for known in fields(MirrorState)}
        return MirrorState(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return MirrorState()


class Mirror:
    """Writes the run in `folder` to the tool `kind` until the run's end, or until its training process is gone."""

    def __init__(
        self, folder: Path, kind: str, options: Mapping[str, Any], run_lock: str, wake: threading.Event | None = None
    ) -> None:
        """Write nothing yet. `run_lock`: the file that the training process locks; `wake` ends a pause early."""
        self.folder, self.kind, self._options = folder, kind, options
        self._wake, self._training = wake or threading.Event(), Lock(folder / run_lock)
        self._writer: Writer | None = None
        self.state = read_mirror(folder, kind)

    def run(self) -> None:
        """Write; `state` says how far it came."""
        with Lock(self.folder / lock_file(self.kind)) as lock:
            if not lock.acquire(_LOCK_SECONDS):
                return  # another process writes this run
            self.state = read_mirror(self.folder, self.kind)
            if self.state.position > (self.folder / FILE).stat().st_size:
                self.state = MirrorState()  # of another journal
            self.state.problem = None
            self._save()
            reader = Reader(self.folder / FILE)
            reader.skip_to(self.state.position)
            status = None
            try:
                status = self._write_all(reader)
            finally:
                if self._writer is not None:
                    self._writer.close(status)
            self._save(reader.position)

    def fail(self, error: Exception) -> None:
        """Record why it stopped, where the training process reads it; what was not yet saved is written again."""
        self.state = replace(read_mirror(self.folder, self.kind), problem=one_line(error))
        self._save()

    def _write_all(self, reader: Reader) -> str | None:
        """Write until the end of the run, whose status it returns; None where the training process is gone."""
        while True:
            gone = self._training.free  # before reading: nothing is written afterwards
            new = self._write_new(reader)
            if not new and (self.state.status is not None or gone):
                return self.state.status
            if not new:
                self._wake.wait(_POLL_SECONDS)
                self._wake.clear()

    def _write_new(self, reader: Reader) -> bool:
        """Write the entries from the reader's position on; returns whether there were any."""
        before = reader.position
        for entry in reader.entries():
            self._write(entry)
        if reader.position == before:
            return False
        if self._writer is not None:
            self._writer.flush()
        if self.state.status is None:  # its end is saved once the tool is closed, which may write the rest only then
            self._save(reader.position)
        return True

    def _write(self, entry: Entry) -> None:
        writer, value = self._opened(), entry.value
        if entry.kind == "rows":
            writer.rows(value)
            self.state.rows += len(value.keys)
        elif entry.kind == "tags":
            writer.tags(value)
        elif entry.kind == "artifact":
            path = self.folder / value["path"]
            inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder))
            if path.suffix.lower() in _IMAGES and inside and path.is_file():
                writer.image(path.stem, path)
        elif entry.kind == "resumed":
            self.state.status = None
        elif entry.kind == "end":
            self.state.status = value["status"]

    def _opened(self) -> Writer:
        if self._writer is None:
            record = run_record(self.folder)
            if record is None:
                raise RunError(f"{self.folder / FILE} does not say which run it is")
            self._writer = _open(self.kind, self.folder, record, self._options, first=self.state.position == 0)
            self.state.where = self._writer.where
        return self._writer

    def _save(self, position: int | None = None) -> None:
        self.state.position = self.state.position if position is None else position
        with suppress(OSError):  # a full disk: the saved state lags behind
            atomic_write(self.folder / state_file(self.kind), json.dumps(asdict(self.state)), durable=False)


def _open(kind: str, folder: Path, record: Mapping[str, Any], options: Mapping[str, Any], *, first: bool) -> Writer:
    if (folder / kind).is_symlink():  # the folder may come from somebody else
        raise RunError(f"{kind} in the run's folder is a link to another place")
    if kind == "tensorboard":
        from .tensorboard_writer import TensorBoardWriter

        return TensorBoardWriter(folder, record, first=first)
    from .wandb_writer import WandbWriter

    return WandbWriter(folder, record, options)


def how_to_look(kind: str, where: str) -> str:
    """The command that shows the run, and those beside it."""
    if kind == "tensorboard":
        return shlex.join(["tensorboard", "--logdir", os.path.relpath(Path(where).parents[2])])
    return where
