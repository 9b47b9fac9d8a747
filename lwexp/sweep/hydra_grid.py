"""Hydra's own grid, for commands whose jobs leave nothing to resume or compare: previews."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from lwexp.config.hydra_files import redact_config

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class PlainSweeper(Sweeper):
    """Hydra's `BasicSweeper`, which writes its config to `multirun.yaml`, without the secrets in it."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of Hydra's sweeper."""
        # here, since Hydra creates the class again each time it scans its plugins
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        self._basic = BasicSweeper(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook."""
        self._basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs one after another; the launcher has the config with its secrets."""
        self._basic.config = redact_config(self._basic.config)
        return self._basic.sweep(arguments)
