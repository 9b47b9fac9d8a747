"""A process with lwexp's imports done, which forks a process for each command asked of it.

A training of forty tiny steps is over in a second; its imports take six. What is forked behaves as `python -m
lwexp.<name>`: a process of its own that can be killed, with its own output files, folder and environment.

One JSON object a line. In: {"id", "name", "arguments", "folder", "environment", "out", "err"}. Out: {"id", "pid"} at
the start, {"id", "code"} at the end, where the code is negative for a signal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_lock = threading.Lock()


def main() -> None:
    """Import, then serve until standard input ends."""
    import matplotlib.pyplot  # noqa: F401
    import PIL.Image  # noqa: F401
    import pydantic  # noqa: F401
    import sklearn.datasets
    import sklearn.metrics
    import sklearn.model_selection
    import timm
    import torch

    import lwexp.cli.app
    import lwexp.experiment.job
    import lwexp.run  # noqa: F401

    timm.list_models()
    torch.set_num_threads(1)
    sklearn.datasets.load_digits()
    _tell({"ready": os.getpid()})
    for line in sys.stdin:
        request = json.loads(line)
        with _lock:  # a fork while another thread writes would copy the held lock of the output
            pid = os.fork()
        if pid == 0:
            _child(request)
        _tell({"id": request["id"], "pid": pid})
        threading.Thread(target=_wait, args=(request["id"], pid), daemon=True).start()


def _wait(number: int, pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    _tell({"id": number, "code": os.waitstatus_to_exitcode(status)})


def _tell(answer: dict[str, Any]) -> None:
    with _lock:
        print(json.dumps(answer), flush=True)


def _child(request: dict[str, Any]) -> None:
    """Become the process that runs the command; never returns."""
    os.setsid()
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = [f"lwexp.{request['name']}", *request["arguments"]]
    # SystemExit must reach the interpreter's end, so that what runs at the exit of a process runs
    from importlib import import_module

    from tests.system.faults import hooks

    hooks.install()
    if os.environ.get("FAULTS_PICTURES") != "1":
        import lwexp.plots.process

        lwexp.plots.process.write_plots = lambda *_, **__: []  # they take most of so short a run
    code = 0
    try:
        code = import_module(f"lwexp.{request['name']}").main() or 0  # some leave by exit, some return their code
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    _leave(code)


def _leave(code: int) -> None:
    """End as an interpreter does, threads joined and exit functions run, in a process forked from another."""
    import atexit

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
