"""The training process's side of the delivery process: starts it, sends it requests, restarts it where it has died.

`courier` is the one instance of a process: all runs of a process share one delivery process, so that mlflow is imported
and held in memory once, and a sweep's jobs can use the one of their parent.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from lwexp.config.overrides import FOLDERS_URI
from lwexp.redaction import redact_answer

_GIVEN_UP = 3  # consecutive processes that failed before they delivered
_MODULE = "lwexp.tracking.delivery_process"


class _Process(subprocess.Popen[bytes]):
    """Suppresses Popen's warning: the process outlives us."""

    def __del__(self) -> None:
        """Leave it running."""


class _SharedProcess:
    """The delivery process of another process, which has shared its standard input."""

    pid = -1  # not ours; its failures are reported by the process that started it

    def __init__(self, requests: Connection) -> None:
        """`requests`: the writing end of its standard input."""
        self.stdin = open(requests.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
        self._requests = requests  # closes the descriptor when it is collected

    def poll(self) -> int | None:
        """None while something can read requests; nothing is written, since a stopped process reads nothing."""
        try:
            watched = select.poll()
            watched.register(self.stdin, 0)  # errors are reported whatever is asked for
            return 0 if watched.poll(0) else None
        except (OSError, ValueError):  # ValueError: closed here
            return 0


class DeliveryClient:
    """Starts the delivery process and sends it requests, one JSON object a line."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self.restart_seconds = 5.0  # between two starts
        self._process: _Process | _SharedProcess | None = None
        self._former: list[_Process | _SharedProcess] = []  # still running, with an earlier environment
        self._requests: dict[tuple[str, str | None], dict[str, Any]] = {}  # by folder and mirror (None: MLflow)
        self._environment: dict[str, str] = {}
        self._pid = os.getpid()
        self._started = 0.0
        self._errors: IO[bytes] | None = None  # standard error of the process
        self._failures: list[str] = []  # one line for each consecutive process that failed
        self._guard = threading.RLock()  # a sweep's parent run and its jobs are written by two threads
        atexit.register(self._close)

    def share(self) -> Connection | None:
        """The writing end of the process's standard input, for a child's `attach`; None if it cannot be passed on."""
        with self._guard:
            self.start()
            if not isinstance(self._process, _Process) or self._process.stdin is None or os.name != "posix":
                return None
            return Connection(os.dup(self._process.stdin.fileno()), readable=False)

    def attach(self, requests: Connection) -> None:
        """Send requests to the process behind `requests` as long as it lives."""
        self._environment = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self._process, self._pid, self._started = _SharedProcess(requests), os.getpid(), time.monotonic()

    def start(self) -> None:
        """Start the process unless it runs with the present MLFLOW_… variables; it imports mlflow at once."""
        with self._guard:
            settings = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
            if self._alive() and settings == self._environment:
                return
            self._close()
            if settings != self._environment:
                self._failures.clear()
            self._environment, self._started, self._pid = settings, time.monotonic(), os.getpid()
            with suppress(OSError):  # out of memory or processes: `keep_alive` tries again
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_close`)
            with suppress(OSError):
                self._process = _Process(
                    [sys.executable, "-m", _MODULE], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                    stderr=self._errors or subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            for request in self._requests.values():
                self._send(request)

    def deliver(self, folder: Path, uri: str, patience: float) -> None:
        """Deliver the run in `folder` from now on; if it is being delivered, end its current pause."""
        with self._guard:
            key = str(folder.absolute())  # the process may have been started in another folder
            trusted = uri != os.environ.get(FOLDERS_URI)
            self._request({"folder": key, "uri": uri, "patience": patience, "again": True, "trusted": trusted})

    def mirror(self, folder: Path, kind: str, options: Mapping[str, Any]) -> None:
        """Write the run in `folder` to the mirror `kind` from now on."""
        with self._guard:
            key = str(folder.absolute())
            self._request({"folder": key, "mirror": kind, "options": dict(options), "again": True})

    def _request(self, request: dict[str, Any]) -> None:
        self._requests[request["folder"], request.get("mirror")] = request
        started = self._process
        self.start()
        if self._process is started:  # a new process has received all requests
            self._send(request)

    def wake(self, folder: Path) -> None:
        """Deliver what the run in `folder` has written now, without waiting for a full batch."""
        with self._guard:
            for (name, _), request in self._requests.items():
                if name == str(folder.absolute()):
                    self._send({**request, "again": False})

    def forget(self, folder: Path) -> None:
        """Drop the request for the run in `folder`, which is complete."""
        with self._guard:
            for key in [key for key in self._requests if key[0] == str(folder.absolute())]:
                del self._requests[key]

    def keep_alive(self) -> None:
        """Start the process again if it has died."""
        with self._guard:
            if self._process is not None and self._pid == os.getpid() and (self._process.poll() or 0) > 0:  # not killed
                self._failures.append(f"the delivery process failed: {self._last_error_line()}")
                self._close()
            if not self._alive() and time.monotonic() - self._started > self.restart_seconds:
                self.start()

    def last_failure(self, pid: int) -> str | None:
        """Why the last process failed, in one line; cleared once the running one, `pid`, delivers."""
        if self._alive() and self._process is not None and self._process.pid == pid:
            self._failures.clear()
        return self._failures[-1] if self._failures else None

    @property
    def given_up(self) -> bool:
        """Whether to stop waiting for a process that delivers."""
        return len(self._failures) >= _GIVEN_UP

    def _last_error_line(self) -> str:
        if self._errors is None:
            return "no reason known"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return redact_answer(next((line.strip() for line in reversed(lines) if line.strip()), "no reason given"))[:300]

    def _alive(self) -> bool:
        return self._process is not None and self._pid == os.getpid() and self._process.poll() is None

    def _send(self, request: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has died: its successor receives all requests
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
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


courier = DeliveryClient()
