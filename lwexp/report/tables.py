"""The report's tables: one row per setting, one per run, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lwexp.formatting import aligned, cell, escaped, printable

from .analysis import Analysis, Setting
from .conclusions import Numbers, p_text
from .statistics import Comparison

VERDICTS = {1: "better", -1: "worse", 0: "no claim"}


@dataclass(frozen=True)
class Table:
    """Titles and rows of texts; empty columns are omitted from the output."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]

    def filled(self) -> Table:
        """Without empty columns."""
        kept = [k for k in range(len(self.titles)) if k == 0 or any(row[k] for row in self.rows)]
        return Table([self.titles[k] for k in kept], [[printable(row[k]) for k in kept] for row in self.rows])

    def text(self, at_most: int) -> str:
        """In columns, the first aligned to the left, for a terminal; `at_most` rows."""
        table = Table(self.titles, self.rows[:at_most]).filled()
        lines = aligned(table.titles, table.rows)
        more = len(self.rows) - at_most
        return "\n".join([*lines, *([f"… {more} more, all in report.csv"] if more > 0 else [])])

    def markdown(self) -> str:
        """As a Markdown table."""
        table = self.filled()
        rule = [":--", *["--:"] * (len(table.titles) - 1)]
        return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in [table.titles, rule, *table.rows])


def settings_table(found: Analysis, short: bool = False) -> Table:
    """A row per setting, the best marked with `*`; `short` for a terminal, settings with the most seeds first."""
    numbers = Numbers(found.metric, found.confidence)
    unit = ", %" if numbers.percent else ""
    validation, test = f"val {found.metric}{unit}", f"test {found.metric}{unit}"
    titles = ["setting", "seeds", f"{validation} (sd)", f"{test} (sd)", numbers.interval_name, "to uniform"]
    titles += [numbers.interval_name, "all at once", "p", "p corrected", "verdict", "head rate", "stem rate"]
    rows = []
    settings = sorted(found.settings, key=lambda s: -len(s.runs)) if short else found.settings
    for setting in settings:
        runs = len({run.seed for run, _ in setting.excluded} | setting.runs.keys())
        seeds = str(len(setting.runs)) if runs == len(setting.runs) else f"{len(setting.runs)} of {runs}"
        marked = " *" if setting in (found.best, found.best_uniform) else ""
        rates = [f"{rate:.3g}" for rate in setting.rates or ()] or ["", ""]
        values = [numbers.spread(setting.validation), numbers.spread(setting.test), numbers.interval(setting.test)]
        rows.append([f"{setting.label}{marked}", seeds, *values, *_difference(found, setting, numbers), *rates])
    if short:
        shown = [0, 1, 2, 3, 5, 6, 9, 10]
        return Table([titles[k] for k in shown], [[row[k] for k in shown] for row in rows])
    return Table(titles, rows)


def runs_table(found: Analysis) -> Table:
    """A row per run, excluded ones with the reason."""
    numbers = Numbers(found.metric, found.confidence)
    titles = ["run", "setting", "seed", "status", f"val {found.metric}", f"test {found.metric}", "excluded", "reason"]
    rows = []
    for setting in found.settings:
        for run, why in [*((run, "") for run in setting.runs.values()), *setting.excluded]:
            values = [numbers.value(run.validation), numbers.value(run.test)]
            rows.append([run.name, setting.label, run.seed, run.status, *values, why, run.why])
    return Table(titles, rows)


def settings_csv(found: Analysis) -> str:
    """A row per setting, numbers at full precision and not in percent; empty where something is not known."""
    keys = list(dict.fromkeys(key for setting in found.settings for key, _ in setting.shown))
    summary = ("n", "mean", "sd", "low", "high")
    difference = (*summary, "low_all", "high_all", "p", "p_sign", "p_adjusted", "together", "compared")
    titles = ["setting", "arm", *keys, "best", "left_out", "verdict", "head_lr", "stem_lr"]
    titles += [f"{split}_{name}" for split in ("val", "test") for name in summary]
    titles += [f"{split}_difference_{name}" for split in ("val", "test") for name in difference]
    rows = []
    for setting in found.settings:
        values = dict(setting.shown)
        claim = VERDICTS[found.outcome(setting.test_difference)] if setting.test_difference else ""
        rates = setting.rates or ("", "")
        row: list[object] = [setting.label, "uniform" if setting.uniform else "layerwise"]
        row += [values.get(key, "") for key in keys]
        row += [int(setting in (found.best, found.best_uniform)), len(setting.excluded), claim, *rates]
        row += [_number(getattr(part, name)) for part in (setting.validation, setting.test) for name in summary]
        for part in (setting.validation_difference, setting.test_difference):
            row += [_number(getattr(part, name)) if part is not None else "" for name in difference]
        rows.append(row)
    return _csv(titles, rows)


def runs_csv(found: Analysis) -> str:
    """A row per run, numbers at full precision."""
    keys = list(dict.fromkeys(key for run in found.sweep.runs for key in run.point))
    titles = ["run_id", "run", "setting", "arm", *keys, "seed", "status", "validation", "test", "left_out", "reason"]
    rows: list[list[object]] = []
    for setting in found.settings:
        for run, why in [*((run, "") for run in setting.runs.values()), *setting.excluded]:
            point = [run.point.get(key, "") for key in keys]
            values = [_number(run.validation), _number(run.test)]
            rows.append([run.id, run.name, setting.label, run.arm, *point, run.seed, run.status, *values, why, run.why])
    return _csv(titles, rows)


def _difference(found: Analysis, setting: Setting, numbers: Numbers) -> list[str]:
    part: Comparison | None = setting.test_difference
    if part is None or not part.n:
        return [""] * 6
    verdict = VERDICTS[found.outcome(part)]
    p = [p_text(part.p), p_text(part.p_adjusted), verdict] if part.n > 1 else [""] * 3
    together = numbers.change(part.low_all, part.high_all) if part.together > 1 else ""
    return [numbers.difference(part.mean), numbers.change(part.low, part.high), together, *p]


def _number(value: float) -> str:
    return "" if value != value else repr(value)  # noqa: PLR0124 (NaN)


def _csv(titles: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([cell(value, numbers=True) for value in row] for row in rows)
    return out.getvalue()
