"""A sweep's own run in MLflow, the parent of its jobs' runs; and the runs of jobs that could not record themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lwexp import redaction
from lwexp.config.compose import plain
from lwexp.config.schema import MLflowConfig, RunConfig
from lwexp.errors import LwexpError
from lwexp.experiment.manifest import FILE, SweepManifest, place_in_sweep, point_of
from lwexp.experiment.naming import own_tags
from lwexp.formatting import escaped, few
from lwexp.tracking import (
    JournalTracker,
    Status,
    amend,
    deliver_rest,
    has_run,
    logged_params,
    open_hint,
    prepare,
    resolve_uri,
    run_status,
    start,
)
from lwexp.tracking.keys import NOTE_TAG

from .best import Best
from .outcome import Outcome
from .points import split
from .reporting import make_report

if TYPE_CHECKING:
    from omegaconf import DictConfig

_SHOWN_ELSEWHERE = ("name", "tags", "notes")


class Parent:
    """The parent run: created before the first job, updated as jobs end, ended after the last."""

    def __init__(self, config: RunConfig, folder: Path, base: Path, manifest: SweepManifest) -> None:
        """Start or resume the run of the sweep in `folder`; `config` is what its jobs have in common.

        Raises `ConfigError`, `RunError`.
        """
        tracking, typed = config.tracking, " ".join(manifest.overrides)
        assert isinstance(tracking, MLflowConfig)
        # the swept keys first: MLflow truncates names in its list
        telling = [each for each in manifest.overrides if split(each)[0].partition(".")[0] not in _SHOWN_ELSEWHERE]
        own = [override for override in telling if split(override)[0] in manifest.swept]
        given = " ".join([*own, *(override for override in telling if override not in own)])
        name = config.name or given or "sweep"
        self._shown: tuple[int, ...] = ()
        self._first: list[str] = []  # of the description
        self._command, self._notes = f"Sweep: `python -m lwexp.run -m {typed}`", config.notes or ""
        self._tracking, self._base = tracking, base
        self._tracker: JournalTracker = start(
            tracking,
            folder=folder,
            base=base,
            run_name=name,
            tags={
                **own_tags(config),
                "lwexp.overrides": typed,
                "lwexp.kind": "sweep",
                "lwexp.folder": str(folder),
                "lwexp.swept": json.dumps(manifest.swept),
            },
            description=self._description(),
            params={},
            answers=prepare(tracking, base),
        )
        self.update_manifest(folder, manifest)  # a resumed sweep may have more points

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None until the store has created the run."""
        return self._tracker.run_id

    def update_manifest(self, folder: Path, manifest: SweepManifest) -> None:
        """Store the varying keys, and the manifest in `folder`."""
        self._tracker.tag({"lwexp.swept": json.dumps(manifest.swept)})
        self._tracker.artifact(folder / FILE)

    def show(self, outcomes: Sequence[Outcome], total: int) -> None:
        """Log how many of the `total` jobs have finished, failed and are running, if that has changed."""
        finished = sum(outcome.status == "FINISHED" for outcome in outcomes)
        failed = sum(outcome.failed for outcome in outcomes)
        running = sum(outcome.status == "RUNNING" for outcome in outcomes)
        counts = {"finished": finished, "failed": failed, "running": running, "total": total}
        if tuple(counts.values()) == self._shown:
            return
        self._shown = tuple(counts.values())
        progress = f"{finished} of {total} finished" + (f", {failed} failed" if failed else "")
        self._tracker.log({f"sweep/{name}": float(count) for name, count in counts.items()}, self._seconds())
        self._tracker.tag({"lwexp.progress": progress + (f", {running} running" if running else "")})

    def conclude(self, best: Best | None) -> None:
        """Log the best setting with its metrics and params; the description begins with it."""
        if best is None:
            return
        tracker = self._tracker
        tracker.log(best.metrics, self._seconds())
        before = logged_params(tracker.folder)
        other = sorted(key for key, value in best.params.items() if before.get(key, value) != value)
        tracker.params({key: value for key, value in best.params.items() if key not in before})
        stale = f"Params cannot change in MLflow: {few(other)} are of an earlier best setting." if other else ""
        self._first = [best.text, stale]
        tracker.tag({NOTE_TAG: self._description()})

    def claim(self, sentence: str) -> None:
        """Add what the report claims to the description; the run has ended, and the report was made from it."""
        if not self._first or not sentence:
            return
        self._first.insert(1, escaped(sentence))
        amend(self._tracking, self._tracker.folder, self._base, {NOTE_TAG: self._description()})

    def _description(self) -> str:
        return "\n\n".join(text for text in (*self._first, self._notes, self._command) if text)

    def _seconds(self) -> int:
        """Since the start: a step that grows even when failed jobs run again."""
        started = self._tracker.journal.run["time_ms"] if self._tracker.journal.run else 0
        return int(time.time() - started / 1000)

    def keep(self, path: Path) -> None:
        """Attach a file to the run."""
        self._tracker.artifact(path)

    def log_best_model(self, folder: Path) -> None:
        """Log the network of the sweep's best job as an MLflow model of the parent run, if that is wanted."""
        if not self._tracking.model or os.environ.get("LWEXP_NO_MODELS"):
            return
        command = [sys.executable, "-m", "lwexp.inference.packaging", str(folder)]
        done = subprocess.run(command, cwd=self._base, capture_output=True, text=True, check=False)
        try:
            facts = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            why = (done.stderr.strip().splitlines() or ["the export died"])[-1]
            self._tracker.tag({"lwexp.model": f"none: {why}"})
            print(redaction.redact(f"the sweep has no MLflow model: {why}"))
            return
        self._tracker.model(folder / "model", {**facts, "register": self._tracking.register_model})

    def where_to_look(self) -> str:
        """Lines to print: where the runs are, and how to open MLflow's page of them."""
        where = f"tracked in {self._tracker.where} as {self.run_id}\n" if self.run_id is not None else ""
        return where + open_hint(self._tracking, self._base)

    def report(self) -> tuple[str, str]:
        """The output of `lwexp.report` on the sweep, and its main sentence; in a subprocess, since it imports mlflow.

        The sentence is the second paragraph of what it prints; empty where it fails.
        """
        # an address may hold a password, and other users see a command line
        uri = resolve_uri(self._tracking, self._base)
        text, made = make_report(str(self.run_id), base=self._base, MLFLOW_TRACKING_URI=uri)
        said = text.split("\n\n")
        is_sentence = made and len(said) > 2 and "---" not in said[1]  # else a table
        return text, " ".join(said[1].split()) if is_sentence else ""

    def end(self, status: Status, reason: str | None = None) -> None:
        """End the run."""
        self._tracker.finish(status, reason)


