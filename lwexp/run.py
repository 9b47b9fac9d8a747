"""`python -m lwexp.run`: config -> experiment -> training, every group's rate at every step in MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cli import app, help_pages

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(config: DictConfig) -> float:
    """One job of Hydra's: train and return the best value of the monitored metric, for a sweeper."""
    from .sweep.composed_run import run_composed

    return run_composed(config).value


def main() -> None:
    """Run from the command line."""
    app.main(run, folder="runs", page=help_pages.run_page)


if __name__ == "__main__":
    main()
