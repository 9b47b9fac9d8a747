"""The delivery process, `python -m lwexp.tracking.delivery_process`: delivers the runs of the process that started it.

Requests come as lines of JSON on standard input, so that an address with a password appears in no command line and no
file. The process outlives its parent: it ends when its input has ended and every delivery is complete or given up. It
runs in its own session, so neither Ctrl-C nor a closed terminal reaches it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from .delivery import RUN_LOCK, Delivery
from .mirror import Mirror
from .store import import_quietly

_Key = tuple[str, str | None]  # folder of the run, kind of the mirror (None: MLflow)


def _key(request: dict[str, Any]) -> _Key:
    return request["folder"], request.get("mirror")


def _delivery(request: dict[str, Any], wake: threading.Event) -> Delivery | Mirror:
    folder = Path(request["folder"])
    if "mirror" in request:
        return Mirror(folder, request["mirror"], request["options"], RUN_LOCK, wake)
    return Delivery(folder, request["uri"], patience=request["patience"], wake=wake, trusted=request["trusted"])


class DeliveryServer:
    """Runs one thread for each run that is being delivered, and one for each of its mirrors."""

    def __init__(self) -> None:
        """Deliver nothing yet."""
        self._lock = threading.Lock()
        self._wakes: dict[_Key, threading.Event] = {}
        self._next: dict[_Key, dict[str, Any]] = {}  # requests for runs that are being delivered
        self._threads: list[threading.Thread] = []

    def handle(self, request: dict[str, Any]) -> None:
        """Start a delivery, or end the pause of the running one; with `again`, repeat it once it is complete."""
        key = _key(request)
        with self._lock:
            if key in self._wakes:
                if request["again"]:
                    self._next[key] = request
                self._wakes[key].set()
                return
            wake = self._wakes[key] = threading.Event()
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._deliver, args=(request, wake)))
            self._threads[-1].start()

    def finish(self) -> None:
        """Wait for every delivery to end."""
        with self._lock:
            threads = list(self._threads)
            for wake in self._wakes.values():
                wake.set()
        for thread in threads:
            thread.join()

    def _deliver(self, request: dict[str, Any], wake: threading.Event) -> None:
        key = _key(request)
        while True:
            delivery = _delivery(request, wake)
            try:
                delivery.run()
            except Exception as error:  # reported by the training process, which reads the delivery state
                delivery.fail(error)
                traceback.print_exc()
            with self._lock:
                if key not in self._next:
                    del self._wakes[key]
                    return
                request = self._next.pop(key)


def main() -> None:
    """Read requests and deliver."""
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows lacks some
            # for the training process; clusters signal every process of a job
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # Windows has no `nice`
        os.nice(10)
    import_quietly()
    server = DeliveryServer()
    for line in sys.stdin:
        if line.strip():  # an empty line only tests whether this process reads
            server.handle(json.loads(line))
    server.finish()


if __name__ == "__main__":
    main()
