"""One training, from the config that Hydra composed: the task of a single run, and of each job of a sweep."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lwexp.config.overrides import user_overrides
from lwexp.redaction import redact_addresses, redact_values

if TYPE_CHECKING:
    from lwexp.config.schema import RunConfig
    from lwexp.experiment.job import RunResult
    from lwexp.experiment.place import JobPlace
    from lwexp.training.callbacks import Callback


def run_composed(
    composed: DictConfig, *, callbacks: Mapping[str, Callback] | None = None, draw_in_process: bool = False
) -> RunResult:
    """Train in Hydra's run folder as `composed` says, with further `callbacks`.

    `draw_in_process`: matplotlib is imported here already.
    """
    from lwexp.config.compose import settings
    from lwexp.experiment.job import run_job

    from .search.pruning import trial_reporter

    config = settings(composed)
    place = place_of_composed(composed, config, draw_in_process=draw_in_process)
    return run_job(config, place, {**(callbacks or {}), **trial_reporter(config.sweep.search, place.folder)})


def place_of_composed(composed: DictConfig, config: RunConfig, *, draw_in_process: bool = False) -> JobPlace:
    """Where Hydra lets a command work, and what it was asked for; `config` is `composed`, checked."""
    from lwexp.config.compose import plain
    from lwexp.config.keys import IN_ORDER
    from lwexp.experiment.place import JobPlace

    hydra, values = HydraConfig.get(), plain(composed)
    policies = {pattern: values["policies"][pattern] for pattern in config.policies}
    in_order = {key: dict(getattr(config, key)) for key in IN_ORDER} | {"policies": policies}
    values |= in_order  # in the order that counts
    return JobPlace(
        folder=Path(hydra.runtime.output_dir),
        base=Path(hydra.runtime.cwd),
        values=redact_values(values, redact_addresses),
        overrides=user_overrides(hydra.overrides.task),
        draw_in_process=draw_in_process,
        package=None if os.environ.get("LWEXP_NO_MODELS") else _package,
    )


def _package(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The network of a run of this process, whose own code it has executed already."""
    from lwexp.experiment.model_record import code_of
    from lwexp.inference.packaging import package

    return package(folder, tuple(code_of(folder)))
