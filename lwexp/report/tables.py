"""The report's tables: one row per setting, one per run, as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lwexp.formatting import aligned, cell, escaped, printable

from .analysis import Analysis
from .claims import p_text
from .settings import Setting
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

    def without(self, title: str) -> Table:
        """Without the column of this title."""
        kept = [k for k, other in enumerate(self.titles) if other != title]
        return Table([self.titles[k] for k in kept], [[row[k] for k in kept] for row in self.rows])

    @property
    def width(self) -> int:
        """Of its lines as `aligned` text, in characters."""
        return sum(self._widths()) + 2 * (len(self.titles) - 1)

    def fitted(self, width: int, omitted: Sequence[str]) -> Table:
        """In lines of at most `width` characters: columns are `omitted` in turn where needed, then names cut."""
        table = self
        for title in omitted:
            if table.width > width:
                table = table.without(title)
        space = max(width - table.width + table._widths()[0], 12)
        return Table(table.titles, [[_shorten(row[0], space), *row[1:]] for row in table.rows])

    def _widths(self) -> list[int]:
        return [max(map(len, column)) for column in zip(self.titles, *self.rows, strict=True)]

    def markdown(self) -> str:
        """As a Markdown table."""
        table = self.filled()
        rule = [":--", *["--:"] * (len(table.titles) - 1)]
        return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in [table.titles, rule, *table.rows])


def settings_table(found: Analysis) -> Table:
    """A row per setting, what matters most on the left; the best on validation are marked with `*`."""
    metric, interval = found.metric, found.interval_name
    titles = ["setting", "verdict", "difference", interval, "p"]
    titles += [f"test{metric.in_unit} (sd)", f"test {interval}", f"validation{metric.in_unit} (sd)", "seeds"]
    rows = []
    for setting in found.settings:
        part = found.difference(setting)
        values = [metric.spread(setting.test) if setting.test.n else "", metric.interval(setting.test)]
        values += [metric.spread(setting.validation), _seeds(setting)]
        rows.append([_marked(found, setting), *_difference(found, part), *values])
    return Table(titles, rows)


def more_table(found: Analysis) -> Table:
    """A row per setting: what `settings_table` leaves out."""
    metric = found.metric
    titles = ["setting", f"validation {found.interval_name}", "all at once", "p alone", "head rate", "stem rate"]
    rows = []
    for setting in found.settings:
        part = found.difference(setting)
        together = metric.change(part.low_all, part.high_all) if part and part.together > 1 else ""
        alone = p_text(part.p) if part and part.n > 1 else ""
        rates = [f"{rate:.3g}" for rate in setting.rates or ()] or ["", ""]
        rows.append([_marked(found, setting), metric.interval(setting.validation), together, alone, *rates])
    return Table(titles, rows)


def headings(found: Analysis) -> list[tuple[str, str]]:
    """What the headings of `settings_table` mean, each in a line."""
    metric, split = found.metric, found.split
    unit = ", in points" if metric.percent else ""
    said = {
        "verdict": f"better or worse than uniform rates where p is at most {found.level:g}, else no claim",
        "difference": f"to uniform rates, seed by seed on {split}: mean{unit}",
        found.interval_name: "where the mean over all possible seeds is to be expected",
        "p": "chance of so great a difference where rates do not matter, corrected for all that is compared",
    }
    shown = settings_table(found).filled().titles
    last = [("(sd)", "standard deviation over seeds"), ("*", "the best layer-wise and uniform setting on validation")]
    return [*((title, text) for title, text in said.items() if title in shown), *last]


def more_headings(found: Analysis) -> list[tuple[str, str]]:
    """What the headings of `more_table` mean, each in a line."""
    said = {
        "all at once": "intervals of differences that hold together, for all settings",
        "p alone": "p of this setting alone, not corrected",
        "head rate": "planned rate of the first group",
        "stem rate": "planned rate of the last group",
    }
    shown = more_table(found).filled().titles
    return [(title, text) for title, text in said.items() if title in shown]


def terminal_table(found: Analysis, width: int, at_most: int) -> str:
    """A row for each of `at_most` settings, those with the most seeds first, in lines of at most `width` characters.

    Where the space does not suffice, columns are omitted and names cut in the middle, the verdict never.
    """
    metric = found.metric
    titles = ["setting", "seeds", "val", "test", "(sd)", "difference", found.interval_name, "verdict"]
    rows = []
    for setting in sorted(found.settings, key=lambda setting: -len(setting.runs)):
        verdict, difference, interval, _ = _difference(found, found.difference(setting))
        means = [metric.value(part.mean) if part.n else "" for part in (setting.validation, setting.test)]
        summary = found.summary(setting)
        sd = "" if math.isnan(summary.sd) else f"({metric.value(summary.sd)})"
        rows.append([_marked(found, setting), _seeds(setting), *means, sd, difference, interval, verdict])
    table = Table(titles, rows[:at_most]).filled()
    table = table.fitted(width, ("(sd)", "val", "seeds", found.interval_name))
    more = len(rows) - at_most
    lines = aligned(table.titles, table.rows)
    return "\n".join([*lines, *([f"… {more} more, all in report.csv"] if more > 0 else [])])


def legend(found: Analysis, table: str) -> str:
    """What the columns of the `terminal_table` hold."""
    metric, split = found.metric, found.split
    points = " in points" if metric.percent else ""
    compared = f"; difference: to uniform rates seed by seed on {split}{points}" if found.uniform else ""
    spread = " and (standard deviation)" if " (sd) " in table.partition("\n")[0] else ""
    return f"* best on validation; {metric.name}{metric.in_unit}: mean over seeds{spread}{compared}"


def runs_table(found: Analysis) -> Table:
    """A row per run, excluded ones with the reason."""
    metric = found.metric
    titles = ["run", "setting", "seed", "status", f"validation {metric.name}", f"test {metric.name}"]
    titles += ["excluded", "reason"]
    rows = []
    for setting in found.settings:
        for run, why in [*((run, "") for run in setting.runs.values()), *setting.excluded]:
            values = [metric.value(run.validation), metric.value(run.test)]
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
        claim = _difference(found, found.difference(setting))[0]
        rates = setting.rates or ("", "")
        row: list[object] = [setting.label, "uniform" if setting.uniform else "layerwise"]
        row += [values.get(key, "") for key in keys]
        row += [int(setting in found.marked), len(setting.excluded), claim, *rates]
        row += [exact(getattr(part, name)) for part in (setting.validation, setting.test) for name in summary]
        for part in (setting.validation_difference, setting.test_difference):
            row += [exact(getattr(part, name)) if part is not None else "" for name in difference]
        rows.append(row)
    return csv_text(titles, rows)


def runs_csv(found: Analysis) -> str:
    """A row per run, numbers at full precision."""
    keys = list(dict.fromkeys(key for run in found.sweep.runs for key in run.point))
    titles = ["run_id", "run", "setting", "arm", *keys, "seed", "status", "validation", "test", "left_out", "reason"]
    rows: list[list[object]] = []
    for setting in found.settings:
        for run, why in [*((run, "") for run in setting.runs.values()), *setting.excluded]:
            point = [run.point.get(key, "") for key in keys]
            values = [exact(run.validation), exact(run.test)]
            rows.append([run.id, run.name, setting.label, run.arm, *point, run.seed, run.status, *values, why, run.why])
    return csv_text(titles, rows)


def _marked(found: Analysis, setting: Setting) -> str:
    return f"{setting.label} *" if setting in found.marked else setting.label


def _seeds(setting: Setting) -> str:
    runs = len({run.seed for run, _ in setting.excluded} | setting.runs.keys())
    return str(len(setting.runs)) if runs == len(setting.runs) else f"{len(setting.runs)} of {runs}"


def _difference(found: Analysis, part: Comparison | None) -> list[str]:
    """Verdict, difference, interval, p."""
    if part is None or not part.n:
        return [""] * 4
    verdict, p = (VERDICTS[found.outcome(part)], p_text(part.p_adjusted)) if part.n > 1 else ("", "")
    return [verdict or VERDICTS[0], found.metric.difference(part.mean), found.metric.change(part.low, part.high), p]


def _shorten(text: str, at_most: int) -> str:
    """`text`, cut in the middle."""
    if len(text) <= at_most:
        return text
    end = (at_most - 1) // 2
    return f"{text[: at_most - 1 - end]}…{text[-end:]}"


def exact(value: float) -> str:
    """`value` at full precision, empty for NaN."""
    return "" if value != value else repr(value)  # noqa: PLR0124 (NaN)


def csv_text(titles: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A CSV file that no spreadsheet takes for formulas."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows([cell(value, numbers=True) for value in row] for row in rows)
    return out.getvalue()
