"""The two phases of a study: the search of each setting's rate, and the fresh seeds of what it has chosen."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from lwexp.experiment.manifest import Point
from lwexp.sweep.outcome import Outcome
from lwexp.sweep.points import effective

from .plan import Setting, best_settings
from .results import FILE, Row, write_rows

if TYPE_CHECKING:
    from lwexp.sweep.session import Session

    from .settings import StudySettings

PHASE = "lwexp.phase"


class StudyRun:
    """The phases of one study, whose points are numbered in the order in which they are planned."""

    def __init__(self, session: Session, study: StudySettings, settings: Sequence[Setting], name: str) -> None:
        """Points that an earlier, interrupted command has planned are found again by what they do.

        To be made within `session.start`.
        """
        self._session, self._study, self._settings, self._name = session, study, settings, name
        points = session.manifest.points
        self._known = {session.planner.identity(point.overrides): point for point in points}
        self._numbers = itertools.count(max((point.number + 1 for point in points), default=0))
        self._rows: dict[Row, Point] = {}

    def search(self) -> None:
        """Try the rates of every setting, and more beyond an end while the best one is there."""
        wanted = [(setting, rate) for setting in self._settings for rate in setting.rates]
        self._session.monitor.expected = len(wanted) * len(self._study.search_seeds)
        while wanted:
            self._try(wanted)
            wanted = []
            for setting in self._settings:
                rate = setting.wider(self._study.lr, self._study.widen)
                if rate is not None:
                    setting.add(rate)
                    wanted.append((setting, rate))

    def finals(self) -> None:
        """Train what was chosen with the fresh seeds."""
        best = best_settings(self._settings)
        for arm in dict.fromkeys(setting.arm for setting in self._settings if setting.arm not in best):
            print(f"note: every run of the arm {arm} has failed; it has no result", file=sys.stderr)
        points = []
        for setting in self._settings:
            is_best = setting is best.get(setting.arm)
            if setting.best is not None and (is_best or self._study.finals == "settings"):
                chosen = "arm" if is_best else "setting"
                points += [self._point(setting, setting.best, seed, "final", chosen) for seed in self._study.seeds]
        self._session.monitor.expected = 0  # all are known now
        self._run(points)

    def write(self) -> Path:
        """Write `study.csv`, a row for each run so far, and keep it with the parent run."""
        path = self._write_rows()
        self._session.keep(path)
        return path

    def _write_rows(self) -> Path:
        path = self._session.folder / FILE
        write_rows(path, self._rows.items())
        return path

    def _try(self, trials: Sequence[tuple[Setting, str]]) -> None:
        """Run `trials` and note the score of each; one of whose seeds has failed has none."""
        seeds = self._study.search_seeds
        points = {
            (k, seed): self._point(setting, rate, seed, "search")
            for k, (setting, rate) in enumerate(trials)
            for seed in seeds
        }
        outcomes = self._run(points.values())
        for k, (setting, rate) in enumerate(trials):
            found = [outcomes[points[k, seed].number] for seed in seeds]
            values = [o.monitor.score(o.value) for o in found if o.status == "FINISHED" and o.value is not None]
            setting.scores[rate] = fmean(values) if len(values) == len(seeds) else None

    def _run(self, points: Iterable[Point]) -> Mapping[int, Outcome]:
        """The outcomes by number; points that two arms have in common are run once."""
        distinct = {point.number: point for point in points}
        outcomes = dict(zip(distinct, self._session.run(list(distinct.values())), strict=True))
        self._write_rows()  # now, for a command that is killed later
        return outcomes

    def _point(self, setting: Setting, rate: str, seed: int, phase: str, chosen: str = "") -> Point:
        """The point of a run, which gets its row in the table."""
        unseen = ["evaluate_test=false"] if phase == "search" else []  # a command that asks for it has it
        job = effective([*unseen, *setting.overrides, f"lr={rate}", f"seed={seed}"])
        identity = self._session.planner.identity(job)
        if identity not in self._known:
            values = {"arm": setting.arm, "setting": setting.name, "lr": rate, "seed": str(seed)}
            self._known[identity] = Point(
                next(self._numbers),
                job,
                {key: value for key, value in values.items() if value},
                arm=self._session.planner.arm(job),
                tags={PHASE: "repeat" if phase == "final" else "search"},
            )
        point = replace(self._known[identity], overrides=job)  # as planned now: secrets are in no file
        samples = "" if setting.train_samples is None else str(setting.train_samples)
        row = Row(self._name, setting.arm, setting.name, self._role(setting.arm), phase, chosen, rate, seed, samples)
        self._rows[row] = point
        return point

    def _role(self, arm: str) -> str:
        return "reference" if arm == self._study.reference else "primary" if arm in self._study.primary else ""
