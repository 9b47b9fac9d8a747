"""Locks that end with the process that holds them, however it ends, and that its children do not inherit.

`Lock` is that of one file; by hand, since `filelock` uses `flock`, which a forked data worker that outlives the process
keeps. `FolderLock` makes a process the one owner of a run's or a sweep's folder, and says who owns it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from lwexp.errors import ConfigError

from .files import atomic_write, remove_temporaries
from .signals import STOP, held_back

log = logging.getLogger(__name__)

FOLDER_LOCK, OWNER = "owner.lock", "owner.json"  # the files of a `FolderLock`
BEAT_SECONDS = 5.0  # between two signs of life of an owner
SILENT_SECONDS = 30.0  # without one, after which an owner on another machine is dead

_PAUSE = 0.05
# POSIX record locks do not exclude two holders in one process
_held_here: set[Path] = set()
_guard = threading.Lock()  # of the set, and of what must change with it


class Lock:
    """The lock of one file. Leaving the `with` block, `release` or the end of the process frees it.

    POSIX record locks (`fcntl.lockf`): unlike those of `flock`, a forked data worker that outlives the process does
    not keep them. The file is never opened anywhere else: closing any descriptor of it would free the lock.
    """

    def __init__(self, path: Path) -> None:
        """Takes nothing yet; `acquire` creates the file."""
        self.path = Path(os.path.realpath(path))
        self._descriptor: int | None = None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Whether the lock could be taken within `seconds`. Raises `OSError` where the file cannot be created."""
        deadline = time.monotonic() + seconds
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def release(self, *, remove: bool = False) -> None:
        """Free the lock, if it is held; `remove` deletes the file first, while no other process can have the lock."""
        if self._descriptor is not None:
            with _guard:
                if remove:
                    with suppress(OSError):  # Windows cannot delete an open file
                        self.path.unlink()
                _held_here.discard(self.path)
                os.close(self._descriptor)
                self._descriptor = None

    @property
    def free(self) -> bool:
        """Whether no process holds it."""
        if not self.path.exists():
            return True
        free = self._try()
        self.release()
        return free

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the lock."""
        self.release()

    def __enter__(self) -> Lock:
        """Hold what `acquire` took until the block ends."""
        return self

    def _try(self) -> bool:
        with _guard:
            return self._take()

    def _take(self) -> bool:
        if self.path in _held_here:
            return False
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):  # POSIX allows both EAGAIN and EACCES
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        if not _is_file_of(descriptor, self.path):  # its last holder has just removed it
            os.close(descriptor)
            return self._take()
        self._descriptor = descriptor
        _held_here.add(self.path)
        return True


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Owner:
    """The process that owns a folder."""

    pid: int
    host: str
    since: float  # seconds since the Unix epoch

    def __str__(self) -> str:
        """For users: which process, where, since when."""
        return (
            f"process {self.pid} on {self.host} since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}"
        )


@dataclass
class _Hold:
    """A folder that this process owns: by which thread, taken how often, and what ends its signs of life."""

    lock: Lock
    pid: int = field(default_factory=os.getpid)
    thread: int = field(default_factory=threading.get_ident)
    count: int = 1
    released: threading.Event = field(default_factory=threading.Event)


_holds: dict[Path, _Hold] = {}


class FolderLock:
    """Makes this process the only owner of a folder until `release`, the end of the `with` block, or its own end.

    As `threading.RLock`, a thread that has it may take it again. The file `owner.json` names the owner.

    Some network file systems keep locks on each machine for itself. There the owner's signs of life decide: it touches
    `owner.json` every few seconds. An owner on another machine that stays silent for half a minute is dead, and so is
    one on this machine that has left the lock.
    """

    def __init__(self, folder: Path) -> None:
        """Takes nothing yet; `acquire` makes the folder."""
        self.folder = Path(os.path.realpath(folder))
        self._record = self.folder / OWNER
        self._taken = 0

    def acquire(self, key: str, value: object) -> FolderLock:
        """Own the folder; returns the lock itself, for `with`.

        Raises `ConfigError` for the option `key` with `value`, which chose the folder, where another process owns it,
        or where the folder cannot be made, written or locked.
        """
        hold = _holds.get(self.folder)
        if hold is not None and (hold.pid, hold.thread) == (os.getpid(), threading.get_ident()):
            hold.count += 1
            self._taken += 1
            return self
        lock = Lock(self.folder / FOLDER_LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            locked = lock.acquire()
            if not locked or self._lives_elsewhere():
                lock.release()
                raise ConfigError(key, value, self._in_use())
        except OSError as error:
            lock.release(remove=True)
            why = f"the folder {self.folder} cannot be locked for this process: {error.strerror or error}"
            raise ConfigError(key, value, f"{why}; use a folder on another disk") from error
        except BaseException:
            lock.release()
            raise
        remove_temporaries(self.folder, of=OWNER)
        with suppress(OSError):  # a full disk: the lock alone decides
            atomic_write(self._record, json.dumps(asdict(_this_process())), durable=False)
        hold = _holds[self.folder] = _Hold(lock)
        self._taken += 1
        with held_back(STOP):  # an interrupted start of a thread may never end
            threading.Thread(target=self._beat, args=(hold.released,), name="owner of a folder", daemon=True).start()
        return self

    def release(self) -> None:
        """Take back one `acquire`; the first one's frees the folder."""
        hold = _holds.get(self.folder)
        if not self._taken or hold is None or hold.pid != os.getpid():
            return
        self._taken -= 1
        hold.count -= 1
        if not hold.count:
            del _holds[self.folder]
            hold.released.set()
            with suppress(OSError):
                self._record.unlink()
            hold.lock.release(remove=True)

    @property
    def owner(self) -> Owner | None:
        """Who owns the folder, or owned it when it was killed; None if that is not written."""
        try:
            return Owner(**json.loads(self._record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def __enter__(self) -> FolderLock:
        """Hold what `acquire` took until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()

    def _in_use(self) -> str:
        return (
            f"{self.folder} is in use by {self.owner or 'another process'}; "
            "wait for it or stop it, or use another folder"
        )

    def _lives_elsewhere(self) -> bool:
        """Whether a process on another machine owns the folder, although this machine's lock is free."""
        owner = self.owner
        if owner is None or owner.host == socket.gethostname():
            return False
        beat, silent = self._last_beat(), self._seconds_since_beat()
        if silent < SILENT_SECONDS:
            text = "%s: %s has not said that it ended; waiting up to %.0f s for a sign of life"
            log.warning(text, self.folder, owner, SILENT_SECONDS - silent)
        deadline = time.monotonic() + SILENT_SECONDS - silent
        while time.monotonic() < deadline:
            if self._last_beat() != beat:
                return self.owner is not None  # it has removed the file: it ended
            time.sleep(min(1.0, BEAT_SECONDS / 4))
        return False

    def _last_beat(self) -> float:
        try:
            with self._record.open("rb") as file:  # a network file system asks its server when a file is opened
                return os.fstat(file.fileno()).st_mtime
        except OSError:
            return 0.0

    def _seconds_since_beat(self) -> float:
        """By the file system's own clock, which may differ from this machine's."""
        path = self.folder / FOLDER_LOCK
        os.utime(path)
        return max(0.0, path.stat().st_mtime - self._last_beat())

    def _beat(self, released: threading.Event) -> None:
        while not released.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._record)


def _this_process() -> Owner:
    return Owner(os.getpid(), socket.gethostname(), time.time())
