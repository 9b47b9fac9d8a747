"""The texts of a sweep: a line per job that ends, and the table of all jobs, printed and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

from lwexp.experiment.manifest import Point
from lwexp.formatting import aligned
from lwexp.host.console import duration

from .outcome import Outcome

_MOST = 60  # rows of the printed table
_WORDS = {"MISSING": "not run", "RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


def line(point: Point, outcome: Outcome, done: int, total: int) -> str:
    """The line of a job that has ended, the `done`-th of `total`."""
    width = len(str(total))
    return f"[{done:{width}}/{total}] {point.name or 'job'}: {_result(outcome)}"


def summary(outcomes: Mapping[Point, Outcome]) -> str:
    """How many jobs finished, failed, and were not run."""
    counts = {word: sum(_status(o) == word for o in outcomes.values()) for word in (*_WORDS.values(), "pruned")}
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{len(outcomes)} jobs: {', '.join(parts)}"


def text(outcomes: Mapping[Point, Outcome], width: int = 1_000_000) -> str:
    """The table, in `width` columns but for reasons; if it is long, the jobs that did not finish, then the best."""
    rows = list(outcomes.items())
    rest = ""
    if len(rows) > _MOST:
        bad = [row for row in rows if row[1].status != "FINISHED"][: _MOST // 2]
        good = [row for row in rows if row[1].status == "FINISHED"]
        good = sorted(good, key=lambda row: -_score(row[1]))[: _MOST - len(bad)]
        rest = f"\n… {len(rows) - len(bad) - len(good)} more, all in jobs.csv"
        rows = [*bad, *good]
    titles = ["job", "point", "status", _metric(outcomes, "validation"), "time", "why"]
    cells = [_cells(*row) for row in rows]
    if not any(row[-1] for row in cells):
        titles[-1] = ""
    others = sum(
        max(map(len, column)) + 2 for k, column in enumerate(zip(titles, *cells, strict=True)) if k not in (1, 5)
    )
    cells = [(number, shortened(name, width - others), *rest) for number, name, *rest in cells]
    lines = aligned(titles, cells, left=(1, 2), ragged=True)
    return "\n".join(lines) + rest


def as_csv(outcomes: Mapping[Point, Outcome], swept: Sequence[str]) -> str:
    """One row for each job."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["job", *swept, "arm", "baseline", "status", _metric(outcomes), "seconds", "attempts", "host", "why"]
    )
    for point, outcome in outcomes.items():
        value = "" if outcome.value is None else repr(outcome.value)
        own = [point.values.get(key, "") for key in swept]
        result = [_status(outcome), value, f"{outcome.seconds:.1f}", outcome.attempts, outcome.host]
        why = outcome.pruned or outcome.reason or ""
        writer.writerow([point.number, *own, point.arm, str(point.baseline).lower(), *result, why])
    return file.getvalue()


def shortened(name: str, width: int) -> str:
    """`name` in `width` columns, at least 16: without its middle where it is longer, since both ends tell jobs apart.

    >>> shortened("mult=0.8 lr=0.01 seed=0", 18), shortened("mult=0.8", 18)
    ('mult=0.8 …1 seed=0', 'mult=0.8')
    """
    width = max(width, 16)
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[: width - 1 - half]}…{name[-half:]}"


def _cells(point: Point, outcome: Outcome) -> tuple[str, ...]:
    name = f"{point.name} (uniform twin)" if point.baseline else point.name
    value = "" if outcome.value is None else outcome.monitor.shown(outcome.value)
    seconds = duration(outcome.seconds) if outcome.seconds else ""
    return str(point.number), name, _status(outcome), value, seconds, outcome.pruned or outcome.reason or ""


def _metric(outcomes: Mapping[Point, Outcome], default: str | None = None) -> str:
    """The monitored metric of the jobs; `default` for that of classes."""
    found = next((o.metric for o in outcomes.values() if o.value is not None), Outcome.metric)
    return default if default is not None and found == Outcome.metric else found


def _score(outcome: Outcome) -> float:
    return -math.inf if outcome.value is None else outcome.monitor.score(outcome.value)


def _status(outcome: Outcome) -> str:
    return "pruned" if outcome.pruned else _WORDS[outcome.status]


def _result(outcome: Outcome) -> str:
    what = _status(outcome)
    if outcome.status == "FINISHED":
        value = "" if outcome.value is None else f", {outcome.monitor.words} {outcome.monitor.shown(outcome.value)}"
        return f"{what}{value}, {duration(outcome.seconds)}"
    return f"{what}: {outcome.reason}"
