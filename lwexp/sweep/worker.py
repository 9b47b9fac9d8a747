"""A job of a sweep, as Hydra's launcher runs it: in its own process, so a crash affects nothing else.

The launcher's process (the sweep's own, one of a pool, one of a cluster) starts the job's process, waits for it and
records its outcome. A job that runs out of memory ends neither the launcher nor its siblings, no job inherits threads,
random states or GPU memory from another, and its signal handlers are lwexp's own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lwexp import redaction
from lwexp.config.compose import plain
from lwexp.errors import LwexpError, RunError
from lwexp.experiment.folder import read_result
from lwexp.experiment.manifest import point_of
from lwexp.experiment.preload import MODULES
from lwexp.host.console import console
from lwexp.host.lock import FOLDER_LOCK, Lock
from lwexp.host.signals import Interrupted, end_quietly, handle_in_command, held_back, report_stop, take_signals
from lwexp.tracking.delivery_client import courier

from .launchers.base import failure_reason, is_basic
from .outcome import JobRecord
from .parent import record_failure

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Task = Callable[[Any], Any]
_ORPHAN_SECONDS = 60.0  # for a job to end after its step when its launcher was killed
_SHOWS = "shows"  # what a job sends before its answer, which is a list or an error
_POLL_SECONDS = 0.5  # between two returns to Python's own loop: Ray interrupts its tasks without a signal


class JobFailedError(RunError):
    """A job's process has failed; the text is that of its own error."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        """`exit_code` is what a single run would have returned."""
        super().__init__(text)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, int]]:
        """Pickle with the exit code."""
        return (JobFailedError, (str(self), self.exit_code))


def run_in_sweep(task: Task, config: DictConfig) -> Any:
    """The training of `config` as a job of the present sweep; its outcome is written to its folder.

    With `sweep.isolate` it runs in its own process, else as `task(config)` in this one.

    Raises the error of the task, shortened; KeyboardInterrupt and `Interrupted` if this process is interrupted.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    with JobRecord(folder) as record:
        try:
            value = _run_isolated(config, folder) if plain(config)["sweep"]["isolate"] else task(config)
        except (KeyboardInterrupt, Interrupted):
            record.end("KILLED", reason="interrupted", code=1)
            raise
        except Exception as error:
            reason, code = failure_reason(error), getattr(error, "exit_code", 1)
            status: Literal["KILLED", "FAILED"] = "KILLED" if isinstance(error, _KilledError) else "FAILED"
            record.end(status, reason=reason, code=code)
            record_failure(config, folder, status, reason)
            raise
        if not plain(config)["sweep"]["keep_weights"]:
            for path in folder.glob("*.safetensors"):
                path.unlink()
        result = read_result(folder)
        record.end("FINISHED", value=value, pruned=result.pruned, monitor=result.monitor)
        return value


class _KilledError(JobFailedError):
    """A signal has ended the job's process."""


@dataclass(frozen=True)
class _Order:
    """All that the job's process takes from the launcher's."""

    config: Any
    hydra: Any
    environment: dict[str, str]
    cwd: str
    alone: bool  # no other job runs beside it, so it may use the terminal
    name: str
    delivery: Any  # one process delivers for all jobs of this launcher: importing mlflow takes seconds


def _run_isolated(config: DictConfig, folder: Path) -> Any:
    """The training of `config` in its own process."""
    _await_orphan(folder)
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    values = plain(config)
    alone = is_basic(HydraConfig.get().launcher)
    if not alone:
        values["progress"] = False  # bars of jobs side by side would overwrite each other
    order = _Order(
        config=values,
        hydra=OmegaConf.to_container(HydraConfig.instance().cfg, resolve=True),
        environment=dict(os.environ),
        cwd=str(Path.cwd()),
        alone=alone,
        name=point.name if (point := point_of(folder)) is not None else "",
        delivery=courier.share() if OmegaConf.select(config, "tracking.name") == "mlflow" else None,
    )
    # daemon=False: it may have data workers. It ends by itself when this process is gone
    process = context.Process(target=_serve, args=(order, theirs), daemon=False)
    with held_back():
        process.start()
    theirs.close()
    with ExitStack() as shown:
        answer = _answer(process, ours, lambda: shown.enter_context(console.left_to_another()), reports_signals=alone)
    if answer is None:
        raise _KilledError(_death(process.exitcode))
    if isinstance(answer, BaseException):
        raise answer
    return answer[0]


