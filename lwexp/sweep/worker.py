"""A job of a sweep, as Hydra's launcher runs it: in a process of its own, which nothing that happens to it outlives.

The launcher's process (of the sweep itself, of a pool, of a cluster) starts the job's process, waits for it and writes
down what became of it. A job that is killed for want of memory takes neither the launcher nor its siblings along, no
job inherits threads, random states or GPU memory from another one, and its signals are lwexp's own.
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
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lwexp import redaction
from lwexp.errors import LwexpError, RunError
from lwexp.experiment.folder import pruned_in
from lwexp.host.lock import Lock
from lwexp.host.signals import Interrupted, handle_in_command, held_back, take_signals, tell_of
from lwexp.tracking.courier import courier
from lwexp.tracking.delivery import RUN_LOCK

from .outcome import JobRecord
from .parent import record_failure

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Task = Callable[[Any], Any]
_ORPHAN_SECONDS = 60.0  # for the process of a launcher that was killed to end after its step
_LOOK_SECONDS = 0.5  # between looks at what only Python knows: Ray interrupts its tasks without a signal


class JobFailedError(RunError):
    """A job's process has ended otherwise than well; the text is its own error's."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        """`exit_code` is what a single run would have returned."""
        super().__init__(text)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[JobFailedError], tuple[str, int]]:
        """Pickle with the exit code."""
        return (JobFailedError, (str(self), self.exit_code))


def run_in_sweep(task: Task, config: DictConfig) -> Any:
    """The training of `config` as a job of the present sweep; its outcome is written to its folder.

    With `sweep.isolate` it runs in a process of its own, else as `task(config)` in this one.

    Raises what the task raises, in short; KeyboardInterrupt and `Interrupted` where this process is told to end.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    with JobRecord(folder) as record:
        try:
            value = _run_apart(config, folder) if config.sweep.isolate else task(config)
        except (KeyboardInterrupt, Interrupted):
            record.end("KILLED", reason="interrupted", code=1)
            raise
        except Exception as error:
            reason, code = _line(error), getattr(error, "exit_code", 1)
            status: Literal["KILLED", "FAILED"] = "KILLED" if isinstance(error, _KilledError) else "FAILED"
            record.end(status, reason=reason, code=code)
            record_failure(config, folder, status, reason)
            raise
        record.end("FINISHED", value=value, pruned=pruned_in(folder))
        return value


class _KilledError(JobFailedError):
    """A signal has ended the job's process."""


def _run_apart(config: DictConfig, folder: Path) -> Any:
    """The training of `config` in a process of its own."""
    _await_orphan(folder)
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    values: Any = OmegaConf.to_container(config, resolve=True)
    if "BasicLauncher" not in str(HydraConfig.get().launcher._target_):
        values["progress"] = False  # bars of jobs side by side would overwrite each other
    order = {
        "config": values,
        "hydra": OmegaConf.to_container(HydraConfig.instance().cfg, resolve=True),
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        # one process delivers for all jobs of this launcher: to import mlflow takes seconds
        "delivery": courier.share() if OmegaConf.select(config, "tracking.name") == "mlflow" else None,
    }
    # daemon=False: it may have data workers. It ends by itself when this process is gone
    process = context.Process(target=_serve, args=(order, theirs), daemon=False)
    with held_back():
        process.start()
    theirs.close()
    answer = _answer(process, ours, tells="BasicLauncher" in str(HydraConfig.get().launcher._target_))
    if answer is None:
        raise _KilledError(_how_it_died(process.exitcode))
    if isinstance(answer, BaseException):
        raise answer
    return answer[0]


def _answer(process: Any, connection: Connection, *, tells: bool) -> Any:
    """What the job's process sends, None where it died before. Where this process is told to end, so is that one.

    With `tells` people hear of it from here, not from their launcher.
    """
    try:
        try:
            while not connection.poll(_LOOK_SECONDS):
                pass
            answer = connection.recv()
        except EOFError:
            answer = None
        process.join()
        return answer
    except BaseException as stopped:  # a launcher's handler may raise SystemExit
        if tells and process.is_alive():
            tell_of(stopped)
        process.terminate()
        while process.is_alive():  # it writes its checkpoint; a second Ctrl-C does not wait for that
            with suppress(Interrupted):
                process.join()
        raise


def _context() -> ForkServerContext | SpawnContext:
    """Processes forked from one that has imported everything and has neither threads nor a GPU."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lwexp.sweep.warm"])
    return context


def warm_up() -> None:
    """Have the process that jobs are forked from start its imports now."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def _await_orphan(folder: Path) -> None:
    """A job whose launcher was killed ends after its step; until then its folder is not free."""
    lock = Lock(folder / RUN_LOCK)
    if lock.path.parent.is_dir() and lock.acquire(_ORPHAN_SECONDS):
        lock.release()


def _line(error: BaseException) -> str:
    """One line without secrets; that of an error nobody foresaw begins with its kind."""
    text = str(error) if isinstance(error, LwexpError) else f"{type(error).__name__}: {error}"
    return redaction.redact(" ".join(text.split()))


def _how_it_died(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code} and without a word"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = ", which the system sends where memory runs out" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


# ------------------------------------------------------------------------------------------------ the job's own process


def _serve(order: dict[str, Any], connection: Connection) -> None:
    """Run the job and send `[result]`, or the error that it ended with."""
    _end_with_the_launcher()
    handle_in_command(told_by_launcher=True)
    take_signals()
    try:
        answer: Any = [_train(order)]
    except (KeyboardInterrupt, Interrupted) as stopped:
        answer = _KilledError(f"it was interrupted by {stopped if str(stopped) else 'SIGINT'}")
    except LwexpError as error:
        answer = JobFailedError(str(error), error.exit_code)
    except BaseException as error:
        print(redaction.redact(traceback.format_exc()), file=sys.stderr)
        answer = JobFailedError(_line(error))
    sys.stdout.flush()
    with suppress(OSError):  # nobody waits any more
        connection.send(answer)


def _train(order: dict[str, Any]) -> Any:
    """The job's training, in what the launcher's process has: environment, folder, Hydra's config and logging."""
    from hydra.core.utils import configure_log

    from .task import run_composed

    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    if order["delivery"] is not None:
        courier.attach(order["delivery"])
    hydra = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(hydra, False)  # Hydra adds keys of its own
    hydra.merge_with(order["hydra"]["hydra"])
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": hydra}))
    configure_log(hydra.job_logging, hydra.verbose)
    _quiet_console()
    return run_composed(OmegaConf.create(order["config"]), draw_in_process=True).accuracy


def _quiet_console() -> None:
    """Only warnings reach the terminal, where the sweep tells of all its jobs; a job's log is in its folder."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(max(handler.level, logging.WARNING))


def _end_with_the_launcher() -> None:
    """Let the job end after its step, with a checkpoint, when the process that started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
