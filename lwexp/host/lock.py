"""Locks on files that end with the process that holds them, however it ends, and that its children do not inherit.

By hand, since `filelock` uses `flock`, which a forked data worker that outlives the process keeps.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

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

    def release(self) -> None:
        """Free the lock, if it is held."""
        if self._descriptor is not None:
            with _guard:
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
