"""A process with lwexp's imports done, which forks a process for each command asked of it.

To import torch and timm takes a fresh process eight seconds; most commands of tests take one. What is forked here
behaves as `python -m lwexp.<name>`: a process in a session of its own that can be signaled and killed, with its own
standard streams, folder and environment, which ends as an interpreter ends.

`python -m tests.helpers.warm ADDRESS` listens at an abstract UNIX address and ends with its last client. Each command
has a connection to itself. In: one JSON object {"name", "arguments", "folder", "environment", "before"} with the
descriptors of its standard output and error. Out: {"pid"} when it has started, {"status"} (of `waitpid`) at its end.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

MODULES = (  # what the commands import when they are needed, and what they do not import themselves
    "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image", "pydantic", "sklearn.datasets",
    "sklearn.metrics", "sklearn.model_selection", "timm", "torch.utils.data", "torchvision", "hydra", "lwexp.cli.app",
    "lwexp.cli.callback", "lwexp.experiment.job", "lwexp.sweep.worker", "lwexp.sweep.sweeper", "lwexp.plots.rates",
    "lwexp.plots.confusion", "lwexp.plots.mistakes",
)  # fmt: skip
SIZE = 1 << 20  # of a request, in bytes at most


class Server:
    """One thread, so that a fork copies no lock that another thread holds."""

    def __init__(self, address: str) -> None:
        """Listen at once: who else starts a server for the same address ends with an error."""
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("\0" + address)
        self._listener.listen(64)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._running: dict[int, tuple[int, socket.socket]] = {}  # by descriptor of the process
        self._clients = 0

    def requests(self) -> dict[str, Any] | None:
        """Serve until the last client has gone: None. In a forked process: what is asked of it."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    client, _ = self._listener.accept()
                    self._selector.register(client, selectors.EVENT_READ)
                    self._clients += 1
                elif key.fd in self._running:
                    self._end(key.fd)
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    request = self._take(key.fileobj)
                    if request is not None:
                        return request
            if not self._clients and not self._running:
                return None

    def _take(self, client: socket.socket) -> dict[str, Any] | None:
        message, descriptors, _, _ = socket.recv_fds(client, SIZE, 2)
        if not message:
            self._selector.unregister(client)
            client.close()
            self._clients -= 1
            return None
        pid = os.fork()
        if pid == 0:
            for number, descriptor in zip((1, 2), descriptors, strict=True):
                os.dup2(descriptor, number)
            self._forget(descriptors)
            return dict(json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        client.send(json.dumps({"pid": pid}).encode())
        process = os.pidfd_open(pid)
        self._running[process] = (pid, client)
        self._selector.register(process, selectors.EVENT_READ)
        return None

    def _end(self, process: int) -> None:
        pid, client = self._running.pop(process)
        self._selector.unregister(process)
        os.close(process)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):  # the one that started it may be gone
            client.send(json.dumps({"status": status}).encode())

    def _forget(self, descriptors: list[int]) -> None:
        """Close what a fresh process would not have."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict[str, Any]) -> None:
    """Run the command that is asked for in this process, as `python -m` does; never returns."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["folder"]
    sys.argv[:] = [request["name"], *request["arguments"]]
    if "-m" in request["arguments"] or any(word.startswith("sweep.") for word in request["arguments"]):
        _offer_fork_server()
    code: Any = 0
    try:
        for name in request["before"]:
            module, _, function = name.partition(":")
            getattr(importlib.import_module(module), function)()
        runpy.run_module(f"lwexp.{request['name']}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    # What an interpreter does at its end, but for taking all modules apart: that copies every page we share
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _offer_fork_server() -> None:
    """Have the process that multiprocessing forks a sweep's jobs from be one that has the imports.

    It is forked now, from a process that has done nothing yet, and becomes multiprocessing's own server, with its
    descriptors, when that is started; else it ends with us.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        spawn, free = multiprocessing.util.spawnv_passfds, [pid]

        def spawn_or_take(path: bytes, words: Sequence[Any], descriptors: Sequence[int]) -> int:
            if "from multiprocessing.forkserver import main" not in str(words[-1]) or not free:
                return spawn(path, words, descriptors)
            place = {"folder": str(Path.cwd()), "environment": dict(os.environ)}
            message = {**place, "code": str(words[-1]), "numbers": descriptors}
            socket.send_fds(ours, [json.dumps(message).encode()], list(descriptors))
            ours.close()
            return free.pop()

        multiprocessing.util.spawnv_passfds = spawn_or_take
        return
    ours.close()
    message, descriptors, _, _ = socket.recv_fds(theirs, SIZE, 8)
    theirs.close()
    if message:
        asked = json.loads(message)
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 200) for descriptor in descriptors]
        for descriptor, number in zip(high, asked["numbers"], strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv[:] = ["-c"]
        with suppress(SystemExit):
            exec(asked["code"], {"__name__": "__main__"})  # as `python -c` does
    os._exit(0)


def main() -> None:
    """Import, then serve."""
    server = Server(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    for name in MODULES:
        importlib.import_module(name)
    import sklearn.datasets
    import timm
    import torch

    os.chdir("/")
    timm.list_models()
    sklearn.datasets.load_digits()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # the collector of a forked process need not copy what it does not change
    request = server.requests()
    if request is not None:
        become(request)


if __name__ == "__main__":
    main()
