"""Waiting for jobs on Slurm: their results, or why Slurm ended them, also on a cluster without accounting."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

from .base import LaunchedJob, lost_result

log = logging.getLogger(__name__)

_POLL_SECONDS = 10.0  # between two queries of Slurm's queue, which serves all users of a cluster
_PASSING = {"None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Cleaning", "Prolog"}
_GONE_SECONDS = 30.0  # for the result of a job that has left the queue to appear on a shared disk


def wait_for_results(
    submitted: Mapping[str, tuple[LaunchedJob, Any]],
    *,
    poll_seconds: float = _POLL_SECONDS,
    gone_seconds: float = _GONE_SECONDS,
) -> dict[int, JobReturn]:
    """The results of `submitted` (job and submitit's handle by Slurm's id), by the jobs' numbers.

    A job without a result is lost `gone_seconds` after it has left Slurm's queue.
    """
    results: dict[int, JobReturn] = {}
    gone: dict[str, float] = {}  # since when
    reported: set[str] = set()
    waiting, next_poll = dict(submitted), 0.0
    while waiting:
        now = time.monotonic()
        queued = _queued() if now >= next_poll else None
        if queued is not None:
            next_poll = now + poll_seconds
            reported |= _report_reasons({name: queued[name] for name in waiting if name in queued}, reported)
        for name, (job, handle) in list(waiting.items()):
            if handle.paths.result_pickle.exists():
                results[job.number] = _result(job, handle)
            elif queued is None:
                continue
            elif name in queued:
                gone.pop(name, None)
                continue
            elif now - gone.setdefault(name, now) < gone_seconds:
                continue
            else:
                results[job.number] = lost_result(job, f"Slurm ended it: {_end_reason(name, handle.paths.stderr)}")
            del waiting[name]
        time.sleep(min(poll_seconds, 1 + len(waiting) / 100))
    return results


def _result(job: LaunchedJob, handle: Any) -> JobReturn:
    error = handle.exception()
    if error is None:
        result: JobReturn = handle.result()
        return result
    words = [line for line in str(error).splitlines() if re.match(r"[\w.]+: ", line)]
    return lost_result(job, f"{words[-1] if words else error} (Slurm's job {handle.job_id}, {handle.paths.stderr})")


def _queued() -> dict[str, str] | None:
    """The user's jobs in the queue, as `<array>_<index>`, and why they wait; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i %r"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return {name: reason for name, _, reason in (line.partition(" ") for line in found.stdout.splitlines())}


def _report_reasons(reasons: Mapping[str, str], reported: set[str]) -> set[str]:
    """Warn of reasons that may never pass (a limit of the partition); returns the new ones."""
    new = set(reasons.values()) - reported - _PASSING
    for reason in new:
        name = next(name for name, why in reasons.items() if why == reason)
        log.warning("Slurm's job %s waits: %s", name, reason)
    return new


def _end_reason(name: str, log_file: Path) -> str:
    """The error that Slurm wrote to the job's log, else the job's state."""
    with suppress(OSError):
        text = log_file.read_text(encoding="utf-8", errors="replace")
        if found := re.findall(r"^slurmstepd\S*: error: (.+)", text, re.MULTILINE):
            return f"{found[-1]} (job {name}, {log_file})"
    shown = subprocess.run(["scontrol", "--oneliner", "show", "job", name], check=False, capture_output=True, text=True)
    state = re.search(r"\bJobState=(\w+)", shown.stdout)
    return f"{state[1] if state else 'state unknown'} (job {name}, {log_file})"
