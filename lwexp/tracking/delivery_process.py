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

from .delivery import Delivery
from .store import import_quietly


class DeliveryServer:
    """Runs one thread for each run that is being delivered."""

    def __init__(self) -> None:
        """Deliver nothing yet."""
        self._lock = threading.Lock()
        self._wakes: dict[str, threading.Event] = {}
        self._next: dict[str, dict[str, Any]] = {}  # requests for runs that are being delivered
        self._threads: list[threading.Thread] = []

    def handle(self, request: dict[str, Any]) -> None:
        """Start a delivery, or end the pause of the running one; with `again`, repeat it once it is complete."""
        folder = request["folder"]
        with self._lock:
            if folder in self._wakes:
                if request["again"]:
                    self._next[folder] = request
                self._wakes[folder].set()
                return
            wake = self._wakes[folder] = threading.Event()
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
        folder = request["folder"]
        while True:
            delivery = Delivery(
                Path(folder), request["uri"], patience=request["patience"], wake=wake, trusted=request["trusted"]
            )
            try:
                delivery.run()
            except Exception as error:  # reported by the training process, which reads the delivery state
                delivery.fail(error)
                traceback.print_exc()
            with self._lock:
                if folder not in self._next:
                    del self._wakes[folder]
                    return
                request = self._next.pop(folder)


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
