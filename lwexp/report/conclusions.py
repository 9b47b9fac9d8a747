"""The conclusions of a report in sentences, what matters most first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lwexp.formatting import few

from .analysis import Analysis, Contest
from .claims import capital, p_text, plural
from .settings import Setting, reasons
from .statistics import POWER, Comparison, lowest_p, seeds_needed

_LISTED = 6


def main_sentence(found: Analysis) -> str:
    """The sentence that matters most: which rates lead, by how much, and whether that can be claimed."""
    if len(found.contests) > 1:
        return (
            f"The runs have {len(found.contests)} different data, which are not compared with each other: "
            f"{few([_words(one.data) for one in found.contests], _LISTED)}."
        )
    return _headline(found, found.contests[0])


def conclusions(found: Analysis) -> list[str]:
    """The sentences, the most important first."""
    said = [main_sentence(found)]
    for one in found.contests:
        own = [] if len(found.contests) == 1 else [_headline(found, one)]
        name = f"{_words(one.data)}: " if own else ""
        said += [name + each for each in (*own, *_choice(found, one), *_seeds(found, one), *_others(found, one))]
        said += [name + each for each in _own_twin(found, one)]
    return [*said, *_cautions(found)]


def progress(found: Analysis) -> str:
    """One line: how many runs were compared, and why others were not."""
    sweep = found.sweep
    used = sum(len(setting.runs) for setting in found.settings)
    parts = [f"{used} of {plural(max(sweep.total, used), 'run')} compared"]
    parts += [f"{count} {why}" for why, count in reasons(found.settings)]
    started = {(setting.key, run.seed) for setting in found.settings for run in setting.runs.values()}
    started |= {(tuple(run.point.items()), run.seed) for setting in found.settings for run, _ in setting.excluded}
    absent = sweep.total - len(started)
    if absent > 0:
        parts.append(f"{absent} not started")
    if sweep.searched:
        parts.append(f"{plural(sweep.searched, 'trial')} of the search excluded")
    return ", ".join(parts)


def _headline(found: Analysis, contest: Contest) -> str:
    best, other = contest.best, contest.best_uniform
    if best is None:
        return _uniform_alone(found, contest)
    if other is None and contest.uniform:
        had = f"{best.label} has {_reached(found, best)}"
        return f"Nothing can be claimed: no run with uniform rates has a finite metric; {had}."
    if other is None:
        return (
            f"{best.label}{_leads(contest)} with {_reached(found, best)}, but no run has uniform rates: nothing can be "
            "claimed of layer-wise rates (sweep.baseline=true adds a uniform run for each seed)."
        )
    comparison = _compared(found, contest)
    if comparison is None:
        keys = _differing(best, other)
        return (
            f"Nothing can be claimed: {best.label} and {_name(other, contest)} differ in {few(keys, _LISTED)} as well. "
            "It takes a uniform run with the same values (sweep.baseline=true adds one for each seed)."
        )
    if comparison.n == 0:
        return (
            f"Nothing can be claimed: {best.label} and {_name(other, contest)} share no seed with a metric on "
            f"{found.split}."
        )
    return _comparison(found, contest, best, other, comparison)


def _comparison(found: Analysis, contest: Contest, best: Setting, other: Setting, comparison: Comparison) -> str:
    """Who is better, or leads, by how much, and what can be claimed of it."""
    uniform = _name(other, contest)
    return capital(found.sentence(comparison, best.label, uniform, found.split, loser=_best_name(contest)))


def _uniform_alone(found: Analysis, contest: Contest) -> str:
    other = contest.best_uniform
    if other is None:
        return "Nothing can be claimed: no finished run has a finite metric on validation."
    if len(contest.uniform) == 1:
        return f"Only uniform rates were run, with {_reached(found, other)}: there is nothing to compare them with."
    return f"Only uniform rates were run: {other.label} is the best on validation, with {_reached(found, other)}."


def _choice(found: Analysis, contest: Contest) -> Iterator[str]:
    """Which settings were chosen on validation, and what was chosen with them."""
    best, other = contest.best, contest.best_uniform
    if best is None or other is None:
        return
    keys = sorted({key for setting in contest.uniform for key in _differing(setting, other)})
    tried = f"{plural(len(contest.layerwise), 'layer-wise setting')} and {len(contest.uniform)} uniform"
    if len(contest.layerwise) > 1 or len(contest.uniform) > 1:
        chosen = f"{few(keys, _LISTED)} chosen for both" if keys else "the best"
        yield (
            f"Chosen on validation, {chosen} of {tried}: {best.label} with {_reached(found, best)}; "
            f"{other.label} with {_reached(found, other)}."
        )
    else:
        yield f"{best.label} has {_reached(found, best)}; {other.label} has {_reached(found, other)}."


def _own_twin(found: Analysis, contest: Contest) -> Iterator[str]:
    """The best setting against uniform rates at its own values, where the best uniform setting has others."""
    best = contest.best
    if best is None or contest.best_difference is None or len(contest.uniform) < 2:
        return
    twin, part = found.twin(best), found.difference(best)
    if twin is not None and part is not None and part.n:
        said = _comparison(found, contest, best, twin, part)
        yield f"At the same {few(_differing(twin, contest.best_uniform or twin), _LISTED)}: {said}"


def _seeds(found: Analysis, contest: Contest) -> Iterator[str]:
    """How many seeds it would take, where nothing can be claimed."""
    comparison = _compared(found, contest)
    if comparison is None or comparison.n < 2 or found.outcome(comparison):
        return
    if comparison.n < found.fewest_seeds:
        yield (
            f"With {comparison.n} seeds the exact test cannot fall below p = {p_text(lowest_p(comparison.n))}, however "
            "large the difference."
        )
        if comparison.low * comparison.high > 0:
            yield "The interval leaves out 0, but it takes the differences for normal, which so few seeds cannot show."
    needed = seeds_needed(comparison.mean, comparison.sd, found.level / comparison.together)
    if needed is None:
        size = "none was seen" if comparison.mean == 0 else "over 1,000 would be needed"
        yield f"Seeds needed to find a difference of the observed size: {size}."
    elif needed > comparison.n:
        several = " The best of several looks larger than it is, so rather more." if len(contest.layerwise) > 1 else ""
        yield (
            f"If the true difference is as large as the observed one, about {needed} seeds would find it with "
            f"{100 * POWER:.0f} % chance.{several}"
        )


def _others(found: Analysis, contest: Contest) -> Iterator[str]:
    """Other settings for which the test shows a difference."""
    best = contest.best
    headlined = best is not None and contest.best_difference is None
    for sign, word in ((1, "better"), (-1, "worse")):
        others = [
            (setting, part)
            for setting in contest.layerwise
            if (part := found.difference(setting)) is not None
            and found.outcome(part) == sign
            and not (headlined and setting is best)
        ]
        if others:
            named = [f"{setting.label} ({found.metric.difference(part.mean)})" for setting, part in others]
            at = " at the same values of all else" if len(contest.uniform) > 1 else ""
            also = "Also " if best is not None and found.outcome(_compared(found, contest)) == sign else ""
            text = f"{also}{word} than uniform rates on {found.split}{at}: {few(named, _LISTED)}."
            yield capital(text)


def _cautions(found: Analysis) -> Iterator[str]:
    """Limits of the data behind the numbers."""
    yield from found.sweep.cautions
    for one in found.contests:
        alone = [setting for setting in one.layerwise if setting.runs and found.twin(setting) is None]
        if one.uniform and alone:
            named = [f"{s.label} ({_words([pair for pair in s.base if pair[0] in _apart(s, one)])})" for s in alone]
            yield f"No uniform run has the same values of all else as {few(named, _LISTED)}: no difference is known."
    if not found.on_test and any(setting.validation.n for setting in found.settings):
        yield "No run has a test metric, so validation is compared: on it the best weights of each run look too good."
    failed = [s for s in found.settings if any(why in ("failed", "killed") for _, why in s.excluded)]
    if failed:
        yield (
            f"Failed runs are in no mean, which favors settings that fail: "
            f"{', '.join(s.label for s in failed[:_LISTED])}{' and more' if len(failed) > _LISTED else ''}."
        )
    too_few = [setting for one in found.contests for setting in one.too_few_seeds]
    if too_few:
        some = plural(len(too_few), "setting")
        yield (
            f"{some} with less than half of the seeds of others could not be chosen as the best. Settings that a "
            "search repeated were chosen by its seed, which favors them there."
        )
    if found.sweep.status == "RUNNING" or any("running" in why for s in found.settings for _, why in s.excluded):
        yield "The sweep is not complete: these numbers may change."
    if any(one.best and len(one.layerwise) > 1 and found.summary(one.best).n > 1 for one in found.contests):
        yield (
            "The setting was chosen on validation with the same trainings, so lucky seeds help it on test as well; the "
            "corrected test covers that, the mean itself is slightly too good. New seeds would be unbiased."
        )


def _compared(found: Analysis, contest: Contest) -> Comparison | None:
    """The best layer-wise setting against the best uniform one; None where they differ in more than their rates.

    With several uniform settings the others values were chosen for both, so that they can be compared all the same.
    """
    if contest.best is None:
        return None
    if contest.best_difference is None:
        return found.difference(contest.best)
    return contest.best_difference if len(contest.uniform) > 1 else None


def _reached(found: Analysis, setting: Setting) -> str:
    """`92.50 % on validation and 92.10 % on test`."""
    parts = [(setting.validation, "validation"), (setting.test, "test")]
    said = [f"{found.metric.value(part.mean)}{found.metric.unit} on {split}" for part, split in parts if part.n]
    return f"{found.metric.name} {' and '.join(said)}" if said else "no metric"


def _leads(contest: Contest) -> str:
    return " is the best layer-wise setting on validation," if len(contest.layerwise) > 1 else " was run,"


def _name(uniform: Setting, contest: Contest) -> str:
    return "uniform rates" if len(contest.uniform) == 1 else uniform.label


def _best_name(contest: Contest) -> str:
    assert contest.best is not None
    return f"{contest.best.label}, the best layer-wise setting," if len(contest.layerwise) > 1 else contest.best.label


def _differing(one: Setting, other: Setting) -> list[str]:
    """The keys of the base in which they differ."""
    mine, others = dict(one.base), dict(other.base)
    return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))


def _apart(setting: Setting, contest: Contest) -> list[str]:
    """The keys in which the setting differs from the uniform one that is closest to it."""
    return min((_differing(setting, other) for other in contest.uniform), key=len)


def _words(pairs: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{key}={value}" for key, value in pairs)
