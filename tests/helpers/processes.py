"""Commands of lwexp in processes of their own, started cold or forked from a process that has the imports."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .commands import ROOT

CAN_FORK = hasattr(os, "pidfd_open") and hasattr(socket, "recv_fds")  # Linux


def clean_environment(*dropped: str) -> dict[str, str]:
    """Ours, without what would steer MLflow or Hydra; one thread; tests and lwexp are those of this checkout."""
    beginnings = ("MLFLOW_", "HYDRA_", "SLURM_", "COMP_", "PYTEST_", *dropped)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(beginnings)}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(ROOT)]
    return environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *paths])}


_OWN = """
import sys
from pathlib import Path
from lwexp.host.lock import FolderLock
with FolderLock(Path(sys.argv[1])).acquire("hydra.run.dir", sys.argv[1]):
    print("owned", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def owning(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns `folder`, in which it writes nothing else, until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWN, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        yield process
    finally:
        process.kill()
        process.communicate()


class ForkedProcess:
    """A command forked by the server of `tests.helpers.warm`; used as a `subprocess.Popen[str]`."""

    def __init__(
        self,
        server: socket.socket,
        request: Mapping[str, Any],
        stdout: IO[Any] | int | None,
        stderr: IO[Any] | int | None,
    ) -> None:
        """Started; `stdout` and `stderr` as of `Popen`: PIPE, DEVNULL, STDOUT, a file, or None for ours."""
        self.args = [request["name"], *request["arguments"]]
        self.returncode: int | None = None
        self._connection = server
        self.stdout, out = self._stream(stdout, 1)
        self.stderr, err = (None, os.dup(out)) if stderr == subprocess.STDOUT else self._stream(stderr, 2)
        socket.send_fds(server, [json.dumps(request).encode()], [out, err])
        os.close(out)
        os.close(err)
        self.pid: int = self._answer()["pid"]

    @staticmethod
    def _stream(wanted: IO[Any] | int | None, ours: int) -> tuple[IO[str] | None, int]:
        """What we read, and the descriptor that the process writes to."""
        if wanted == subprocess.PIPE:
            reading, writing = os.pipe()
            return os.fdopen(reading, encoding="utf-8"), writing
        if wanted == subprocess.DEVNULL:
            return None, os.open(os.devnull, os.O_WRONLY)
        if wanted is None:
            return None, os.dup(ours)
        return None, os.dup(wanted if isinstance(wanted, int) else wanted.fileno())

    def _answer(self) -> dict[str, Any]:
        message = self._connection.recv(4096)
        assert message, "the process that commands are forked from has died"
        return dict(json.loads(message))

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            return self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(self._answer()["status"])
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of both outputs, read to their ends; raises `subprocess.TimeoutExpired`."""
        found = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            with suppress(ValueError):  # closed: its end was read before
                found[number] = stream.read()

        streams = [(number, stream) for number, stream in enumerate((self.stdout, self.stderr)) if stream is not None]
        threads = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        for _, stream in streams:
            stream.close()
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return found[0], found[1]

    def send_signal(self, signum: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the streams and wait for its end."""
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


Process = ForkedProcess | subprocess.Popen[str]
StartCommand = Callable[..., Process]  # the fixtures `start_command` and `start_command_cold`


class WarmServer:
    """A client of the server at `address`, which the first client starts and which ends with the last."""

    def __init__(self, address: str = f"lwexp-tests-{os.getpid()}") -> None:
        """Have the server running; it may still be at its imports."""
        self._address = address
        self._lease = self._connected()  # as long as we live, so does the server

    def _connected(self) -> socket.socket:
        deadline, started = time.monotonic() + 30, False
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                client.connect("\0" + self._address)
            except ConnectionRefusedError:
                client.close()
                assert time.monotonic() < deadline, "the process that commands are forked from did not start"
                if not started:
                    started = True
                    self._start_server()
                time.sleep(0.02)
            else:
                return client

    def _start_server(self) -> None:
        """As no child of ours to wait for: another worker may need it longer."""
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        command = [sys.executable, "-m", "tests.helpers.warm", self._address]
        os.posix_spawn(sys.executable, command, clean_environment(), file_actions=null, setsid=True)

    def start(
        self, name: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None,
        stdout: IO[Any] | int | None = None, stderr: IO[Any] | int | None = None, before: Sequence[str] = (),
    ) -> ForkedProcess:  # fmt: skip
        """`python -m lwexp.<name> <arguments>`; functions "module:function" of `before` are called first."""
        request = {
            "name": name, "arguments": arguments, "folder": str(cwd), "before": before,
            "environment": dict(environment or clean_environment()),
        }  # fmt: skip
        return ForkedProcess(self._connected(), request, stdout, stderr)

    def close(self) -> None:
        """Need the server no longer."""
        self._lease.close()


def start_cold(
    name: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None,
    stdout: IO[Any] | int | None = None, stderr: IO[Any] | int | None = None,
) -> subprocess.Popen[str]:  # fmt: skip
    """`python -m lwexp.<name> <arguments>`, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", f"lwexp.{name}", *arguments], cwd=cwd, env=dict(environment or clean_environment()),
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, start_new_session=True,
    )  # fmt: skip


def run_to_its_end(
    start: StartCommand, name: str, *arguments: str, timeout: float = 240, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Start a command, wait for its end, and return its exit code and output."""
    process = start(name, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        out, errors = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    assert process.returncode is not None
    return subprocess.CompletedProcess([name, *arguments], process.returncode, out, errors)
