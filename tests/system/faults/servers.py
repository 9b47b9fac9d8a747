"""Real servers in processes of their own: MLflow's, and PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

START_SECONDS = 90.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class MLflowServer:
    """`mlflow server` with one worker; `url` stays the same over restarts."""

    def __init__(
        self,
        store_uri: str,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """Nothing is started. `folder` takes log and artifacts; `prefix` comes before the command."""
        self.port = port or free_port()
        self.url = f"http://{host}:{self.port}"
        self.log, self.artifacts = folder / "server.log", folder / "artifacts"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [
            *prefix, sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", store_uri, "--artifacts-destination", str(self.artifacts),
        ]  # fmt: skip

    def start(self, *, wait: bool = True) -> None:
        """Start it, and return when it answers."""
        assert self._process is None, "the server is running"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment.pop("PYTHONWARNINGS", None)
        # without it, MLflow 3 also starts a job runner and several consumers: a slow start, and a gigabyte
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("ab") as log:
            # a session of its own: the command starts its worker as a child, and signals shall reach both
            self._process = subprocess.Popen(
                self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when the server answers."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self._process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"no answer in {START_SECONDS} s:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def answers(self, timeout: float = 2.0) -> bool:
        """Whether the server answers now."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=timeout) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def ask(self, path: str, **values: object) -> None:
        """POST `values` to MLflow's REST interface: `ask("runs/delete", run_id=…)`."""
        body, kind = json.dumps(values).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/2.0/mlflow/{path}", body, kind, method="POST")
        with urllib.request.urlopen(request, timeout=20):
            pass

    def stop(self) -> None:
        """Ask it to end; does nothing where it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it in its tracks: connections are still taken by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again at the same address."""
        self.kill()
        self.start()

    def _end(self, signum: signal.Signals) -> None:
        if self._process is None:
            return
        self.thaw()
        self._signal(signum)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._signal(signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def _signal(self, signum: signal.Signals) -> None:
        assert self._process is not None, "the server is not running"
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self._process.pid, signum)


class PostgreSQL:
    """A PostgreSQL server of our own on the loopback address, without passwords. It refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started; `folder` must be empty, and short enough for a socket's path (about 90 characters)."""
        self.port = free_port()
        self.user = "mlflow"
        self._folder = folder
        self._binaries = self.binaries()
        self._as: list[str] = []

    @staticmethod
    def binaries() -> Path | None:
        """Where the newest installed server's programs are."""
        found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
        return max(found, key=lambda path: float(path.parent.name), default=None)

    @classmethod
    def why_not(cls) -> str | None:
        """Why there can be none here; None if there can."""
        if cls.binaries() is None:
            return "PostgreSQL is not installed"
        if os.geteuid() == 0 and shutil.which("runuser") is None:
            return "PostgreSQL refuses to run as root, and there is no runuser"
        try:
            import psycopg2  # noqa: F401
        except ImportError:
            return "psycopg2 is not installed"
        return None

    def start(self) -> None:
        """Make a cluster and start it."""
        assert self._binaries is not None
        if os.geteuid() == 0:
            self._as = ["runuser", "-u", "postgres", "--"]
            shutil.chown(self._folder, "postgres", "postgres")
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", self.user, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._run("pg_ctl", "-D", data, "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it at once."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop", check=False)

    def create(self, name: str, template: str = "template0") -> None:
        """Make a database, as a copy of `template`, which must not be in use."""
        self._run(
            "psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", "postgres", "-q",
            "-c", f'CREATE DATABASE "{name}" TEMPLATE "{template}"',
        )  # fmt: skip

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        assert self._binaries is not None
        command = [*self._as, str(self._binaries / program), *arguments]
        # pg_ctl's server inherits its output: to a file, for a pipe would stay open
        with (Path(os.devnull)).open("wb") as nowhere:
            subprocess.run(command, cwd="/", check=check, stdin=subprocess.DEVNULL, stdout=nowhere, timeout=60)
