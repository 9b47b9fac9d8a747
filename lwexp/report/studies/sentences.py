"""What a study allows to conclude, in sentences, what matters most first."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lwexp.formatting import few
from lwexp.report.claims import p_equation, p_text, plural
from lwexp.report.statistics import EXACT_SEEDS, POWER, RANDOM_FLIPS, lowest_p, seeds_needed

from .analysis import StudyAnalysis
from .arms import Arm
from .rates import SHARE, Range

_LISTED = 6
_MORE_TIME = 1.1  # below, a difference in cost is not worth a word


def main_sentence(found: StudyAnalysis) -> str:
    """The sentence that matters most: which arm leads, by how much, and whether that can be claimed."""
    best, reference = found.best, found.reference
    if best is None or reference is None:
        return _no_comparison(found)
    if not found.finals:
        return (
            f"The search alone was run, so nothing can be claimed: on validation {_reached(found, best)}, "
            f"{_reached(found, reference)}."
        )
    part = best.difference
    if part is None or part.n == 0:
        for arm in (best, reference):
            if not arm.chosen.finals:
                return f"Nothing can be claimed: {arm.name} has no final run that ended."
        return f"Nothing can be claimed: {best.name} and {reference.name} share no seed with a final run."
    return found.sentence(part, _named(best), _named(reference), found.split, kind=found.kind)


def progress(found: StudyAnalysis) -> str:
    """One line: how many runs there are, of which kind, and how long they trained."""
    runs = found.study.runs
    finals = [run for run in runs if run.final]
    parts = [plural(len(found.arms), "arm"), f"{plural(len(runs) - len(finals), 'run')} of the search"]
    parts.append(f"{plural(len(finals), 'final run')}")
    failed = sum(not run.finished for run in runs)
    if failed:
        parts.append(f"{failed} failed")
    seconds = sum(run.seconds for run in runs if not math.isnan(run.seconds))
    if seconds:
        parts.append(f"{_duration(seconds)} of training")
    return ", ".join(parts)


def details(found: StudyAnalysis) -> list[str]:
    """All other sentences."""
    parts = (more_primary, _exploratory, _rates, _within_best, _power, _cost, cautions)
    return [sentence for part in parts for sentence in part(found)]


def cautions(found: StudyAnalysis) -> Iterator[str]:
    """Limits of the data behind the numbers."""
    if found.study.planned is not None:
        yield f"Planned was {found.study.planned} as reference; with another one all comparisons are exploratory."
    elif found.compared and not found.primary:
        yield "No arm was named as primary before the results were known: all comparisons are exploratory."
    if found.finals and not found.on_test:
        yield "No run has a test metric, so validation is compared: on it the best weights of each run look too good."
    failed = [arm for arm in found.arms if arm.chosen.failed]
    if failed:
        named = [f"{arm.name} ({arm.chosen.failed} of {arm.chosen.failed + len(arm.chosen.finals)})" for arm in failed]
        yield f"Failed final runs are in no mean, which favors arms that fail: {few(named, _LISTED)}."
    waiting = [arm.name for arm in found.arms if not arm.chosen.finals and not arm.chosen.failed]
    if found.finals and waiting:
        yield f"Without final runs: {few(waiting, _LISTED)}."
    edge = [arm for arm in found.arms if arm.chosen.at_edge]
    if edge:
        named = [f"{arm.name} (lr={arm.chosen.lr:g})" for arm in edge]
        yield f"The best rate is at the edge of the rates tried, so a better one may lie beyond: {few(named, _LISTED)}."
    reference = found.reference
    if reference is not None:
        more = [arm for arm in found.compared if arm.trials > reference.trials > 0]
        if more:
            named = [f"{arm.name} ({arm.trials})" for arm in more]
            yield (
                f"{reference.name} had fewer runs in its search ({reference.trials}) than other arms, which favors "
                f"those: {few(named, _LISTED)}."
            )
        steps = reference.cost("steps")
        apart = [arm for arm in found.compared if abs(arm.cost("steps") - steps) > 0.01 * steps]
        if apart:
            named = [f"{arm.name} ({arm.cost('steps'):,.0f})" for arm in apart]
            yield f"Not trained for as many steps as {reference.name} ({steps:,.0f}): {few(named, _LISTED)}."
    unclear = [arm.name for arm in found.arms if arm.ambiguous]
    if unclear:
        yield (
            f"The final runs have several settings or rates as the best of {few(unclear, _LISTED)}: those with "
            "the most runs count."
        )


def notes(confidence: float) -> list[str]:
    """How the numbers are computed, for every study."""
    level = round(1 - confidence, 12)
    return [
        "The search chose the base rate, and of several settings of an arm one of them, by its validation. The final "
        "runs repeat that choice with fresh seeds, and their test value is of the best weights by validation. The best "
        "arm is the one with the best mean validation of the final runs.",
        f"Differences are between final runs of one seed: mean and {100 * confidence:g} % paired t interval. p: exact "
        f"sign-flip test over seeds (with more than {EXACT_SEEDS} seeds, {RANDOM_FLIPS:,} random flips), step-down by "
        "the greatest difference (Westfall and Young 1993; Romano and Wolf 2005), corrected for all primary arms "
        f"together, and separately for all others, which are exploratory. A claim needs p of at most {level:g}.",
        f"Power is that of the paired t test at the corrected level: the difference found with {100 * POWER:.0f} % "
        "chance if the standard deviation of the differences is the observed one.",
        "The range of good rates is the widest range without a gap in which the validation of the search is within 5 % "
        "of the best, for the chosen setting of an arm; between two rates it is interpolated on the log of the rate, "
        "and a training that failed ends it. It is as uncertain as the few runs of the search.",
    ]


def _no_comparison(found: StudyAnalysis) -> str:
    if found.reference is None:
        lead = f"; {_reached(found, found.best)} on validation" if found.best else ""
        return f"Nothing can be compared: no arm has the role reference{lead}."
    if not found.compared:
        return f"Only {found.reference.name} was run: there is nothing to compare it with."
    return "Nothing can be claimed: no finished run of any other arm has a finite metric on validation."


def more_primary(found: StudyAnalysis) -> Iterator[str]:
    """What is found of the primary arms that the main sentence does not name."""
    reference = found.reference
    others = [arm for arm in found.primary if arm is not found.best and arm.difference and arm.difference.n]
    if reference is None or not others:
        return
    for sign, what in ((1, "better"), (-1, "worse"), (0, "no claim")):
        named = [_with_difference(found, arm, p=True) for arm in others if found.outcome(arm.difference) == sign]
        if named:
            start = f"also {what} than" if sign else "no difference can be claimed to"
            yield f"Of the primary arms {start} {reference.name}: {few(named, _LISTED)}."


def _exploratory(found: StudyAnalysis) -> Iterator[str]:
    if not found.primary or found.reference is None:
        return
    tested = [arm for arm in found.others if arm.difference is not None and arm.difference.n > 1]
    if not tested:
        return
    start = f"Exploratory, corrected for {plural(len(tested), 'comparison')} with {found.reference.name}:"
    said = []
    for sign, what in ((1, "better"), (-1, "worse")):
        named = [_with_difference(found, arm) for arm in tested if found.outcome(arm.difference) == sign]
        said += [f"{what} {few(named, _LISTED)}"] if named else []
    yield f"{start} {'; '.join(said) or 'no difference can be claimed'}."


def _rates(found: StudyAnalysis) -> Iterator[str]:
    shown = [arm for arm in (found.best, found.reference) if arm is not None and arm.chosen.curve]
    if not shown:
        return
    bound = "are within 5 % of" if found.metric.lower_is_better else f"reach {100 * SHARE:g} % of"
    best = f"{found.metric.value(found.best_value)}{found.metric.unit}"
    said = [_range(arm.label, arm.chosen.common) for arm in shown]
    own = [_range(arm.label, arm.chosen.own) for arm in shown]
    ranges = [each for arm in shown for each in (arm.chosen.common, arm.chosen.own)]
    note = " (≥: cut by the edge of the rates tried)" if any(each and any(each.cut) for each in ranges) else ""
    best = f"the best validation {found.metric.name} of all arms, {best}"
    yield f"Base rates that {bound} {best}: {'; '.join(said)}. Of its own best: {'; '.join(own)}{note}."


def _range(name: str, found: Range | None) -> str:
    return f"{name} {found.ends} ({found.text})" if found else f"{name} none"


def _within_best(found: StudyAnalysis) -> Iterator[str]:
    swept = found.swept
    rivals = [(arm, arm.to_best) for arm in found.compared if not arm.swept and arm.to_best is not None]
    rivals = [(arm, part) for arm, part in rivals if not math.isnan(part.low)]
    if swept is None or not swept.swept or not rivals:
        return
    near = [(arm, part) for arm, part in rivals if found.within(arm)]
    name = f"{swept.label}, the best of the arms whose settings were searched ({swept.trials} runs)"
    if not near:
        yield f"No arm without such a search comes within the interval of {name}."
        return
    near.sort(key=lambda pair: -found.gain(pair[1])[0])
    named = [f"{arm.name} ({found.metric.difference(part.mean)}, {plural(arm.trials, 'run')})" for arm, part in near]
    come = "comes" if len(near) == 1 else "come"
    yield (
        f"{len(near)} of {plural(len(rivals), 'arm')} without such a search {come} within the interval of {name}: "
        f"{few(named, _LISTED)}. An interval that includes 0 does not show that two arms are equal."
    )


def _power(found: StudyAnalysis) -> Iterator[str]:
    """What difference so few seeds can show, and how many seeds it would take for the observed one."""
    family = found.primary or found.others
    parts = [arm.difference for arm in family if arm.difference is not None and arm.difference.n > 1]
    if not parts:
        return
    least = min(part.n for part in parts)
    if least < found.fewest_seeds:
        yield (
            f"With {least} seeds the exact test cannot fall below p = {p_text(lowest_p(least))}, however large the "
            f"difference: it takes {found.fewest_seeds}."
        )
    sizes = sorted(arm.detectable for arm in family if not math.isnan(arm.detectable))
    if sizes:
        most = max(part.n for part in parts)
        seeds = f"{least} to {most}" if most > least else f"{most}"
        points = " points" if found.metric.percent else ""
        ends = [found.metric.value(size) for size in (sizes[0], sizes[-1])]
        size = f"{ends[0]}{points}" if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}{points}, depending on the arm,"
        arms = "primary arms" if found.primary else "arms"
        yield (
            f"With {seeds} seeds a true difference of {size} between {arms} and {_reference(found)} would be found "
            f"with {100 * POWER:.0f} % chance."
        )
    best = found.best.difference if found.best else None
    if best is not None and best.n > 1 and not found.outcome(best):
        needed = seeds_needed(best.mean, best.sd, found.level / best.together)
        if needed is not None and needed > best.n:
            yield f"A true difference as large as the observed one would take about {needed} seeds."


def _cost(found: StudyAnalysis) -> Iterator[str]:
    reference = found.reference
    if reference is None:
        return
    for what, unit in (("seconds", "time"), ("peak_mb", "memory")):
        own = reference.cost(what)
        if not own > 0:
            continue
        ratios = {arm: found.relative_cost(arm, what) for arm in found.compared}
        less = sorted((arm for arm in ratios if ratios[arm] < 1 / _MORE_TIME), key=lambda arm: ratios[arm])
        more = sorted((arm for arm in ratios if ratios[arm] > _MORE_TIME), key=lambda arm: -ratios[arm])
        size = _duration(own) if what == "seconds" else f"{own:,.0f} MB"
        said = []
        for word, arms in (("less", less), ("more", more)):
            named = [f"{arm.name} (\u00d7{ratios[arm]:.2f})" for arm in arms]
            said += [f"{word} {few(named)}"] if named else []
        if said:
            yield f"Cost in {unit}, {reference.name} {size} a run: {'; '.join(said)}."


def _reached(found: StudyAnalysis, arm: Arm | None) -> str:
    assert arm is not None
    return f"{_named(arm)} reaches {found.metric.value(arm.chosen.best)}{found.metric.unit}"


def _named(arm: Arm) -> str:
    """`depth (mult=0.7, lr=0.003)`."""
    rate = "" if math.isnan(arm.chosen.lr) else f"lr={arm.chosen.lr:g}"
    said = [text for text in (arm.chosen.name, rate) if text]
    return f"{arm.name} ({', '.join(said)})" if said else arm.name


def _with_difference(found: StudyAnalysis, arm: Arm, *, p: bool = False) -> str:
    part = arm.difference
    assert part is not None
    return f"{arm.name} ({found.metric.difference(part.mean)}{f', {p_equation(part.p_adjusted)}' if p else ''})"


def _reference(found: StudyAnalysis) -> str:
    return found.reference.name if found.reference else "the reference"


def _duration(seconds: float) -> str:
    """`2.5 hours`, `12 minutes`, `40 seconds`."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 100 else f"{seconds:.3g} seconds"
