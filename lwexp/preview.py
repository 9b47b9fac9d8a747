"""`python -m lwexp.preview`: the plan and its rate curves before training; same options as a run, no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import app, help_pages

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .core.plan import Plan
    from .core.schedule import Schedule

log = logging.getLogger(__name__)
_LINES = 12  # differences between two plans that are shown


@dataclass(frozen=True)
class Previewed:
    """What a preview has found."""

    plan: Plan
    schedule: Schedule
    steps: int


def preview(config: DictConfig) -> Previewed:
    """Print the plan and write its pictures; `preview.csv=…` and `preview.json=…` write the table to a file too."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from .config.compose import settings
    from .config.schema import MLflowConfig
    from .errors import ConfigError
    from .experiment.instantiate import make_experiment
    from .plots.plan import draw_plan
    from .tracking import resolve_uri

    checked = settings(config)
    hydra = HydraConfig.get()
    folder, base = Path(hydra.runtime.output_dir), Path(hydra.runtime.cwd)
    overrides = list(hydra.overrides.task)
    experiment = make_experiment(checked, base, device="meta", overrides=overrides, command="preview")
    plan, schedule = experiment.plan, experiment.schedule
    if isinstance(checked.tracking, MLflowConfig):
        resolve_uri(checked.tracking, base)
    log.info("%s\n", plan)
    log.info("%d optimizer steps, %d in an epoch", experiment.steps, experiment.steps_per_epoch)
    wanted = (("csv", checked.preview.csv, plan.to_csv), ("json", checked.preview.json_, plan.to_json))
    for kind, target, write in wanted:
        if target:
            path = (folder if hydra.mode is RunMode.MULTIRUN else base) / target  # of a sweep a file for each point
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(write(), encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"preview.{kind}", target, f"cannot be written: {error.strerror}") from error
            log.info("wrote %s", path)
    if schedule.follows_training:
        why = "policy is metric-driven" if schedule.is_metric_driven else "decay is measured"
        log.info("the %s, so its rates are not known before training; no plots", why)
        return Previewed(plan, schedule, experiment.steps)
    for path in draw_plan(plan, schedule, experiment.steps, folder):
        log.info("wrote %s", path)
    return Previewed(plan, schedule, experiment.steps)


def compare(found: Mapping[str, Previewed], folder: Path) -> None:
    """Print where the plans of a sweep differ from the first, and draw all of them in one picture in `folder`."""
    from .core.schedule_text import schedule_hash, summary
    from .plots.compare import write_comparison
    from .plots.plan import planned_rates, scheduled_rates

    (first, one), *others = found.items()
    for name, other in others:
        lines = one.plan.diff(other.plan).splitlines()
        words = [summary(each.schedule) or "policy=constant" for each in (one, other)]
        hashes = [schedule_hash(each.schedule) for each in (one, other)]
        if words[0] != words[1]:
            lines.append(f"schedule {words[0]} -> {words[1]}")
        elif not lines and hashes[0] != hashes[1]:
            lines.append(f"schedule {words[0]}: rates {hashes[0]} -> {hashes[1]}")
        lines += [] if one.steps == other.steps else [f"steps {one.steps} -> {other.steps}"]
        shown = lines if len(lines) <= _LINES else [*lines[:_LINES], f"… and {len(lines) - _LINES} more differences"]
        log.info("\n%s\ncompared with %s:\n%s", name, first, "\n".join(f"  {line}" for line in shown or ["the same"]))
    tables = {
        name: planned_rates(each.plan)
        if each.schedule.follows_training
        else scheduled_rates(each.plan, each.schedule, each.steps)
        for name, each in found.items()
    }
    log.info("\nwrote %s", write_comparison(tables, folder / "plans.png"))


preview.compare = compare  # type: ignore[attr-defined]  # the sweeper of previews looks for it


def main() -> None:
    """Preview from the command line."""
    app.main(preview, folder="previews", page=help_pages.preview_page)


if __name__ == "__main__":
    main()
