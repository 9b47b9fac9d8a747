"""`hydra/sweeper=grid`: every combination of values and the missing uniform twins, each run once, by any launcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

from .outcome import Outcome, outcomes_in
from .session import Session

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from lwexp.experiment.manifest import SweepManifest


class GridSweeper(Sweeper):
    """Hydra's hooks: plan, run, report. Takes what Hydra's own `hydra/sweeper=basic` takes."""

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        """`max_batch_size` jobs are handed to the launcher at once; `params` are further overrides, by key."""
        self._batch, self._params = max_batch_size, [f"{key}={value}" for key, value in (params or {}).items()]
        self._session: Session

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook, before `sweep`."""
        self._session = Session(hydra_context, task_function, config, self._batch)

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Run the sweep of the command's overrides. Raises `SweepFailedError`, `ConfigError`."""
        with self._session.owned():
            return self._sweep(self._session, self._session.planner.own_words(arguments))

    def _sweep(self, session: Session, arguments: list[str]) -> list[Outcome]:
        before = session.before()
        manifest = session.planner.grid(arguments, self._params, before)
        with session.start(manifest, resumed=before is not None, announcement=self._announcement(manifest, before)):
            session.run(manifest.points)
        outcomes = session.monitor.outcomes()
        session.finish(outcomes, [outcome for outcome in outcomes.values() if outcome.status != "FINISHED"])
        return list(outcomes.values())

    def _announcement(self, manifest: SweepManifest, before: SweepManifest | None) -> str:
        twins = sum(point.baseline for point in manifest.points)
        parts = [f"{len(manifest.points)} jobs"]
        parts += [f"{twins} of them uniform twins (sweep.baseline)"] if twins else []
        if before is not None:
            outcomes = outcomes_in(self._session.folder, manifest.points).values()
            parts.append(f"{sum(outcome.status == 'FINISHED' for outcome in outcomes)} finished before")
        return f"sweep in {self._session.folder}: {', '.join(parts)}"
