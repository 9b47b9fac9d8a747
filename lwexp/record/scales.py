"""The scales of a measured decay as a table, from the journal of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lwexp.core.present_rates import scale_metric
from lwexp.formatting import cell
from lwexp.host.files import atomic_write
from lwexp.tracking.journal import FILE as JOURNAL
from lwexp.tracking.journal import Reader


def save_scales(folder: Path, labels: Sequence[str]) -> Path | None:
    """Write `scales.csv`: a line for each measurement, the step from which it holds, a column for each group.

    None where the journal of `folder` has no measurement.
    """
    reader = Reader(folder / JOURNAL)
    labels_of = {scale_metric(label): label for label in labels}
    found: dict[int, dict[str, float]] = {}
    for entry in reader.entries():
        if entry.kind == "rows":
            keys = {reader.names[name]: label for name, label in labels_of.items() if name in reader.names}
            values = zip(entry.value.keys, entry.value.values, strict=True)
            measured = {keys[key]: value for key, value in values if key in keys}
            if measured:
                found.setdefault(entry.value.step, {}).update(measured)
    if not found:
        return None
    columns = [label for label in labels if any(label in scales for scales in found.values())]
    path, out = folder / "scales.csv", io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", *map(cell, columns)])
    writer.writerows([step, *(scales.get(label, "") for label in columns)] for step, scales in sorted(found.items()))
    atomic_write(path, out.getvalue())
    return path
