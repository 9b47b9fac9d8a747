"""The delivery process: started by the training process once, it delivers all of that process's runs and outlives it.

Orders come as lines of JSON through its standard input; an address with a password appears in no command line and in
no file. It ends when its input has ended and every delivery is done or given up. It is in a session of its own, so
neither a Ctrl-C nor a closed terminal reaches it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from lwexp.redaction import redact

_RESPAWN_SECONDS = 5.0
_HOPELESS = 3  # processes in a row that failed before they delivered


class _Process(subprocess.Popen[bytes]):
    """A process that is meant to outlive us: Python has nothing to say about that when we end."""

    def __del__(self) -> None:
        """Leave it alone."""


class _Lent:
    """A delivery process of another process of ours, which has lent its input."""

    pid = -1  # another's; its failures are told by whoever started it

    def __init__(self, orders: Connection) -> None:
        """`orders`: the writing end of its input."""
        self.stdin = open(orders.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
        self._orders = orders  # closes the descriptor when it goes

    def poll(self) -> int | None:
        """None while it reads its orders; an empty line is none."""
        try:
            self.stdin.write(b"\n")
        except (OSError, ValueError):  # ValueError: closed here
            return 0
        return None


class Courier:
    """The training process's side: starts the delivery process, and starts it again where it has died."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._process: _Process | _Lent | None = None
        self._former: list[_Process | _Lent] = []  # at work with the environment of before
        self._orders: dict[str, dict[str, Any]] = {}  # by folder: what is to be delivered
        self._environment: dict[str, str] = {}
        self._pid = os.getpid()
        self._started = 0.0
        self._errors: IO[bytes] | None = None  # what the process writes to its standard error
        self._failures: list[str] = []  # the last words of processes in a row that failed
        self._guard = threading.RLock()  # a sweep's own run and its jobs' are written by two threads
        atexit.register(self._close)

    def lend(self) -> Connection | None:
        """The writing end of the process's input, for a child's `borrow`; None where it cannot be passed on."""
        with self._guard:
            self.start()
            if not isinstance(self._process, _Process) or self._process.stdin is None or os.name != "posix":
                return None
            return Connection(os.dup(self._process.stdin.fileno()), readable=False)

    def borrow(self, orders: Connection) -> None:
        """Have this process's runs delivered by the process that `orders` leads to, as long as it lives."""
        self._environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self._process, self._pid, self._started = _Lent(orders), os.getpid(), time.monotonic()

    def start(self) -> None:
        """Have the process running, with MLflow's settings of the present environment; it imports mlflow at once."""
        with self._guard:
            settings = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
            if self._alive() and settings == self._environment:
                return
            self._close()
            if settings != self._environment:
                self._failures.clear()
            self._environment, self._started, self._pid = settings, time.monotonic(), os.getpid()
            with suppress(OSError):  # no memory, no processes left: tried again at the next look
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_close`)
            with suppress(OSError):
                self._process = _Process(
                    [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                    stderr=self._errors or subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            for order in self._orders.values():
                self._send(order)

    def deliver(self, folder: Path, uri: str, patience: float) -> None:
        """Deliver the run in `folder` from now on, or go on at once where it is being delivered."""
        with self._guard:
            self._orders[str(folder)] = {"folder": str(folder), "uri": uri, "patience": patience, "again": True}
            started = self._process
            self.start()
            if self._process is started:  # else it has got all orders
                self._send(self._orders[str(folder)])

    def wake(self, folder: Path) -> None:
        """Deliver what the run in `folder` has written at once, not with the next batch."""
        with self._guard:
            if str(folder) in self._orders:
                self._send({**self._orders[str(folder)], "again": False})

    def forget(self, folder: Path) -> None:
        """The run in `folder` needs nothing any more."""
        self._orders.pop(str(folder), None)

    def look(self) -> None:
        """Start the process again where it has died."""
        with self._guard:
            if self._process is not None and self._pid == os.getpid() and (self._process.poll() or 0) > 0:  # not killed
                self._failures.append(f"the delivery process has failed: {self._last_words()}")
                self._close()
            if not self._alive() and time.monotonic() - self._started > _RESPAWN_SECONDS:
                self.start()

    def trouble(self, pid: int) -> str | None:
        """The last failure in one line, where processes fail; forgotten once the living one, `pid`, delivers."""
        if self._alive() and self._process is not None and self._process.pid == pid:
            self._failures.clear()
        return self._failures[-1] if self._failures else None

    @property
    def hopeless(self) -> bool:
        """Whether another attempt is not worth a wait."""
        return len(self._failures) >= _HOPELESS

    def _last_words(self) -> str:
        """The last line that the process has written to its standard error."""
        if self._errors is None:
            return "no reason known"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return redact(next((line.strip() for line in reversed(lines) if line.strip()), "no reason given"))[:300]

    def _alive(self) -> bool:
        return self._process is not None and self._pid == os.getpid() and self._process.poll() is None

    def _send(self, order: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has died: all orders go to its successor
                self._process.stdin.write(json.dumps(order).encode() + b"\n")
                self._process.stdin.flush()

    def _close(self) -> None:
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        if self._process is not None and self._process.stdin is not None and self._pid == os.getpid():
            with suppress(OSError):
                self._process.stdin.close()
            self._former = [process for process in [*self._former, self._process] if process.poll() is None]
        self._process = None


courier = Courier()


class _Desk:
    """The delivery process's side: one thread for each run that is being delivered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: dict[str, threading.Event] = {}
        self._next: dict[str, dict[str, Any]] = {}  # orders that came while their run was being delivered
        self._threads: list[threading.Thread] = []

    def take(self, order: dict[str, Any]) -> None:
        """Begin a delivery, or have the one at work go on at once; `again`: and look once more when it is done."""
        folder = order["folder"]
        with self._lock:
            if folder in self._wakes:
                if order["again"]:
                    self._next[folder] = order
                self._wakes[folder].set()
                return
            wake = self._wakes[folder] = threading.Event()
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._work, args=(order, wake)))
            self._threads[-1].start()

    def finish(self) -> None:
        """Return when every delivery has come to its end."""
        with self._lock:
            threads = list(self._threads)
            for wake in self._wakes.values():
                wake.set()
        for thread in threads:
            thread.join()

    def _work(self, order: dict[str, Any], wake: threading.Event) -> None:
        from .delivery import Delivery

        folder = order["folder"]
        while True:
            delivery = Delivery(Path(folder), order["uri"], patience=order["patience"], wake=wake)
            try:
                delivery.run()
            except Exception as error:  # told by the training process, which reads the place
                delivery.fail(error)
                traceback.print_exc()
            with self._lock:
                if folder not in self._next:
                    del self._wakes[folder]
                    return
                order = self._next.pop(folder)


def main() -> None:
    """Take orders and deliver."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # not all are there on Windows
            # meant for the training; clusters signal every process of a job
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # no such thing on Windows
        os.nice(10)
    from .store import quiet

    quiet()
    desk = _Desk()
    for line in sys.stdin:
        if line.strip():  # an empty one only asks whether anybody reads
            desk.take(json.loads(line))
    desk.finish()


if __name__ == "__main__":
    main()
