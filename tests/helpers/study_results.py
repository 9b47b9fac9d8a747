"""Results of studies written by hand: `study.csv` with planted effects, as `lwexp.study` writes it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HEADER = "study,arm,setting,role,phase,chosen,lr,seed,status,metric,mode,val,test,steps,train_samples,seconds,peak_mb"
TITLES = HEADER.split(",")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
Row = dict[str, object]


@dataclass
class Planted:
    """An arm whose validation curve over the log rate is a parabola: `peak` at `at`, `wide` decades down to 95 %."""

    name: str
    peak: float
    at: float = 1e-3
    wide: float = 1.0
    role: str = ""
    settings: Mapping[str, float] = field(default_factory=lambda: {"": 0.0})  # what each loses at its peak
    shift: Mapping[str, float] = field(default_factory=dict)  # of the best rate, as a factor
    seconds: float = 100.0
    peak_mb: float = 800.0
    rates: Sequence[float] = RATES

    def value(self, setting: str, lr: float) -> float:
        away = math.log10(lr / (self.at * self.shift.get(setting, 1.0))) / (self.wide / 2)
        return max((self.peak - self.settings[setting]) * (1 - 0.05 * away**2), 0.1)


def study_rows(
    arms: Sequence[Planted], seeds: int = 8, *, study: str = "quick", sd: float = 0.01, noise: float = 0.004,
    metric: str = "accuracy", mode: str = "max", every_setting: bool = False, random: int = 0,
) -> list[Row]:  # fmt: skip
    """A search with one seed, and final runs of each arm's best; `sd` over seeds, which arms share, and own `noise`.

    With `mode="min"` values are 1 minus the planted ones.
    """
    draw = np.random.default_rng(random)
    shared = draw.normal(0, sd, seeds)
    common = {"study": study, "status": "finished", "metric": metric, "mode": mode, "train_samples": 400}
    sign = 1 if mode == "max" else -1
    rows: list[Row] = []
    for arm in arms:
        own = {**common, "arm": arm.name, "role": arm.role, "steps": 94, "peak_mb": arm.peak_mb}
        best: dict[str, tuple[float, float]] = {}
        for setting in arm.settings:
            for lr in arm.rates:
                value = arm.value(setting, lr) if mode == "max" else 1 - arm.value(setting, lr)
                rows.append({**own, "setting": setting, "phase": "search", "chosen": "", "lr": lr, "seed": 0,
                             "val": value, "test": value, "seconds": arm.seconds})  # fmt: skip
                if setting not in best or sign * value > sign * best[setting][0]:
                    best[setting] = value, lr
        first = max(best, key=lambda setting: sign * best[setting][0])
        for setting in best if every_setting else [first]:
            value, lr = best[setting]
            for seed, luck in enumerate(shared, 1):
                values = value + luck + draw.normal(0, noise, 2)
                rows.append({**own, "setting": setting, "phase": "final", "lr": lr, "seed": seed,
                             "chosen": "arm" if setting == first else "setting", "val": values[0], "test": values[1],
                             "seconds": arm.seconds + seed / 10})  # fmt: skip
    return rows


def write_study(path: Path, rows: Sequence[Row]) -> Path:
    """`rows` as a file, made with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, TITLES, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