def _answer(process: Any, connection: Connection, started: Callable[[], Any], *, reports_signals: bool) -> Any:
    """The answer of the job's process, None if it died before. If this process is interrupted, so is the job's.

    `started` is called when that process shows what it does on the terminal.

    `reports_signals`: the interrupt is reported here and not by the launcher.
    """
    try:
        try:
            while not connection.poll(_POLL_SECONDS):
                pass
            answer = connection.recv()
            if answer == _SHOWS:
                started()
                while not connection.poll(_POLL_SECONDS):
                    pass
                answer = connection.recv()
        except EOFError:
            answer = None
        process.join()
        return answer
    except BaseException as stopped:  # a launcher's handler may raise SystemExit
        if reports_signals and process.is_alive():
            report_stop(stopped)
        process.terminate()
        while process.is_alive():  # it saves a checkpoint; a second Ctrl-C does not wait for that
            with suppress(Interrupted):
                process.join()
        raise


def _context() -> ForkServerContext | SpawnContext:
    """Forks from a process that has imported everything and has neither threads nor a CUDA context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(MODULES))
    return context


def start_fork_server() -> None:
    """Start the process from which jobs are forked, so that it imports in the background."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def _await_orphan(folder: Path) -> None:
    """Wait for a former process of the job: it ends after its step when its launcher was killed."""
    lock = Lock(folder / FOLDER_LOCK)
    if lock.path.parent.is_dir() and lock.acquire(_ORPHAN_SECONDS):
        lock.release()


def _death(code: int | None) -> str:
    """How a process ended that sent no answer."""
    if code is None or code >= 0:
        return f"its process died unexpectedly with exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


# ------------------------------------------------------------------------------------------------ the job's own process


def _serve(order: _Order, connection: Connection) -> None:
    """Run the job and send `[result]`, or its error."""
    _end_with_the_launcher()
    handle_in_command(launched=True)
    take_signals()
    if order.alone:
        console.start(f"{order.name or 'job'}: preparing the training", lines=False)
        connection.send(_SHOWS)
    try:
        answer: Any = [_train(order)]
    except (KeyboardInterrupt, Interrupted) as stopped:
        answer = _KilledError(f"it was interrupted by {stopped if str(stopped) else 'SIGINT'}")
    except LwexpError as error:
        answer = JobFailedError(str(error), error.exit_code)
    except BaseException as error:
        print(redaction.redact(traceback.format_exc()), file=sys.stderr)
        answer = JobFailedError(failure_reason(error))
    console.stop()
    sys.stdout.flush()
    end_quietly(0)
    with suppress(OSError):  # the launcher is gone
        connection.send(answer)


def _train(order: _Order) -> Any:
    """Train with the environment, folder, Hydra config and logging of the launcher's process."""
    from hydra.core.utils import configure_log

    from .composed_run import run_composed

    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.cwd)
    if order.delivery is not None:
        courier.attach(order.delivery)
    hydra = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(hydra, False)  # Hydra adds keys of its own
    hydra.merge_with(order.hydra["hydra"])
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": hydra}))
    configure_log(hydra.job_logging, hydra.verbose)
    _quiet_console()
    return run_composed(OmegaConf.create(order.config), draw_in_process=True).value


def _quiet_console() -> None:
    """Only warnings reach the terminal, where the sweep reports its jobs; a job's log is in its folder."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(max(handler.level, logging.WARNING))


def _end_with_the_launcher() -> None:
    """End the job after its step, with a checkpoint, when the process that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
