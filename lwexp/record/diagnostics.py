"""The diagnosed steps of a run, from its journal: as a table, and thinned for pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lwexp.core.plan_table import PlanTable
from lwexp.core.present_rates import diagnosed_metric
from lwexp.formatting import cell
from lwexp.host.files import replacing
from lwexp.plots.diagnosis import Diagnosis
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.journal import Reader

TABLE = "diagnostics.csv"
_READ = ("lr", "gradient_norm", "weight_norm", "update_ratio", "distance")  # in the journal
_COLUMNS = ("step", "index", "group", "depth", "lr", "gradient_norm", "weight_norm", "relative_gradient_norm",
            "update_ratio", "distance")  # fmt: skip
_AT_MOST = 2000  # steps in pictures

Values = NDArray[np.float64]  # [groups, 5]


def save_diagnostics(folder: Path, plan: PlanTable) -> Diagnosis | None:
    """Write `diagnostics.csv`, a line for each diagnosed step and group; returns all or evenly spaced steps.

    Ratios that are not defined are empty: those to weights of 0. None where the journal of `folder` has no such step.
    """
    kept: list[tuple[int, Values]] = []
    last, every = None, 1
    with replacing(folder / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for count, (step, values) in enumerate(diagnosed_steps(folder, plan.labels)):
            last = (step, values)
            for label, group, (lr, gradient, weight, update, distance) in zip(
                plan.labels, plan.groups, values.tolist(), strict=True
            ):
                relative = gradient / weight if weight else np.nan
                numbers = (lr, gradient, weight, relative, update, distance)
                writer.writerow([step, group.index, cell(label), group.depth, *map(_text, numbers)])
            if count % every == 0:
                kept.append(last)
            if len(kept) > 2 * _AT_MOST:
                kept, every = kept[::2], 2 * every
    if last is None:
        (folder / TABLE).unlink()
        return None
    if kept[-1] is not last:
        kept.append(last)
    columns = dict(zip(_READ, np.stack([values for _, values in kept]).transpose(2, 0, 1), strict=True))
    rates, weight = columns.pop("lr"), columns.pop("weight_norm")
    columns["relative_gradient_norm"] = columns["gradient_norm"] / np.where(weight > 0, weight, np.nan)
    return Diagnosis(np.array([step for step, _ in kept]), rates, columns)


def diagnosed_steps(folder: Path, labels: Sequence[str]) -> Iterator[tuple[int, Values]]:
    """The diagnosed steps in the journal of `folder`: number, and values [groups, 5] of rate and measures."""
    reader = Reader(folder / JOURNAL)
    names = [diagnosed_metric(measure, label) for label in labels for measure in _READ]
    order: dict[tuple[str, ...], list[int]] = {}  # by the keys of a row: where each of `names` is, -1: nowhere
    for entry in reader.entries():
        if entry.kind != "kept":
            continue
        rows = entry.value
        if rows.keys not in order:
            places = {key: i for i, key in enumerate(rows.keys)}
            order[rows.keys] = [places.get(reader.names.get(name, ""), -1) for name in names]
        if max(order[rows.keys]) < 0:  # of something else
            continue
        values = np.array([*rows.values, np.nan])[order[rows.keys]]
        yield rows.step, values.reshape(len(labels), len(_READ))


def _text(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.7g}"
