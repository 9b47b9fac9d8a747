"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import hypothesis
import pytest
import torch
from filelock import FileLock

from tests.helpers.commands import Outcome, RunCommand
from tests.helpers.networks import TinyNet
from tests.helpers.processes import CAN_FORK, StartCommand, WarmServer, run_to_its_end, start_cold

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the suite runs in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)


os.environ.setdefault("LWEXP_NO_MODELS", "1")  # an export takes longer than the trainings of most tests
# A deadline would measure how busy the machine is
hypothesis.settings.register_profile("lwexp", deadline=None)
hypothesis.settings.load_profile("lwexp")


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """Bit-for-bit comparisons need one thread count throughout; one is also kindest to a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> TinyNet:
    torch.manual_seed(0)
    return TinyNet()


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def empty_store(session_folder: Path) -> Path:
    """A database with MLflow's tables and nothing in them, which takes seconds to make: one for all workers."""
    from lwexp.config.schema import MLflowConfig
    from lwexp.tracking.store import connect

    path = session_folder / "empty_store" / "mlflow.db"
    path.parent.mkdir(exist_ok=True)
    config = MLflowConfig(
        name="mlflow", uri=f"sqlite:///{path}", experiment="none", timeout=8.0, flush_timeout=10.0, rates_every=1
    )
    with FileLock(path.with_suffix(".ready.lock")):
        if not path.with_suffix(".ready").exists():
            connect(config)
            path.with_suffix(".ready").touch()
    return path


@pytest.fixture(scope="session")
def warm_server() -> Iterator[WarmServer | None]:
    """Forks commands from a process with their imports, one for all workers; None where the system cannot."""
    if not CAN_FORK:
        yield None
        return
    server = WarmServer(f"lwexp-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}")
    yield server
    server.close()


@pytest.fixture
def start_command(warm_server: WarmServer | None, tmp_path: Path) -> StartCommand:
    """Start `python -m lwexp.<command> …` in an empty folder, in a process of its own without seconds of imports."""
    return partial(warm_server.start if warm_server else start_cold, cwd=tmp_path)


@pytest.fixture
def start_command_cold(tmp_path: Path) -> StartCommand:
    """Start `python -m lwexp.<command> …` in an empty folder, as a shell does."""
    return partial(start_cold, cwd=tmp_path)


@pytest.fixture
def lwexp_command(start_command: StartCommand) -> RunCommand:
    """Run `python -m lwexp.<command> …` in an empty folder to its end, in a process of its own."""
    return partial(run_to_its_end, start_command)


@pytest.fixture
def lwexp_command_cold(start_command_cold: StartCommand) -> RunCommand:
    """Run `python -m lwexp.<command> …` in an empty folder to its end, as a user does."""
    return partial(run_to_its_end, start_command_cold)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half as many again as processors: a third of the time of a worker are waits for servers and processes."""
    return max(3, min(8, (os.cpu_count() or 1) * 3 // 2))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def lwexp_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Run a command in this process, in an empty folder: the same code as `python -m`, without seconds of imports."""
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lwexp.host.console.FIRST_SECONDS", 3600.0)  # no word about what takes long on a busy machine
    monkeypatch.setattr(sys, "path", sys.path[:])  # a command adds the current folder
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "HYDRA_"))]:
        monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = logging.getLogger().handlers[:], logging.getLogger().level

    def command(name: str, *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [f"lwexp-{name}", *arguments])
        GlobalHydra.instance().clear()
        capfd.readouterr()
        try:
            code = import_module(f"lwexp.{name}").main() or 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    yield command
    GlobalHydra.instance().clear()
    before, level = loggers
    for added in [h for h in logging.getLogger().handlers if h not in before]:
        added.close()
    logging.getLogger().handlers[:] = before
    logging.getLogger().setLevel(level)
