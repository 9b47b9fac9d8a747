"""`python -m lwexp.ui`: MLflow's own page on the store that `run` uses, on this machine only, with the link to it."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn
from urllib.parse import quote, urlsplit

from lwexp.redaction import redact_addresses

from .config.command_options import Parser, number, tracking_config
from .config.schema import MLflowConfig
from .errors import ConfigError, LwexpError, RunError, UnknownNameError
from .tracking import address
from .tracking.address import resolve_uri
from .tracking.contact import check_store
from .tracking.store import artifact_folder

_FIRST_PORT, _PORTS = 5000, 100
_UNSAFE_PORTS = {5060, 5061}  # browsers refuse them (SIP)
_START_SECONDS = 180.0  # MLflow's server imports for a few seconds; a busy machine takes its time
_STOP_SECONDS = 10.0
_SETTINGS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else a job runner and several workers start as well
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
# On Linux the server is told to end when this process dies, however it dies (PR_SET_PDEATHSIG = 1)
_LAUNCH = (
    "import ctypes, signal, sys; sys.platform != 'linux' or ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "from mlflow.cli import cli; cli(prog_name='mlflow')"
)
_OPTIONS = ["tracking.uri", "tracking.experiment", "tracking.timeout"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 for a failure, 2 for a mistake of the user's (one line)."""
    try:
        config, experiment_given, port = _parse(sys.argv[1:] if arguments is None else arguments)
        uri = resolve_uri(config, Path.cwd())
        if address.kind(uri).startswith("http"):
            check_store(config)
            print(_link(uri, config.experiment, must_exist=experiment_given, timeout=config.timeout))
            return 0
        if address.kind(uri) == "sqlite" and not address.sqlite_path(uri).exists():
            key, why = address.uri_source(config)[0], "there is no such database: no run has been tracked there yet"
            raise ConfigError(key, redact_addresses(uri), why)
        check_store(config)
        _serve(uri, config, experiment_given, port)
    except LwexpError as error:
        print(f"lwexp-ui: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0
    return 0


def _serve(uri: str, config: MLflowConfig, experiment_given: bool, port: int | None) -> None:
    """MLflow's server on loopback, until it is interrupted (`KeyboardInterrupt`)."""
    port = _port(port)
    with tempfile.TemporaryFile() as output, _stopped_by_signals(), _server(uri, port, output) as server:
        print(f"starting MLflow on {redact_addresses(uri)} …", flush=True)
        here = f"http://127.0.0.1:{port}"
        _await(server, here, output)
        print(_link(here, config.experiment, must_exist=experiment_given, timeout=config.timeout), flush=True)
        print("Ctrl-C ends it", flush=True)
        server.wait()
        raise RunError(f"MLflow's server ended by itself: {_last_line(output)}")


@contextmanager
def _server(uri: str, port: int, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, in a session of its own, so that a Ctrl-C reaches only us and nothing of it is left."""
    artifacts = artifact_folder(uri)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--default-artifact-root", artifacts.as_uri(), "--artifacts-destination", artifacts.as_uri()]
    # the address may hold a password: in the environment other users cannot read it, in a command line they can
    environment = {**os.environ, **_SETTINGS, "MLFLOW_BACKEND_STORE_URI": uri}
    server = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, "server", *options],
        env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
    )  # fmt: skip
    try:
        yield server
    finally:
        _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started: politely, then for certain."""
    for sent, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        try:
            os.killpg(server.pid, sent)
        except ProcessLookupError:
            break
        end = time.monotonic() + seconds
        while _group_lives(server) and time.monotonic() < end:
            time.sleep(0.05)
    server.wait()


def _group_lives(server: subprocess.Popen[bytes]) -> bool:
    server.poll()  # collects the leader, which otherwise stays as a zombie of its group
    try:
        os.killpg(server.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the command as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _port(wanted: int | None) -> int:
    """`wanted` if it is free, else the first free port from 5000."""
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS) if wanted is None else (wanted,):
        with socket.socket() as probe:
            if sys.platform != "win32":  # a port whose last connections still linger is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if wanted is not None:
                    raise ConfigError("--port", wanted, f"cannot be used: {error.strerror}") from None
                continue
        if port not in _UNSAFE_PORTS or wanted is not None:
            return port
    raise RunError(f"no free port from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1}; choose one with --port")


def _await(server: subprocess.Popen[bytes], here: str, output: IO[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RunError(f"MLflow's server did not start: {_last_line(output)}")
        try:
            _get(f"{here}/health", timeout=2.0)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RunError(f"MLflow's server did not answer within {_START_SECONDS:g} s: {_last_line(output)}")


def _link(server: str, experiment: str, *, must_exist: bool, timeout: float) -> str:
    """The line with the link to the experiment's runs; to the whole page where the store has no such experiment."""
    plain = urlsplit(server)._replace(netloc=urlsplit(server).netloc.rpartition("@")[2]).geturl()
    question = f"{plain}/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(experiment, safe='')}"
    try:
        found = json.loads(_get(question, timeout))["experiment"]["experiment_id"]
    except urllib.error.HTTPError as error:
        if error.code == 404 and must_exist:
            names = _experiments(plain, timeout)
            raise UnknownNameError("tracking.experiment", experiment, names, "not in this store") from None
        return f"MLflow: {plain}/"
    except (OSError, ValueError, KeyError):
        return f"MLflow: {plain}/"
    # links without the parameter open in the GenAI view, whatever the experiment's kind
    view = "?workflowType=machine_learning"
    lines = [f"MLflow: {plain}/#/experiments/{found}/runs{view}"]
    newest = _newest_run(plain, found, timeout)
    if newest is not None:
        lines.append(f"newest run: {plain}/#/experiments/{found}/runs/{newest}{view}")
    return "\n".join(lines)


def _newest_run(server: str, experiment_id: str, timeout: float) -> str | None:
    """The id of the run that was started last; None where there is none or the server does not say."""
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
    """What `url` answers, to the JSON `body` if there is one; a proxy is not asked for what is on this machine."""
    local = urlsplit(url).hostname in {"127.0.0.1", "localhost"}
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
    question = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    with opener.open(question, timeout=timeout) as answer:
        found: bytes = answer.read()
    return found


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines() if line.strip()]
    return redact_addresses(lines[-1])[:300] if lines else "it said nothing"


def _parse(arguments: Sequence[str]) -> tuple[MLflowConfig, bool, int | None]:
    """The store's config, whether the experiment was named, and the port."""
    parser = Parser(
        prog="lwexp-ui", allow_abbrev=False,
        description="Start MLflow's page on the runs that lwexp has tracked, and print the link.",
        epilog=f"Options as of lwexp.run, written the same: {', '.join(f'{name}=…' for name in _OPTIONS)}.",
    )  # fmt: skip
    parser.add_argument("--port", help=f"port on 127.0.0.1 (default: the first free one from {_FIRST_PORT})")
    parser.add_argument("options", nargs="*", metavar="tracking.key=value", help="another store or experiment")
    parsed = parser.parse_args(arguments)
    config = tracking_config(parsed.options, _OPTIONS)
    given = any(option.startswith("tracking.experiment=") for option in parsed.options)
    port = None if parsed.port is None else int(number("--port", parsed.port, int))
    if port is not None and not 0 < port < 65536:
        raise ConfigError("--port", port, "must be from 1 to 65535")
    return config, given, port


if __name__ == "__main__":
    sys.exit(main())
