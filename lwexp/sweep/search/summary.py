"""The results of a search, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lwexp.training.monitor import Monitor

from .loop import Arm

_SHOWN = 3


def as_json(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """For each arm its study, the counts of its trials, the best ones, the failures, and the importances."""
    return [
        {
            "study": arm.study.name,
            "uniform": arm.uniform,
            "searched": list(arm.space.searched),
            "trials": arm.study.counts(),
            "best": [
                {"trial": trial.number, "values": trial.values, "objective": value}
                for trial, value in arm.study.best(_SHOWN)
            ],
            "failures": arm.study.failures(),
            "importance": arm.study.importances(),
        }
        for arm in arms
    ]


def text(arms: Sequence[Arm], monitor: Monitor) -> str:
    """A few lines for each arm; objectives are those of `monitor`."""
    return "\n".join(line for arm in as_json(arms) for line in _lines(arm, monitor))


def _lines(arm: dict[str, Any], monitor: Monitor) -> list[str]:
    counts = ", ".join(f"{count} {word}" for word, count in arm["trials"].items() if count)
    lines = [f"study {arm['study']} over {', '.join(arm['searched'])}: {counts or 'no trial'}"]
    for place, found in enumerate(arm["best"]):
        values = " ".join(f"{key}={value}" for key, value in found["values"].items())
        word = "best" if place == 0 else "next"
        objective = f"{monitor.words} {monitor.shown(found['objective'])}"
        lines.append(f"  {word}: {values}  {objective} (trial {found['trial']})")
    if arm["importance"]:
        parts = ", ".join(f"{key} {part:.2f}" for key, part in arm["importance"].items())
        lines.append(f"  share of the variance explained: {parts}")
    failures = list(arm["failures"].items())
    lines += [f"  trial {number} failed: {reason}" for number, reason in failures[:_SHOWN]]
    lines += [f"  … and {len(failures) - _SHOWN} more, all in search.json"] if len(failures) > _SHOWN else []
    return lines
