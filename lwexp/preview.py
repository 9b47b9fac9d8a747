"""`python -m lwexp.preview`: the plan and its rate curves before training; same options as a run, no weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .cli import app, help_pages

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def preview(config: DictConfig) -> None:
    """Print the plan and write its pictures; `preview.csv=…` and `preview.json=…` write the table to a file too."""
    from hydra.core.hydra_config import HydraConfig

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
            path = base / target
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(write(), encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"preview.{kind}", target, f"cannot be written: {error.strerror}") from error
            log.info("wrote %s", path)
    if schedule.is_metric_driven:
        log.info("the policy is metric-driven, so its rates are not known before training; no plots")
        return
    for path in draw_plan(plan, schedule, experiment.steps, folder):
        log.info("wrote %s", path)


def main() -> None:
    """Preview from the command line."""
    app.main(preview, folder="previews", page=help_pages.preview_page)


if __name__ == "__main__":
    main()
