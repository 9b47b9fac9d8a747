"""The plan as text: for the terminal, Markdown and CSV, all from the same rows."""

from __future__ import annotations

import csv
import io
from typing import Any

from lwexp.formatting import aligned, cell, escaped, printable

from .plan_table import PlanGroup, PlanTable

COLUMNS = ("index", "name", "depth", "scale", "lr", "tensors", "weights", "share", "frozen", "tied")
LONG = 30  # rows of a table that does not fit a screen with its notes
_LEFT = {"name", "frozen", "tied"}


def rows(plan: PlanTable) -> list[tuple[str, ...]]:
    """One row of texts per group, in the order of `COLUMNS`."""
    total = sum(g.weights for g in plan.groups) or 1
    return [
        (
            str(g.index),
            printable(g.name),
            str(g.depth),
            "measured" if g.measured else f"{g.scale:.6g}",
            f"{g.lr:.6e}",
            str(len(g.parameter_names)),
            f"{g.weights:,}",
            f"{g.weights / total:.1%}",
            _frozen(g),
            printable(", ".join(g.tied_names)),
        )
        for g in plan.groups
    ]


def header(plan: PlanTable) -> list[str]:
    """The plan's settings and notes; before all else, that there are no layer-wise rates where they were asked for."""
    trainable, weights = (sum(getattr(g, key) for g in plan.groups) for key in ("trainable_weights", "weights"))
    mult = f" mult={plan.mult:g}" if plan.decay == "linear" else ""
    mult += f" index_from={plan.index_from}" if plan.index_from != "all" else ""
    if plan.weight_decay is not None:
        mult += f" weight_decay={plan.weight_decay:g}"
        mult += f" weight_decay_mult={plan.weight_decay_mult:g}" if plan.weight_decay_mult != 1 else ""
        mult += " independent_weight_decay=true" if plan.independent_weight_decay else ""
    count = len({g.index for g in plan.groups})
    groups = "group" if count == 1 else "groups"
    return [
        *([f"WARNING: {printable(plan.no_layerwise_rates)}"] if plan.no_layerwise_rates else []),
        f"{printable(plan.model)}: {count} {groups}, {weights:,} weights, {trainable:,} trainable",
        f"grouping={plan.grouping} decay={plan.decay} lr={plan.lr:g}{mult} plan {plan.hash}",
        *([printable(plan.schedule_line)] if plan.schedule_line else []),
        *(f"note: {printable(note)}" for note in plan.notes),
    ]


def text(plan: PlanTable) -> str:
    """The table for a terminal, from the head to the stem, without empty columns.

    The schedule comes below it, and so do the notes of a long one, where they are still in view.
    """
    lines, is_long = header(plan), len(plan.groups) > LONG
    below = [line for line in lines if line == printable(plan.schedule_line) or (is_long and line.startswith("note: "))]
    above = [line for line in lines if line not in below]
    return "\n".join([*above, "", *_aligned(plan), *(["", *below] if below else [])])


def markdown(plan: PlanTable, at_most: int) -> str:
    """The table as Markdown; where it exceeds `at_most` characters, its first and last rows.

    The rows are a code block: MLflow renders Markdown tables without space between columns.
    """
    intro = "\n\n".join(escaped(line) for line in header(plan))
    titles, rule, *body = (line.replace("`", "'") for line in _aligned(plan))

    def block(lines: list[str]) -> str:
        return "\n".join([f"{intro}\n\n```", titles, rule, *lines, "```\n"])

    shown = block(body)
    kept = len(body) // 2
    while kept and len(shown) > at_most:
        gap = f"…  {len(body) - 2 * kept} rows omitted, all are in plan.csv"
        shown = block([*body[:kept], gap, *body[-kept:]])
        kept -= 1
    if len(shown) <= at_most:
        return shown
    return f"{intro[: max(at_most - 60, 0)]}\n\nThe table is too long to show here; it is in plan.csv.\n"[:at_most]


def cells(plan: PlanTable) -> tuple[list[str], list[list[str]], set[int]]:
    """Titles, one row of texts per group, and which columns are texts; empty columns are omitted."""
    options = option_columns(plan)
    columns = (*COLUMNS, *options)
    body = [(*row, *others) for row, *others in zip(rows(plan), *options.values(), strict=True)]
    shown = [i for i, column in enumerate(columns) if column not in {"frozen", "tied"} or any(row[i] for row in body)]
    titles = [columns[i] for i in shown]
    left = {k for k, title in enumerate(titles) if title in _LEFT or title in options}
    return titles, [[row[i] for i in shown] for row in body], left


def _aligned(plan: PlanTable) -> list[str]:
    """Titles, a rule, and one line per group."""
    titles, body, left = cells(plan)
    return aligned(titles, body, left=left)


def csv_text(plan: PlanTable) -> str:
    """One line per group; `parameters` and `frozen_parameters` are names joined by spaces, rates at full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    options = option_columns(plan)
    writer.writerow([*COLUMNS, *options, "parameters", "frozen_parameters"])
    for i, (g, row) in enumerate(zip(plan.groups, rows(plan), strict=True)):
        written = dict(zip(COLUMNS, row, strict=True))
        written.update(scale=repr(g.scale), lr=repr(g.lr), weights=str(g.weights))
        written.update(name=cell(g.name), tied=cell(" ".join(g.tied_names)))
        written.update({option: cell(column[i]) for option, column in options.items()})
        writer.writerow([*written.values(), cell(" ".join(g.parameter_names)), cell(" ".join(g.frozen_names))])
    return out.getvalue()


def option_columns(plan: PlanTable) -> dict[str, list[str]]:
    """For each option of the optimizer that some group has of its own: a text per group, empty where it has none.

    The value; where only some of the group's parameters have it, or they have several, with their number.
    """
    options = dict.fromkeys(option for g in plan.groups for part in g.parts for option in part.options)
    return {option: [_option(g, option) for g in plan.groups] for option in options}


def _option(group: PlanGroup, option: str) -> str:
    counts: dict[str, int] = {}
    for part in group.parts:
        if option in part.options:
            text = _value(part.options[option])
            counts[text] = counts.get(text, 0) + len(part.parameter_names)
    total = len(group.optimizer_names)
    return ", ".join(text if n == total else f"{text} ({n} of {total})" for text, n in counts.items())


def _value(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) or value is None else printable(str(value))


def _frozen(g: PlanGroup) -> str:
    if not g.frozen_names:
        return ""
    return "frozen" if g.frozen else f"{len(g.frozen_names)} of {len(g.parameter_names)}"
