"""`hydra/sweeper=study`: each arm searches its base rate, then what was chosen is trained with fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from lwexp.config.keys import changes_numbers
from lwexp.experiment.manifest import Point
from lwexp.host.console import console
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.points import split
from lwexp.sweep.reporting import make_report
from lwexp.sweep.session import Session

from .arms import check_the_same, make_settings
from .plan import Setting
from .run import PHASE, StudyRun
from .settings import StudySettings, check_study

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_KEYS = ("arm", "setting", "lr", "seed")  # in which its points differ


class StudySweeper(Sweeper):
    """A study in place of a grid; its jobs are points of a sweep like others, run by any launcher."""

    def __init__(self, **options: Any) -> None:
        """`options` are the keys of conf/hydra/sweeper/study.yaml."""
        self._options = options
        self._study: StudySettings
        self._session: Session

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: check all that can be checked before anything is trained."""
        options = OmegaConf.to_container(OmegaConf.create(self._options), resolve=True)
        assert isinstance(options, dict)
        self._study = check_study({str(key): value for key, value in options.items()})
        self._session = Session(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Run the study. Raises `SweepFailedError`, `ConfigError`, `RunError`."""
        with self._session.owned():
            return self._sweep(self._session, self._session.planner.own_words(arguments))

    def _sweep(self, session: Session, arguments: list[str]) -> list[Outcome]:
        before = session.before()
        planner = session.planner
        planner.distrust(before)
        planner.set_aside(o for o in arguments if not changes_numbers(split(o)[0]))
        common = [o for o in arguments if changes_numbers(split(o)[0])]
        if before is not None:
            check_the_same(common, before.overrides, planner)
        settings = make_settings(self._study, common, planner)
        if shared := sorted({*self._study.seeds}.intersection(self._study.search_seeds)):
            print(f"note: hydra.sweeper.seeds has {shared} of the search, which chose rates also for their luck there")
        manifest = planner.manifest(arguments, before.points if before else (), _KEYS, before)
        with session.start(manifest, resumed=before is not None, announcement=self._announcement(settings)):
            run = StudyRun(session, self._study, settings, self._name())
            try:
                run.search()
                run.finals()
            finally:
                table = run.write()  # also what was done before an interruption
            text = self._report(session, table)
        outcomes = session.monitor.outcomes()
        try:
            session.finish(outcomes, _failures(outcomes), report=False)
        finally:
            print(text, flush=True)
        return list(outcomes.values())

    @staticmethod
    def _report(session: Session, table: Path) -> str:
        """What the report on `table` says; its files are kept with the parent run."""
        if not session.config.sweep.report:
            return ""
        out = table.parent / "report"
        with console.doing("writing the report of the study"):
            text, _ = make_report(str(table), "-o", str(out), base=Path.cwd(), COLUMNS=str(console.width))
        if out.is_dir():
            session.keep(out)
        return text

    def _announcement(self, settings: Sequence[Setting]) -> str:
        arms = len({setting.arm for setting in settings})
        runs = sum(len(setting.rates) for setting in settings) * len(self._study.search_seeds)
        what = f"{arms} arms, {len(settings)} settings, {runs} runs to find their rates"
        return f"study in {self._session.folder}: {what}, then {len(self._study.seeds)} seeds of each choice"

    def _name(self) -> str:
        """That of the study file, else of the sweep, else of its folder."""
        chosen = OmegaConf.select(self._session.config, "hydra.runtime.choices.study")
        return str(self._session.config.name or chosen or self._session.folder.name)


def _failures(outcomes: Mapping[Point, Outcome]) -> list[Outcome]:
    """The outcomes with which the study has failed: a rate that breaks a search run is a result."""
    found_any = any(outcome.status == "FINISHED" for outcome in outcomes.values())
    return [
        outcome
        for point, outcome in outcomes.items()
        if outcome.status != "FINISHED"
        and (point.tags.get(PHASE) != "search" or outcome.exit_code == 2 or not found_any)
    ]
