"""`python -m lwexp.find`: which base rate a range test suggests for a run, and which rate for each of its groups."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli import app, help_pages

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .config.schema import RunConfig
    from .core.finding.find_lr import FoundRates
    from .core.finding.suggestion import Suggestion
    from .experiment.place import JobPlace
    from .experiment.range_test import FoundHere
    from .tracking import Tracker

log = logging.getLogger(__name__)
_RULES = {
    "valley": "in the middle of the longest valley",
    "steepest": "where the loss falls fastest",
    "minimum": "a tenth of the rate of the smallest loss",
    "divergence": "a tenth of the rate at which it is back where it started",
}


def find(config: DictConfig) -> FoundRates:
    """Make the range tests, print what they suggest, and keep curves and pictures, in MLflow too."""
    from .config.compose import settings
    from .distributed import launch
    from .errors import ConfigError
    from .experiment.range_test import find_rates_of
    from .sweep.composed_run import place_of_composed
    from .tracking import prepare

    checked = settings(config)
    if checked.resume is not None:
        raise ConfigError("resume", checked.resume, "a range test resumes nothing; from_run=… takes a run's options")
    place = place_of_composed(config, checked)
    if launch.is_rank_zero():
        answers = prepare(checked.tracking, place.base)
    found = find_rates_of(checked, place)
    if launch.is_rank_zero():
        log.info("%s\n", "\n".join(report(found.rates, checked.lr_mults)))
        _keep(found, checked, place, answers)
    return found.rates


def report(found: FoundRates, lr_mults: Mapping[str, float]) -> Iterator[str]:
    """What was found, in lines; `lr_mults` as the plan was made with."""
    from .formatting import aligned

    base = found.base
    yield f"range test of the base rate: {_course(base)}"
    rows = [[rule, f"{lr:.1e}", _RULES[rule]] for rule, lr in base.rates.items()]
    rows += [[rule, "-", why] for rule, why in base.notes.items()]
    yield from aligned(["rule", "lr", ""], rows, left=(0, 2), ragged=True) if rows else [f"no answer: {base.reason}"]
    if found.groups:
        yield ""
        yield "range test of each group, the others at rest:"
        labels = found.plan.labels
        rows = []
        for i, each in found.groups.items():
            own = [f"{each.rates[rule]:.1e}" if rule in each.rates else "-" for rule in _RULES]
            rows.append([labels[i], f"{found.planned[i]:.1e}", *own])
        yield from aligned(["group", "planned", *_RULES], rows)
        yield from (f"{labels[i]}: no answer: {each.reason}" for i, each in found.groups.items() if each.reason)
    if base.rates:
        yield ""
        yield f"to train with it: {pasted(found, lr_mults)}"


def pasted(found: FoundRates, lr_mults: Mapping[str, float], rule: str = "valley") -> str:
    """The overrides that take the rates of a rule, as the shell takes them."""
    words = [f"lr={found.base.rates[rule]:.1e}"]
    factors = found.lr_mults(rule, lr_mults)
    if factors:
        inner = ", ".join(f"{pattern}: {factor:.2g}" for pattern, factor in factors.items())
        words.append(f"'lr_mults={{{inner}}}'")
    return " ".join(words)


def _course(found: Suggestion) -> str:
    """How far a test has come."""
    curve = found.curve
    if not curve.rates:
        return "the first loss is not finite"
    end = ", where the loss diverges" if curve.diverged else ""
    last = f"{curve.rates[0]:.1e} to {curve.rates[-1]:.1e}{end}"
    return f"{len(curve)} of {curve.test.steps} optimizer steps, from {last}"


def _keep(found: FoundHere, config: RunConfig, place: JobPlace, answers: bool) -> None:
    """Write curves and pictures to the command's folder, and a run of its own kind to MLflow."""
    from .experiment.naming import own_tags, run_name
    from .experiment.params import flat_params
    from .record.describe import place_tags, plan_note
    from .record.ending import end_of
    from .tracking import open_hint, start

    rates, folder = found.rates, place.folder
    name = config.name or f"find {run_name(config, place.values)}"
    paths = _write(rates, name, pasted(rates, config.lr_mults) if rates.base.rates else "", folder)
    for path in paths:
        log.info("wrote %s", path)
    result = f"**{pasted(rates, config.lr_mults)}**" if rates.base.rates else f"no answer: {rates.base.reason}"
    tracker = start(
        config.tracking,
        folder=folder,
        base=place.base,
        run_name=name,
        params=flat_params(place.values),
        tags={
            **own_tags(config),
            "lwexp.kind": "find",
            "lwexp.overrides": " ".join(place.overrides),
            "lwexp.plan": rates.plan.hash,
            **place_tags(folder, place.base),
        },
        description=plan_note(rates.plan, result, config.notes or ""),
        answers=answers,
        source="lwexp.find",
    )
    try:
        _record(tracker, rates, paths)
    except BaseException as error:
        tracker.finish(*end_of(error))
        raise
    tracker.finish("FINISHED")
    if tracker.run_id is not None:
        log.info(
            "tracked in %s as %s\n%s", tracker.where, tracker.run_id, open_hint(config.tracking, place.base)
        )  # fmt: skip


def _record(tracker: Tracker, rates: FoundRates, paths: Sequence[Path]) -> None:
    """The curve of the base rate as metrics, and the files."""
    curve = rates.base.curve
    for step, (lr, loss, smoothed) in enumerate(zip(curve.rates, curve.losses, curve.smoothed, strict=True)):
        tracker.log({"find/lr": lr, "find/loss": loss, "find/loss_smoothed": smoothed}, step)
    tracker.log({f"find/{rule}": lr for rule, lr in rates.base.rates.items()}, max(len(curve) - 1, 0))
    for path in paths:
        tracker.artifact(path)


def _write(rates: FoundRates, title: str, overrides: str, folder: Path) -> list[Path]:
    """find.json and find.csv with the suggestions and the curves, find.png and find_groups.png with these drawn."""
    from .plots.range_curves import draw_range_test, draw_range_tests

    labels = rates.plan.labels
    named = {"base": rates.base, **{labels[i]: each for i, each in rates.groups.items()}}
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["of", "step", "lr", "loss", "loss_smoothed"])
    for name, each in named.items():
        curve = each.curve
        steps = zip(range(len(curve)), curve.rates, curve.losses, curve.smoothed, strict=True)
        rows.writerows([name, *step] for step in steps)
    facts: dict[str, Any] = {
        name: {"rates": each.rates, "no_answer": each.reason or None, "diverged": each.curve.diverged}
        for name, each in named.items()
    }
    paths = [folder / "find.csv", folder / "find.json"]
    paths[0].write_text(table.getvalue(), encoding="utf-8")
    paths[1].write_text(json.dumps({"overrides": overrides, "found": facts}, indent=1) + "\n", encoding="utf-8")
    paths.append(draw_range_test(rates.base, title, folder / "find.png"))
    if rates.groups:
        own = {labels[i]: each for i, each in rates.groups.items()}
        paths.append(draw_range_tests(own, title, folder / "find_groups.png"))
    return paths


def main() -> None:
    """Find rates from the command line."""
    app.main(find, folder="finds", page=help_pages.find_page)


if __name__ == "__main__":
    main()
