"""Hydra's own grid, for commands whose jobs leave nothing to carry on or compare: previews."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

from lwexp import hiding


class PlainSweeper(BasicSweeper):
    """`BasicSweeper`, which writes its config to `multirun.yaml`, without the secrets in it."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs one after the other; the launcher has the real config."""
        self.config = hiding.hidden_config(self.config)
        return super().sweep(arguments)
