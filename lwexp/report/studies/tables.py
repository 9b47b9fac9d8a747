"""The tables of studies: a row per arm, per setting, and per study, as text, Markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from lwexp.formatting import aligned
from lwexp.report.claims import p_text
from lwexp.report.statistics import Comparison
from lwexp.report.tables import VERDICTS, Table, csv_text, exact

from .analysis import StudyAnalysis
from .arms import Arm, Setting
from .rates import Range

OVERVIEW_OMITTED = ("seeds", "metric", "p", "reference → arm", "good rates", "best arm")
_OMITTED = ("memory", "p", "lr", "time", "seeds", "own rates")  # where a terminal is too narrow, in this order


def arms_table(found: StudyAnalysis) -> Table:
    """A row per arm, what matters most on the left; primary arms first, then the exploratory ones, each best first."""
    metric, interval = found.metric, found.interval_name
    titles = ["arm", f"{found.split if found.finals else 'validation'}{metric.in_unit}", "difference", interval]
    titles += ["p", "verdict", "lr", "good rates", "own rates", "time", "memory", "seeds"]
    return Table(titles, _sections(found, lambda arm: _arm_cells(found, arm)))


def more_table(found: StudyAnalysis) -> Table:
    """A row per arm: what `arms_table` leaves out."""
    metric = found.metric
    titles = ["arm", f"{found.split} {found.interval_name}", f"validation{metric.in_unit} (sd)", "to best"]
    titles += [f"to best, {found.interval_name}", "detectable", "good rates of all", "own good rates", "search"]

    def cells(arm: Arm) -> list[str]:
        chosen, best = arm.chosen, arm.to_best
        summary = found.summary(arm)
        row = [metric.interval(summary), metric.spread(chosen.validation) if chosen.validation.n else ""]
        row += [metric.difference(best.mean), metric.change(best.low, best.high)] if best and best.n else ["", ""]
        row.append("" if math.isnan(arm.detectable) else metric.value(arm.detectable))
        row += [_range_ends(chosen.common), _range_ends(chosen.own), str(arm.trials) if arm.trials else ""]
        return row

    return Table(titles, _sections(found, cells))


def headings(found: StudyAnalysis) -> list[tuple[str, str]]:
    """What the headings of both tables mean, each in a line."""
    reference = found.reference.name if found.reference else "the reference"
    unit = ", in points" if found.metric.percent else ""
    close = "is within 5 % of" if found.metric.lower_is_better else "reaches 95 % of"
    said = {
        "difference": f"to {reference}, seed by seed on {found.split}: mean{unit}",
        found.interval_name: "where the mean over all possible seeds is to be expected",
        "p": "chance of so great a difference where arms do not differ, corrected for all primary arms or all others",
        "verdict": f"better or worse than {reference} where p is at most {found.level:g}, else no claim",
        "good rates": f"range of base rates, as a factor, whose validation {found.metric.name} {close} the best of all "
        "arms; ≥: cut by the edge of the rates tried",
        "own rates": f"the same where it {close} the arm's own best",
        "time": f"median training time of a run as a multiple of that of {reference}",
        "memory": "the same of the peak memory of the process",
        "to best": f"difference to {found.swept.label if found.swept else 'the best arm'}, the best of the arms whose "
        "settings were searched" if found.swept and found.swept.swept else "difference to the best arm",
        "detectable": "the true difference that so many seeds find with 80 % chance",
        "good rates of all": "the ends of the good rates",
        "own good rates": "the ends of the own rates",
        "search": "runs of the search",
    }  # fmt: skip
    shown = {*arms_table(found).filled().titles, *more_table(found).filled().titles}
    return [(title, text) for title, text in said.items() if title in shown]


def terminal_table(found: StudyAnalysis, width: int) -> str:
    """The table of arms in lines of at most `width` characters: columns are omitted where needed, then names cut."""
    table = arms_table(found).filled()
    if len({row[-1] for row in table.rows if row[-1]}) == 1:
        table = table.without("seeds")  # the sentences say how many
    table = table.fitted(width, _OMITTED)
    return "\n".join(aligned(table.titles, table.rows))


def legend(found: StudyAnalysis, table: str) -> str:
    """What the columns of the `terminal_table` hold."""
    points = " in points" if found.metric.percent else ""
    said = []
    titles = table.partition("\n")[0]
    if "difference" in titles and found.reference:
        said.append(f"difference: to {found.reference.name} seed by seed on {found.split}{points}")
    if "good rates" in titles:
        close = "within 5 %" if found.metric.lower_is_better else "at 95 %"
        said.append(f"good rates: range of base rates {close} of the best validation of all arms")
    if "own rates" in titles:
        said.append("own rates: of the arm's own best")
    if "time" in titles and found.reference:
        said.append(f"time: of training, {found.reference.name} = 1")
    return "; ".join(said)


def overview_table(studies: Sequence[StudyAnalysis]) -> Table:
    """A row per study: what its best primary arm gains over its reference, and the rates that are good for each."""
    titles = ["study", "best arm", "reference → arm", "gain", studies[0].interval_name, "p", "verdict", "good rates"]
    titles += ["metric", "seeds"]
    rows = []
    for found in studies:
        best, reference, metric = found.best, found.reference, found.metric
        part = best.difference if best else None
        both = [arm for arm in (reference, best) if arm]
        summaries = [found.summary(arm) for arm in both]
        values = [metric.value(summary.mean) for summary in summaries if summary.n]
        row = [found.study.name, best.label if best else "", " → ".join(values), *gain_cells(found, part)]
        row.append(" → ".join(arm.chosen.own.text for arm in both if arm.chosen.own))
        rows.append([*row, f"{found.split} {metric.name}{metric.in_unit}", str(part.n) if part and part.n else ""])
    return Table(titles, rows)


def overview_legend(studies: Sequence[StudyAnalysis], titles: Sequence[str]) -> str:
    """What those columns of the `overview_table` hold that have `titles`."""
    said = "gain: of the arm over the reference seed by seed"
    said += ", in points" if all(found.metric.percent for found in studies) else ""
    said += ", positive where the arm is better" if any(found.metric.lower_is_better for found in studies) else ""
    said += "; verdict: corrected within each study"
    if "good rates" in titles:
        said += "; good rates: range of base rates, as a factor, within 5 % of the best validation of each"
    return said


def across_table(studies: Sequence[StudyAnalysis]) -> Table:
    """A row per arm that several studies have, a column per study: its gain, marked where it can be claimed."""
    rows = []
    for name in arms_across(studies):
        row = [name]
        for found in studies:
            part = next((arm.difference for arm in found.compared if arm.name == name), None)
            known = part is not None and part.n > 0
            mark = {1: " ▲", -1: " ▼", 0: ""}[found.outcome(part)]
            row.append(f"{found.metric.difference(found.gain(part)[0])}{mark}" if part is not None and known else "")
        rows.append(row)
    return Table(["arm", *(found.study.name for found in studies)], rows)


def arms_across(studies: Sequence[StudyAnalysis]) -> list[str]:
    """The arms that at least two studies compare with their reference, by their mean rank among the arms of each."""
    places: dict[str, list[float]] = {}
    for found in studies:
        known = [(arm, arm.difference) for arm in found.compared if arm.difference is not None and arm.difference.n]
        known.sort(key=lambda pair: -found.gain(pair[1])[0])
        for place, (arm, _) in enumerate(known):
            places.setdefault(arm.name, []).append((place + 0.5) / len(known))
    several = {name: sum(own) / len(own) for name, own in places.items() if len(own) > 1}
    return sorted(several, key=lambda name: (several[name], name))


def gain_cells(found: StudyAnalysis, part: Comparison | None) -> list[str]:
    """Gain, interval, p, verdict."""
    if part is None or not part.n:
        return [""] * 4
    mean, low, high = found.gain(part)
    verdict = VERDICTS[found.outcome(part)]
    return [found.metric.difference(mean), found.metric.change(low, high), p_text(part.p_adjusted), verdict]


def arms_csv(studies: Iterable[StudyAnalysis]) -> str:
    """A row per arm of each study, numbers at full precision and not in percent; empty where something is not known."""
    summary = ("n", "mean", "sd", "low", "high")
    difference = (*summary, "p", "p_adjusted", "compared")
    titles = ["study", "arm", "role", "setting", "lr", "metric", "verdict", "search_runs", "failed", "best_val"]
    titles += [f"{split}_{name}" for split in ("val", "test") for name in summary]
    titles += [f"difference_{name}" for name in difference] + [f"to_best_{name}" for name in summary]
    titles += ["within_best", "detectable", *_RANGE_TITLES, "seconds", "relative_time", "peak_mb", "relative_memory"]
    rows: list[list[object]] = []
    for found in studies:
        for arm in found.arms:
            chosen, part, best = arm.chosen, arm.difference, arm.to_best
            verdict = VERDICTS[found.outcome(part)] if part and part.n else ""
            row: list[object] = [found.study.name, arm.name, arm.role, chosen.name, exact(chosen.lr), found.metric.name]
            row += [verdict, arm.trials, chosen.failed, exact(chosen.best)]
            row += [exact(getattr(each, name)) for each in (chosen.validation, chosen.test) for name in summary]
            row += [exact(getattr(part, name)) if part and part.n else "" for name in difference]
            row += [exact(getattr(best, name)) if best and best.n else "" for name in summary]
            row += [int(found.within(arm)) if best and not math.isnan(best.low) else "", exact(arm.detectable)]
            row += _range_cells(chosen)
            for what in ("seconds", "peak_mb"):
                row += [exact(arm.cost(what)), exact(found.relative_cost(arm, what))]
            rows.append(row)
    return csv_text(titles, rows)


def settings_csv(studies: Iterable[StudyAnalysis]) -> str:
    """A row per setting of each arm: its search, and its final runs where it has any."""
    summary = ("n", "mean", "sd", "low", "high")
    titles = ["study", "arm", "setting", "chosen", "search_runs", "best_lr", "best_val", *_RANGE_TITLES, "lr"]
    titles += [f"{split}_{name}" for split in ("val", "test") for name in summary]
    rows: list[list[object]] = []
    for found in studies:
        for arm in found.arms:
            for each in arm.settings:
                row: list[object] = [found.study.name, arm.name, each.name, int(each is arm.chosen), each.trials]
                row += [exact(each.best_lr), exact(each.best), *_range_cells(each), exact(each.lr)]
                row += [exact(getattr(part, name)) for part in (each.validation, each.test) for name in summary]
                rows.append(row)
    return csv_text(titles, rows)


_RANGE_TITLES = [f"{whose}good_rates_{name}" for whose in ("", "own_") for name in ("low", "high", "factor", "cut")]


def _range_cells(setting: Setting) -> list[object]:
    row: list[object] = []
    for found in (setting.common, setting.own):
        if found is None:
            row += [""] * 4
            continue
        cut = " ".join(name for name, yes in zip(("low", "high"), found.cut, strict=True) if yes)
        row += [exact(found.low), exact(found.high), exact(found.factor), cut]
    return row


def _sections(found: StudyAnalysis, cells: Callable[[Arm], list[str]]) -> list[list[str]]:
    """A row for each arm, the reference first; a heading tells primary arms from exploratory ones."""
    rows = [[arm.label, *cells(arm)] for arm in found.arms]
    if found.primary and rows:
        first = len(rows) - len(found.compared)
        blank = [""] * (len(rows[0]) - 1)
        if found.others:
            rows.insert(first + len(found.primary), ["exploratory:", *blank])
        rows.insert(first, ["primary:", *blank])
    return rows


def _arm_cells(found: StudyAnalysis, arm: Arm) -> list[str]:
    metric, chosen, part = found.metric, arm.chosen, arm.difference
    summary = found.summary(arm)
    value = summary.mean if found.finals else chosen.best
    cells = ["" if math.isnan(value) else metric.value(value)]
    cells += ["", "", "", ""] if part is None or not part.n else [
        metric.difference(part.mean), metric.change(part.low, part.high), p_text(part.p_adjusted),
        VERDICTS[found.outcome(part)],
    ]  # fmt: skip
    cells.append("" if math.isnan(chosen.lr) else f"{chosen.lr:.2g}")
    cells += [each.text if each else "none" if chosen.curve else "" for each in (chosen.common, chosen.own)]
    cells += [_relative(found, arm, what) for what in ("seconds", "peak_mb")]
    runs = len(chosen.finals)
    return [*cells, f"{runs} of {runs + chosen.failed}" if chosen.failed else str(runs) if found.finals else ""]


def _relative(found: StudyAnalysis, arm: Arm, what: str) -> str:
    ratio = found.relative_cost(arm, what)
    return "" if math.isnan(ratio) else f"{ratio:.2f}"


def _range_ends(found: Range | None) -> str:
    return f"{found.ends} ({found.text})" if found else ""
