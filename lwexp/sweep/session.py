"""One sweep from its manifest to its final table: what every sweeper does around its jobs."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins

from lwexp import redaction
from lwexp.config.compose import settings
from lwexp.config.hydra_files import write_multirun_file
from lwexp.config.schema import MLflowConfig
from lwexp.errors import RunError
from lwexp.experiment.find import shown_path
from lwexp.experiment.manifest import Point, SweepManifest, read_manifest
from lwexp.experiment.saved_config import allow_targets, name_store
from lwexp.host.console import console, duration
from lwexp.host.lock import FolderLock
from lwexp.tracking.delivery_client import courier

from . import table
from .best import best_of
from .launchers.base import is_basic
from .monitor import Monitor
from .outcome import Outcome
from .parent import Parent
from .planning import Planner
from .resume import check_sweep_folder
from .running import JobRunner, Records
from .trust import Reference
from .worker import start_fork_server

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class SweepFailedError(RunError):
    """Jobs of the sweep have failed; the others are done."""

    def __init__(self, text: str, exit_code: int) -> None:
        """`exit_code`: 2 if all of them were mistakes in the config."""
        super().__init__(text)
        self.exit_code = exit_code


class Session:
    """A sweep in its folder, which is `owned`: `with start(manifest)`, jobs `run`, and `finish` concludes it."""

    def __init__(
        self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig, batch: int | None = None
    ) -> None:
        """The arguments are those of Hydra's `setup`; the launcher gets at most `batch` jobs at once."""
        self.config = config
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        self.planner = Planner(config, hydra_context.config_loader)
        self.manifest: SweepManifest
        self.monitor: Monitor
        tracking = settings(config).tracking
        self._records = Records(
            self.folder, Path(config.hydra.runtime.cwd), tracking if isinstance(tracking, MLflowConfig) else None
        )
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._runner = JobRunner(launcher, self.planner, self._records, batch)
        self._parent: Parent | None = None
        self._started = time.monotonic()

    def owned(self) -> FolderLock:
        """The sweep's folder, for this process alone within `with`. Raises `ConfigError`, naming the owner."""
        resumed = self.config.sweep.resume
        key, value = ("sweep.resume", resumed) if resumed else ("hydra.sweep.dir", self.folder)
        lock = FolderLock(self.folder).acquire(key, value)
        try:
            check_sweep_folder(self.folder, self.config.resume, resumed)  # another one may have ended just now
        except BaseException:
            lock.release()
            raise
        return lock

    def before(self) -> SweepManifest | None:
        """The manifest of the sweep to resume; meanwhile other processes import what the first job needs."""
        console.now("composing the jobs of the sweep")
        if self._records.tracking is not None:
            courier.start()
        if self.config.sweep.isolate and is_basic(self.config.hydra.launcher):
            start_fork_server()
        return read_manifest(self.folder)

    @contextmanager
    def start(self, manifest: SweepManifest, *, resumed: bool, announcement: str) -> Iterator[None]:
        """Write the manifest and start the parent run, which an error in the `with` block ends.

        Raises the first mistake, before anything is written, if all points of a new sweep have one.
        """
        mistakes = self.planner.mistakes(manifest.points)
        if mistakes and len(mistakes) == len(manifest.points) and not resumed:
            raise next(iter(mistakes.values()))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_multirun_file(self.config, self.folder)
        manifest.save(self.folder)
        records = self._records
        if records.tracking is not None:
            self._parent = Parent(settings(self.config), self.folder, records.base, manifest)
            records.adopt_copies(manifest.points)
        self.monitor = Monitor(self.folder, self._parent, threaded=self.config.sweep.isolate)
        self.manifest, self.monitor.points = manifest, manifest.points
        with console.writing():
            print(announcement, flush=True)
        if resumed:
            self.monitor.skip_known()
        for point, error in mistakes.items():
            records.refuse(point, error)
        try:
            yield
        except BaseException as error:
            killed = not isinstance(error, Exception)
            if self._parent is not None:
                self._parent.end("KILLED" if killed else "FAILED", "interrupted" if killed else str(error))
            print(self._resume_hint(), flush=True)
            raise

    def run(self, points: Sequence[Point]) -> list[Outcome]:
        """Run `points` and report them; new ones first get their entry in the manifest, which their jobs read."""
        known = {point.number for point in self.manifest.points}
        new = [point for point in points if point.number not in known]
        if new:
            self.manifest = replace(self.manifest, points=(*self.manifest.points, *new))
            self.manifest.save(self.folder)
            self.monitor.points = self.manifest.points
            if self._parent is not None:
                self._parent.update_manifest(self.folder, self.manifest)
        for point, error in self.planner.mistakes(new).items():
            self._records.refuse(point, error)
        with console.doing(self.monitor.text), self.monitor.watching():
            return self._runner.run(points)

    def keep(self, path: Path) -> None:
        """Keep a file with the parent run."""
        if self._parent is not None:
            self._parent.keep(path)

    def finish(
        self, outcomes: Mapping[Point, Outcome], failed: Sequence[Outcome], *, report: bool | None = None
    ) -> None:
        """Print the table of all jobs and end the parent run. Raises `SweepFailedError` if any have `failed`.

        `report`: whether to print what lwexp.report says; None: as `sweep.report` does.
        """
        path = self.folder / "jobs.csv"
        try:
            path.write_text(redaction.redact(table.as_csv(outcomes, self.manifest.swept)), encoding="utf-8")
        except OSError as error:  # a full disk: print the table and end the parent run all the same
            print(f"{path} cannot be written: {error.strerror or error}", file=sys.stderr)
        print(f"\n{redaction.redact(table.text(outcomes, console.width))}\n")
        print(f"{table.summary(outcomes)}, in {duration(time.monotonic() - self._started)}", flush=True)
        text = f"{len(failed)} of {len(outcomes)} jobs did not finish"
        if self._parent is not None:
            if path.is_file():
                self._parent.keep(path)
            comparable = len(outcomes) > 1 and any(outcome.status == "FINISHED" for outcome in outcomes.values())
            self._parent.conclude(best_of(outcomes, self.folder))
            if self.config.sweep.keep_weights and any(o.status == "FINISHED" for o in outcomes.values()):
                self._parent.log_best_model(self.folder)
            self._parent.end("FAILED" if failed else "FINISHED", text if failed else None)
            if (
                (self.config.sweep.report if report is None else report)
                and comparable
                and self._parent.run_id is not None
            ):
                self._report(self._parent)
            print(self._parent.where_to_look(), flush=True)
        if failed:
            print(self._resume_hint(), flush=True)
            raise SweepFailedError(text, 2 if all(outcome.exit_code == 2 for outcome in failed) else 1)

    @staticmethod
    def _report(parent: Parent) -> None:
        """Print the report of the sweep, whose main sentence the parent run's description says as well."""
        with console.doing("writing the report of the sweep"):
            report, claim = parent.report()
        with console.writing():
            print(f"{report}\n", flush=True)
        parent.claim(claim)

    def _resume_hint(self) -> str:
        shown = self.config.sweep.resume or shown_path(self.folder, Path.cwd())  # absolute, wherever it was started
        words = ["python", "-m", "lwexp.run", "-m", f"sweep.resume={shown}"]
        sweep = Reference.of(self.config)
        words += [allow_targets(sorted(sweep.allowed))] if sweep.allowed else []
        return f"resume with: {shlex.join([*words, *name_store(sweep.uri, self._records.base, self.folder)])}"