def record_failure(config: DictConfig, folder: Path, status: Status, reason: str) -> None:
    """Record in MLflow how the job in `folder` failed, unless the job did so itself.

    If the store does not accept it, one line says so: the job has failed for another reason.
    """
    from hydra.core.hydra_config import HydraConfig

    if has_run(folder) and run_status(folder) is not None:
        return
    tracking = plain(config)["tracking"]
    if tracking.get("name") != "mlflow":
        return
    try:
        settings = MLflowConfig.model_validate(tracking)
        record_run(settings, folder, Path(HydraConfig.get().runtime.cwd), status, reason)
    except (LwexpError, ValueError) as error:
        print(redaction.redact(f"the failure is not recorded in MLflow: {error}"))


def record_run(tracking: MLflowConfig, folder: Path, base: Path, status: Status, reason: str) -> None:
    """A run of the job in `folder` that ends with `status` and `reason`.

    An existing run gets that end unless it has one, and its store whatever was not delivered yet.
    """
    if has_run(folder):
        deliver_rest(tracking, folder, base, status, reason)
        return
    _start(tracking, folder, base).finish(status, reason)


def record_copy(tracking: MLflowConfig, folder: Path, base: Path) -> None:
    """A run of its own of the finished job in `folder`, a copy, with all that is recorded in it."""
    _start(tracking, folder, base).finish("FINISHED")


def _start(tracking: MLflowConfig, folder: Path, base: Path) -> JournalTracker:
    point = point_of(folder)
    parent, name, tags = place_in_sweep(folder)
    return start(
        tracking,
        folder=folder,
        base=base,
        run_name=name or folder.name,
        tags={**tags, "lwexp.overrides": " ".join(point.overrides) if point else "", "lwexp.folder": str(folder)},
        description="",
        params={},
        parent=parent,
        answers=False,
    )
