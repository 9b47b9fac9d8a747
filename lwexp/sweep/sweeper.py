"""Hydra's sweeper for lwexp: the points of a grid and their uniform twins, each run once, by whatever launcher."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from lwexp import redaction
from lwexp.config.compose import settings
from lwexp.config.hydra_files import write_multirun_file
from lwexp.config.schema import MLflowConfig, RunConfig
from lwexp.errors import LwexpError, RunError
from lwexp.experiment.folder import changes_numbers
from lwexp.experiment.manifest import Point, SweepManifest, read_manifest
from lwexp.tracking.delivery_process import courier

from . import table
from .launchers.base import loss_reason
from .outcome import LOST, Outcome, note_failure, note_loss, outcome_of
from .parent import Parent, record_run
from .points import expand, identity, is_layerwise, is_uniform, missing_twins, split, values_of, varying_keys
from .worker import warm_up

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig

_LOOK_SECONDS = 1.0
_END_SECONDS = 60.0  # for interrupted jobs to write their checkpoints; Slurm gives them 30
_LOOKS_PER_SECOND = 2000  # at the folders of jobs, so that watching a large sweep costs little


class SweepFailedError(RunError):
    """Jobs of the sweep have failed; the others are done."""

    def __init__(self, text: str, exit_code: int) -> None:
        """`exit_code`: 2 where all of them were mistakes in what was asked for."""
        super().__init__(text)
        self.exit_code = exit_code


class GridSweeper(Sweeper):
    """Every combination of the values on the command line (Hydra's own `hydra/sweeper=basic` in what it takes)."""

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        """`max_batch_size` jobs are handed to the launcher at once; `params` are further overrides, by key."""
        self._most, self._params = max_batch_size, dict(params or {})
        self.config: DictConfig
        self.folder: Path
        self.work: SweepManifest
        self.parent: Parent | None = None
        self._loader: ConfigLoader
        self._launcher: Launcher
        self._tracking: MLflowConfig | None = None
        self._how: list[str] = []  # overrides that say how the jobs run, not what comes out
        self._told: dict[int, str] = {}  # status that people know, by the job's number
        self._began = time.monotonic()
        self._checked: dict[tuple[str, ...], RunConfig | LwexpError] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hook: the sweep's config and what jobs are composed and launched with."""
        self.config, self._loader = config, hydra_context.config_loader
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        self.base = Path(config.hydra.runtime.cwd)
        checked = settings(config).tracking
        self._tracking = checked if isinstance(checked, MLflowConfig) else None
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep that the command's overrides `arguments` ask for. Raises `SweepFailedError`, `ConfigError`."""
        return self.around(arguments, lambda: self.run_points(self.work.points))

    def around(self, arguments: Sequence[str], run: Any) -> list[Outcome]:
        """Begin the sweep, `run()`, and end it, whatever happens; its result comes back."""
        self.begin(arguments)
        try:
            result: list[Outcome] = run()
        except BaseException as error:
            killed = not isinstance(error, Exception)
            self._show()
            if self.parent is not None:
                self.parent.end("KILLED" if killed else "FAILED", "interrupted" if killed else str(error))
            print(self.how_to_go_on(), flush=True)
            raise
        self.end()
        return result

    # ----------------------------------------------------------------------------------------------------- beginning

    def begin(self, arguments: Sequence[str]) -> None:
        """Make the plan of work, or take up that of the sweep in the folder, and the parent run."""
        self._warm_up()
        overrides = self._parse([*(f"{key}={value}" for key, value in self._params.items()), *arguments])
        before = read_manifest(self.folder)
        points = self.points(overrides, before)
        asked = tuple(redaction.redact(argument) for argument in arguments)
        hydra = [str(o) for o in self.config.hydra.overrides.hydra]
        kept = [o for o in hydra if split(o)[0] not in ("hydra.sweep.dir", "hydra.mode")]
        swept = self.swept(points, before)
        old = len(before.points) if before else 0
        named = [*points[:old], *(_with_values(point, swept) for point in points[old:])]
        begun_in = str(self.base) if before is None else before.cwd
        work = SweepManifest(tuple(named), tuple(swept), asked, tuple(redaction.redact_values(kept)), begun_in)
        wrong = self._mistakes(work.points)
        if wrong and len(wrong) == len(work.points) and before is None:
            raise next(iter(wrong.values()))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_multirun_file(self.config, self.folder)
        work.save(self.folder)
        self.work = work
        if self._tracking is not None:
            self.parent = Parent(self._tracking, self.folder, self.base, work)
        self._announce(before)
        for point, error in wrong.items():
            self._refuse(point, error)

    def _warm_up(self) -> None:
        """Have what the first job needs imported by other processes while the jobs are composed, which takes time."""
        if self._tracking is not None:
            courier.start()
        if self.config.sweep.isolate and "BasicLauncher" in str(self.config.hydra.launcher._target_):
            warm_up()

    def points(self, overrides: Sequence[Override], before: SweepManifest | None) -> list[Point]:
        """The points of the sweep: those that it had, those that `overrides` ask for, and the twins that lack."""
        jobs = expand(overrides)
        swept = {o.get_key_element().lstrip("+~") for o in overrides if o.is_sweep_override()}
        self._how = [o for o in jobs[0] if split(o)[0] not in swept and not changes_numbers(split(o)[0])]
        jobs = [tuple(o for o in job if o not in self._how) for job in jobs]
        points = list(before.points) if before else []
        known = {self._identity(point.overrides): i for i, point in enumerate(points)}
        keys = [*swept, *(before.swept if before else ())]
        good = [(job, found) for job in jobs if isinstance(found := self.checked(job), RunConfig)]
        twins = self._twins(good, keys, [point.overrides for point in points])
        uniform = {job for job, config in good if is_uniform(config, job, keys)}
        for job in dict.fromkeys([*jobs, *twins]):
            place = known.setdefault(self._identity(job), len(points))
            if place < len(points):
                points[place] = replace(points[place], overrides=job)  # as typed now: secrets are kept nowhere
                continue
            arm = "uniform" if job in uniform or job in twins else "layerwise"
            points.append(Point(place, job, arm=arm, baseline=job in twins))  # type: ignore[arg-type]
        return points

    def swept(self, points: Sequence[Point], before: SweepManifest | None) -> Sequence[str]:
        """The keys that set the points apart, those that they were known by first."""
        return varying_keys([point.overrides for point in points], before.swept if before else ())

    def _twins(
        self,
        jobs: Sequence[tuple[tuple[str, ...], RunConfig]],
        swept: Sequence[str],
        before: Sequence[tuple[str, ...]],
    ) -> list[tuple[str, ...]]:
        wanted = self.config.sweep.baseline
        if wanted is False or (wanted == "auto" and not any(is_layerwise(key) for key in swept)):
            return []
        old = [(job, found) for job in before if isinstance(found := self.checked(job), RunConfig)]
        return missing_twins([*old, *jobs], swept, self._identity)

    def _mistakes(self, points: Sequence[Point]) -> dict[Point, LwexpError]:
        """Points whose config cannot be composed or is refused, and why; the others may run."""
        found = {point: self.checked(point.overrides) for point in points}
        return {point: error for point, error in found.items() if isinstance(error, LwexpError)}

    def checked(self, job: tuple[str, ...]) -> RunConfig | LwexpError:
        """The config of a job, or why it cannot be."""
        from lwexp.cli.app import explained

        if job not in self._checked:
            try:
                self._checked[job] = settings(self._loader.load_sweep_config(self.config, [*self._how, *job]))
            except Exception as error:
                known = explained(error)
                if known is None:
                    raise
                self._checked[job] = known
        return self._checked[job]

    def _refuse(self, point: Point, error: LwexpError) -> None:
        """Keep of a job that cannot be begun that it has failed, and why."""
        folder, reason = self.folder_of(point), redaction.redact(str(error))
        if outcome_of(folder).status == "FINISHED":
            return
        note_failure(folder, reason, error.exit_code)
        if self._tracking is not None:
            record_run(self._tracking, folder, self.base, "FAILED", reason)

    def _announce(self, before: SweepManifest | None) -> None:
        outcomes = self.outcomes()
        twins = sum(point.baseline for point in self.work.points)
        parts = [f"{len(outcomes)} jobs"]
        parts += [f"{twins} of them uniform twins (sweep.baseline)"] if twins else []
        if before is not None:
            done = sum(outcome.status == "FINISHED" for outcome in outcomes.values())
            parts.append(f"{done} finished before")
        print(f"sweep in {self.folder}: {', '.join(parts)}", flush=True)
        self._told = {p.number: o.status for p, o in outcomes.items() if before is not None}

    # ------------------------------------------------------------------------------------------------------- running

    def run_points(self, points: Sequence[Point]) -> list[Outcome]:
        """Run what is not finished of `points`, and wait for what others are running; the outcomes, in their order.

        A job that failed before is tried once more, one that was cut off goes on. No job is run twice at a time.
        """
        with self._watched():
            tried: set[Point] = set()
            while True:
                outcomes = {point: outcome_of(self.folder_of(point)) for point in points}
                elsewhere = [p for p, o in outcomes.items() if o.status == "RUNNING"]
                todo = [p for p, o in outcomes.items() if o.status not in ("RUNNING", "FINISHED")]
                todo = [p for p in todo if p not in tried and isinstance(self.checked(p.overrides), RunConfig)]
                if todo:
                    self._launch(todo)
                    tried.update(todo)
                elif elsewhere:
                    time.sleep(_LOOK_SECONDS)
                else:
                    break
        self._show()
        return list(outcomes.values())

    def folder_of(self, point: Point) -> Path:
        """The run folder of a point's job."""
        return self.folder / str(point.number)

    def outcomes(self) -> dict[Point, Outcome]:
        """What has become of every point so far."""
        return {point: outcome_of(self.folder_of(point)) for point in self.work.points}

    def _launch(self, points: Sequence[Point]) -> None:
        size = self._most or len(points)
        for first in range(0, len(points), size):
            batch = points[first : first + size]
            jobs = [[*self._how, *point.overrides, f"hydra.sweep.subdir={point.number}"] for point in batch]
            reasons: dict[Point, str] = {}
            try:
                with _quiet_launcher():
                    results = self._launcher.launch(jobs, initial_job_idx=first)
                reasons = {point: loss_reason(result) for point, result in zip(batch, results, strict=True)}
            except Exception as error:  # of the launcher: what became of its jobs, their folders tell
                text = " ".join(f"{type(error).__name__}: {error}".split())
                print(redaction.redact(f"the launcher reports {text[:300]}"), file=sys.stderr)
            except BaseException:
                self._end_interrupted(batch)
                raise
            for point in batch:
                outcome, reason = outcome_of(self.folder_of(point)), reasons.get(point)
                if outcome.reason == LOST or (outcome.status == "MISSING" and reason):
                    self._lose(point, reason or LOST)

    def _end_interrupted(self, points: Sequence[Point]) -> None:
        """Let those of `points` that the launcher has told to end do so, and see to it that their records have ends.

        A second Ctrl-C does not wait for the jobs, a third one does not wait for the store.
        """
        deadline = time.monotonic() + _END_SECONDS
        with suppress(KeyboardInterrupt):
            while any(outcome_of(self.folder_of(point)).status == "RUNNING" for point in points):
                if time.monotonic() > deadline:
                    break
                time.sleep(_LOOK_SECONDS)
        with suppress(KeyboardInterrupt):
            for point in points:
                outcome = outcome_of(self.folder_of(point))
                if outcome.status == "KILLED":
                    self._lose(point, "interrupted" if outcome.reason in (None, LOST) else outcome.reason)

    def _lose(self, point: Point, reason: str) -> None:
        """End the record of a job that could not do it itself; `reason` is what its launcher knows."""
        folder = self.folder_of(point)
        try:
            note_loss(folder, reason)
            if self._tracking is not None:
                record_run(self._tracking, folder, self.base, "KILLED", reason)
        except (LwexpError, OSError) as error:  # a full disk
            print(redaction.redact(f"{point.name}: {reason}; that cannot be recorded: {error}"), file=sys.stderr)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While jobs run, tell of each that ends. Jobs in this very process leave no room for a second thread."""
        if not self.config.sweep.isolate:
            yield
            return
        done = threading.Event()
        pause = max(_LOOK_SECONDS, len(self.work.points) / _LOOKS_PER_SECOND)

        def watch() -> None:
            while not done.wait(pause):
                self._show(over=False)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _show(self, *, over: bool = True) -> None:
        """A line for each job that has ended since the last look; the parent run's progress.

        A killed job is told when the launcher's work is `over`: until then a cluster may start it again.
        """
        outcomes = self.outcomes()
        total = self.total()
        for point, outcome in outcomes.items():
            if outcome.status == self._told.get(point.number) or (outcome.status == "KILLED" and not over):
                continue
            self._told[point.number] = outcome.status
            if outcome.status in ("FINISHED", "FAILED", "KILLED"):
                done = sum(status in ("FINISHED", "FAILED", "KILLED") for status in self._told.values())
                stream = sys.stderr if outcome.failed else sys.stdout
                print(redaction.redact(table.line(point, outcome, done, total)), file=stream, flush=True)
        if self.parent is not None:
            self.parent.show(list(outcomes.values()), total)

    # -------------------------------------------------------------------------------------------------------- ending

    def end(self) -> None:
        """The table of all jobs, and the parent run's end. Raises `SweepFailedError` where a job has failed."""
        outcomes = self.outcomes()
        path = self.folder / "jobs.csv"
        try:
            path.write_text(redaction.redact(table.as_csv(outcomes, self.work.swept)), encoding="utf-8")
        except OSError as error:  # a full disk: the table is printed, and the parent run ended, all the same
            print(f"{path} cannot be written: {error.strerror or error}", file=sys.stderr)
        print(f"\n{redaction.redact(table.text(outcomes))}\n")
        print(f"{table.summary(outcomes)}, in {table.duration(time.monotonic() - self._began)}", flush=True)
        bad = self.bad(outcomes)
        text = f"{len(bad)} of {len(outcomes)} jobs did not finish"
        if self.parent is not None:
            if path.is_file():
                self.parent.keep(path)
            self.parent.end("FAILED" if bad else "FINISHED", text if bad else None)
            worth_it = len(outcomes) > 1 and any(outcome.status == "FINISHED" for outcome in outcomes.values())
            if self.config.sweep.report and worth_it and self.parent.run_id is not None:
                print(f"{self.parent.report()}\n", flush=True)
            print(self.parent.where_to_look(), flush=True)
        if bad:
            print(self.how_to_go_on(), flush=True)
            raise SweepFailedError(text, 2 if all(outcome.exit_code == 2 for outcome in bad) else 1)

    def total(self) -> int:
        """How many jobs the sweep has, as far as that is known."""
        return len(self.work.points)

    def bad(self, outcomes: Mapping[Point, Outcome]) -> list[Outcome]:
        """The outcomes for which the sweep has failed."""
        return [outcome for outcome in outcomes.values() if outcome.status != "FINISHED"]

    def how_to_go_on(self) -> str:
        """The line with the command that carries the sweep on."""
        from lwexp.experiment.resume import shown_path

        shown = self.config.sweep.resume or shown_path(self.folder, Path.cwd())  # absolute, from wherever it is asked
        return f"carry on with: python -m lwexp.run -m sweep.resume={shown}"

    def _identity(self, job: Sequence[str]) -> str:
        return identity(self._parse(redaction.redact_values(list(job))))

    def _parse(self, overrides: Sequence[str]) -> list[Override]:
        return OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))


@contextmanager
def _quiet_launcher() -> Iterator[None]:
    """Without the lines of Hydra's own launcher: the sweep tells of each job."""
    logger = logging.getLogger("hydra._internal.core_plugins.basic_launcher")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _with_values(point: Point, swept: Sequence[str]) -> Point:
    return replace(point, values=redaction.redact_values(values_of(point.overrides, swept)))
