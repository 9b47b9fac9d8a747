"""MLflow's own server on one store, on this machine only, and the links into its page."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import IO, NoReturn
from urllib.parse import quote, urlsplit

from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.redaction import redact_addresses

from .contact import within
from .mlflow_internals import NO_JOBS, RUN_COMMAND, TRAINING_VIEW
from .store import artifact_folder

FIRST_PORT = 5000
_PORTS = 100
_UNSAFE_PORTS = {5060, 5061}  # browsers refuse them (SIP)
_START_SECONDS = 180.0  # MLflow's server imports for a few seconds, longer on a busy machine
_STOP_SECONDS = 10.0
_SETTINGS = {**NO_JOBS, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# On Linux the server receives SIGTERM when this process dies, however it dies (PR_SET_PDEATHSIG = 1)
_LAUNCH = (
    "import ctypes, signal, sys; sys.platform != 'linux' or ctypes.CDLL(None).prctl(1, signal.SIGTERM); " + RUN_COMMAND
)


class UIServer:
    """A running MLflow server; `address` is its page."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
        """`output` receives what the process prints."""
        self.address, self._process, self._output = f"http://127.0.0.1:{port}", process, output

    def await_start(self) -> None:
        """Return when the server answers. Raises `RunError` if it ends or does not answer within three minutes."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RunError(f"MLflow's server did not start: {_last_line(self._output)}")
            try:
                _get(f"{self.address}/health", timeout=2.0)
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise RunError(f"MLflow's server did not answer within {_START_SECONDS:g} s: {_last_line(self._output)}")

    def wait(self) -> NoReturn:
        """Wait until an interrupt (`KeyboardInterrupt`). Raises `RunError` if the server ends by itself."""
        self._process.wait()
        raise RunError(f"MLflow's server ended by itself: {_last_line(self._output)}")


@contextmanager
def serve(uri: str, port: int) -> Iterator[UIServer]:
    """Start MLflow's server for the store at `uri`, on loopback, and end it with all its processes.

    It runs in its own session, so that Ctrl-C reaches only this process. SIGINT, SIGTERM and SIGHUP raise
    `KeyboardInterrupt` meanwhile.
    """
    artifacts = artifact_folder(uri)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--default-artifact-root", artifacts.as_uri(), "--artifacts-destination", artifacts.as_uri()]
    # the address may hold a password: other users can read a command line, but not the environment
    environment = {**os.environ, **_SETTINGS, "MLFLOW_BACKEND_STORE_URI": uri}
    with tempfile.TemporaryFile() as output, _interrupted_by_signals():
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, "server", *options],
            env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            yield UIServer(process, port, output)
        finally:
            _stop(process)


def free_port(wanted: int | None) -> int:
    """`wanted`, or the first free port from 5000 if it is None. Raises `ConfigError`, `RunError`."""
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS) if wanted is None else (wanted,):
        with socket.socket() as probe:
            if sys.platform != "win32":  # a port with connections in TIME_WAIT is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if wanted is not None:
                    raise ConfigError("--port", wanted, f"cannot be used: {error.strerror}") from None
                continue
        if port not in _UNSAFE_PORTS or wanted is not None:
            return port
    raise RunError(f"no free port from {FIRST_PORT} to {FIRST_PORT + _PORTS - 1}; choose one with --port")


def links(server: str, experiment: str, *, must_exist: bool, timeout: float) -> str:
    """The lines with the links to the experiment's runs and the newest run; to the page if there is no such experiment.

    Raises `UnknownNameError` for a missing experiment with `must_exist`.
    """
    plain = urlsplit(server)._replace(netloc=urlsplit(server).netloc.rpartition("@")[2]).geturl()
    url = f"{plain}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment, safe='')}"
    try:
        found = json.loads(_get(url, timeout))["experiment"]["experiment_id"]
    except urllib.error.HTTPError as error:
        if error.code == 404 and must_exist:
            names = _experiments(plain, timeout)
            raise UnknownNameError("tracking.experiment", experiment, names, "not in this store") from None
        return f"MLflow: {plain}/"
    except (OSError, ValueError, KeyError):
        return f"MLflow: {plain}/"
    lines = [f"MLflow: {plain}/#/experiments/{found}/runs{TRAINING_VIEW}"]
    newest = _newest_run(plain, found, timeout)
    if newest is not None:
        lines.append(f"newest run: {plain}/#/experiments/{found}/runs/{newest}{TRAINING_VIEW}")
    return "\n".join(lines)


def _newest_run(server: str, experiment_id: str, timeout: float) -> str | None:
    """The id of the run that was started last; None if there is none or the request fails."""
    wanted = {"experiment_ids": [experiment_id], "max_results": 1, "order_by": ["attributes.start_time DESC"]}
    try:
        answer = json.loads(_get(f"{server}/api/2.0/mlflow/runs/search", timeout, json.dumps(wanted).encode()))
        return str(answer["runs"][0]["info"]["run_id"])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _experiments(server: str, timeout: float) -> list[str]:
    found = json.loads(_get(f"{server}/api/2.0/mlflow/experiments/search?max_results=1000", timeout))
    return [experiment["name"] for experiment in found.get("experiments", [])]


def _get(url: str, timeout: float, body: bytes | None = None) -> bytes:
    """GET `url`, or POST the JSON `body`; local addresses bypass a proxy."""
    local = urlsplit(url).hostname in {"127.0.0.1", "localhost"}
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})

    def answer() -> bytes:
        with opener.open(request, timeout=timeout) as response:
            found: bytes = response.read()
        return found

    return within(timeout, answer)  # the timeout of a request begins again with each byte


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: SIGTERM, then SIGKILL."""
    for sent, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        end = time.monotonic() + seconds
        while _group_lives(process) and time.monotonic() < end:
            time.sleep(0.05)
    process.wait()


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, which would stay a zombie of its group
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `KeyboardInterrupt`, as SIGINT does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    return redact_addresses(lines[-1])[:300] if lines else "it printed nothing"
