"""`hydra/sweeper=optuna`: trials drawn by Optuna, then the best settings again over seeds, with their uniform twins.

Optuna is imported inside functions only, after its presence was checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from lwexp import redaction
from lwexp.config.keys import has_mult
from lwexp.config.overrides import key_of
from lwexp.errors import ConfigError
from lwexp.experiment.manifest import Point
from lwexp.sweep.launchers.registry import parallel_jobs
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.session import Session

from .settings import SearchSettings, check_search

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

    from .loop import Arm
    from .planning import SearchPlan

_WIDEST = 8  # trials at a time unless set: those of one batch know nothing of each other


class OptunaSweeper(Sweeper):
    """A search in place of a grid; its jobs are points of a sweep like others, run by any launcher."""

    def __init__(self, **options: Any) -> None:
        """`options` are the keys of conf/hydra/sweeper/optuna.yaml."""
        self._options = options
        self._settings: SearchSettings
        self._session: Session

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: check all that can be checked before anything is drawn."""
        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper", "optuna", "needs Optuna: pip install -e '.[optuna]'")
        from .planning import check_components

        options = OmegaConf.to_container(OmegaConf.create(self._options), resolve=True)
        assert isinstance(options, dict)
        self._settings = check_search({str(key): value for key, value in options.items()})
        check_components(self._settings)
        self._session = Session(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Run the search of the command's overrides. Raises `SweepFailedError`, `ConfigError`, `RunError`."""

        with self._session.owned():
            return self._sweep(self._session, self._session.planner.own_words(arguments))

    def _sweep(self, session: Session, arguments: list[str]) -> list[Outcome]:
        from .planning import plan_search

        settings, config = self._settings, session.config
        before = session.before()
        session.planner.distrust(before)
        params = settings.params or {}
        other = {"decay.mult", "decay.stem_lr"}.intersection(map(key_of, arguments))
        if not has_mult(config.decay) or other:
            params = {key: value for key, value in params.items() if key != "mult"}
        plan = plan_search(settings, params, arguments, session.planner, uniform=config.sweep.baseline is not False)
        manifest = session.planner.manifest(arguments, before.points if before else (), plan.keys, before)
        batch = settings.n_jobs or min(parallel_jobs(config) or _WIDEST, _WIDEST)
        trials = f"{settings.n_trials} trials of {', '.join(plan.space.searched)}"
        announcement = f"search in {session.folder}: {trials}, {batch} at a time"
        with session.start(manifest, resumed=before is not None, announcement=announcement):
            self._search(plan, batch)
        outcomes = session.monitor.outcomes()
        session.finish(outcomes, _failures(outcomes))
        return list(outcomes.values())

    def _search(self, plan: SearchPlan, batch: int) -> None:
        from .loop import Search
        from .planning import PHASE, first_unused, make_arms, repeats

        session = self._session
        arms, points = make_arms(plan, session.folder), session.manifest.points
        if not any(point.tags.get(PHASE) == "repeat" for point in points):
            session.monitor.expected = sum(arm.trials for arm in arms) * len(plan.seeds)  # if none is pruned
        search = Search(arms, seeds=plan.seeds, batch=batch, first_number=first_unused(points), run=session.run)
        search.run()
        self._write_summary(arms)
        last = repeats(plan, arms, session.planner, session.manifest.points)
        if last:
            session.monitor.expected = 0  # all are known now
        session.run(last)

    def _write_summary(self, arms: Sequence[Arm]) -> None:
        """What was found: printed, and for programs in search.json."""
        from .summary import as_json, text

        path = self._session.folder / "search.json"
        outcomes = self._session.monitor.outcomes().values()
        monitor = next((outcome.monitor for outcome in outcomes if outcome.value is not None), Outcome().monitor)
        path.write_text(redaction.redact(json.dumps(as_json(arms), indent=1)), encoding="utf-8")
        print(f"\n{redaction.redact(text(arms, monitor))}\n", flush=True)
        self._session.keep(path)


def _failures(outcomes: Mapping[Point, Outcome]) -> list[Outcome]:
    """The outcomes with which the search has failed.

    A trial that breaks is a result, unless all do; a mistake in the config is not.
    """
    trials = {point: outcome for point, outcome in outcomes.items() if point.tags.get("lwexp.phase") == "search"}
    found_any = any(outcome.status == "FINISHED" for outcome in trials.values())
    return [
        outcome
        for point, outcome in outcomes.items()
        if outcome.status != "FINISHED" and (point not in trials or outcome.exit_code == 2 or not found_any)
    ]
