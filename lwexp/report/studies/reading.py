"""Reads the runs of studies from `study.csv`, the result of `lwexp.study`: one row per run."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lwexp.errors import ConfigError, RunError, UnknownNameError
from lwexp.formatting import few, one_line

NAME = "study.csv"
NEEDED = ("study", "arm", "setting", "role", "phase", "chosen", "lr", "seed", "status", "metric", "mode", "val", "test")
_CHOICES = {
    "role": ("", "reference", "primary"),
    "phase": ("search", "final"),
    "status": ("finished", "failed"),
    "chosen": ("", "arm", "setting"),
    "mode": ("", "max", "min"),
}


@dataclass(frozen=True)
class Run:
    """A run of a study: `val` is its best value on validation, `test` that of the same weights; NaN where unknown.

    `chosen`, in final runs: "arm" where setting and rate were the best of the arm in the search, "setting" where the
    rate was the best of the setting. `seconds` of training, `peak_mb` of memory, optimizer `steps`.
    """

    arm: str
    setting: str
    role: str
    final: bool
    chosen: str
    lr: float
    seed: str
    finished: bool
    val: float
    test: float
    steps: float = math.nan
    seconds: float = math.nan
    peak_mb: float = math.nan

    @property
    def measured(self) -> bool:
        """Whether it has a finite value on any split."""
        return not (math.isnan(self.val) and math.isnan(self.test))

    @property
    def key(self) -> tuple[str, str, bool, float, str]:
        """What no two runs of a study share."""
        return self.arm, self.setting, self.final, self.lr, self.seed


@dataclass(frozen=True)
class Study:
    """The runs of one study, in an order that does not depend on that of the file.

    `planned`: the reference of the file, where the reader wants another one.
    """

    name: str
    metric: str
    mode: str
    runs: tuple[Run, ...]
    planned: str | None = None


def read_studies(paths: Iterable[str | Path]) -> list[Study]:
    """The studies in `paths`, CSV files or folders with `study.csv`: by file, within a file by name.

    A study may be spread over several files. Of a run that is in them twice, the finished one counts. Raises
    `ConfigError` for what cannot be read or is no study, and for two different results of one run; `RunError` for a
    study of which no run has finished.
    """
    found: dict[str, dict[tuple[object, ...], Run]] = {}
    measures: dict[str, tuple[str, str]] = {}
    for given in paths:
        path = study_file(given) or Path(given)
        rows = _rows(path)
        for row in sorted(rows, key=lambda row: row["study"]):
            run, name, measure = _run(row, path), row["study"], (row["metric"], row["mode"])
            # a run may have failed before it had a metric
            if run.finished and measures.setdefault(name, measure) != measure:
                both = few([" ".join(each) for each in sorted({measure, measures[name]})])
                raise ConfigError("study", path, f"the runs of {name} are measured differently: {both}")
            runs = found.setdefault(name, {})
            runs[run.key] = _one(runs.get(run.key, run), run, path)
    studies = []
    for name, known in found.items():
        if name not in measures:
            raise RunError(f"the study {name} has no finished run to report on")
        ordered = tuple(sorted(known.values(), key=lambda run: run.key))
        _check_roles(name, ordered)
        studies.append(Study(name, *measures[name], ordered))
    return studies


def with_reference(study: Study, arm: str) -> Study:
    """`study` with all other arms compared with `arm`; none is primary any more. Raises `UnknownNameError`."""
    arms = {run.arm: run.role for run in study.runs}
    if arm not in arms:
        raise UnknownNameError("--reference", arm, arms, f"{study.name} has no such arm")
    if arms[arm] == "reference":
        return study
    runs = tuple(replace(run, role="reference" if run.arm == arm else "") for run in study.runs)
    planned = next((name for name, role in arms.items() if role == "reference"), "no arm")
    return replace(study, runs=runs, planned=planned)


def study_file(word: str | Path) -> Path | None:
    """The file of a study that `word` names, a CSV file or a folder with `study.csv`; None for any other word.

    Raises `ConfigError` for the folder of a study that has none yet.
    """
    path = Path(word)
    if path.is_dir():
        if not (path / NAME).is_file() and _is_study(path / "sweep.json"):
            why = f"its search has not ended, so it has no {NAME} yet; lwexp.run sweep.resume={path} carries on"
            raise ConfigError("study", path, why)
        return path / NAME if (path / NAME).is_file() else None
    return path if path.suffix.lower() == ".csv" else None


def _is_study(manifest: Path) -> bool:
    try:
        return "hydra/sweeper=study" in json.loads(manifest.read_text(encoding="utf-8"))["hydra_overrides"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _rows(path: Path) -> list[dict[str, str]]:
    """The lines of `path`, each with its place under `line`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            titles = list(reader.fieldnames or [])
            lines = []
            for row in reader:
                if None in row:
                    raise ConfigError("study", path, f"line {reader.line_num} has more cells than titles")
                lines.append({**row, "line": str(reader.line_num)})
    except OSError as error:
        raise ConfigError("study", path, f"cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("study", path, f"is not a CSV file: {one_line(error)}") from None
    missing = [title for title in NEEDED if title not in titles]
    if missing:
        what = "is empty" if not titles else f"has no column {few(missing)}"
        raise ConfigError("study", path, f"{what}; a study is the {NAME} that lwexp.study writes")
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise ConfigError("study", path, f"has several columns {few(twice)}")
    rows = [{key: (value or "").strip() for key, value in row.items()} for row in lines]
    rows = [row for row in rows if row["study"] != "study"]  # files joined by `cat` repeat their titles
    if not rows:
        raise ConfigError("study", path, "holds no run yet")
    return rows


def _run(row: Mapping[str, str], path: Path) -> Run:
    for key, choices in _CHOICES.items():
        if row[key] not in choices:
            allowed = " or ".join(choice or "empty" for choice in choices)
            raise ConfigError("study", path, f"line {row['line']}: {key} is {row[key]!r}, but must be {allowed}")
    for key in ("study", "arm"):
        if not row[key]:
            raise ConfigError("study", path, f"line {row['line']} has no {key}")
    if (row["phase"] == "final") != bool(row["chosen"]):
        raise ConfigError("study", path, f"line {row['line']}: chosen must be given in final runs, and only there")
    if row["status"] == "finished" and not (row["metric"] and row["mode"]):
        raise ConfigError("study", path, f"line {row['line']}: a finished run must have metric and mode")
    lr = _number(row, "lr", path)
    if not lr > 0:
        raise ConfigError("study", path, f"line {row['line']}: lr is {row['lr']!r}, but must be above 0")
    finished = row["status"] == "finished"
    values = {key: _number(row, key, path) if finished else math.nan for key in ("val", "test")}
    costs = {key: _number(row, key, path) for key in ("steps", "seconds", "peak_mb")}
    return Run(
        arm=row["arm"], setting=row["setting"], role=row["role"], final=row["phase"] == "final", chosen=row["chosen"],
        lr=lr, seed=row["seed"], finished=finished, **values, **costs,
    )  # fmt: skip


def _number(row: Mapping[str, str], key: str, path: Path) -> float:
    """The value of `key`, NaN where it is empty or infinite."""
    text = row.get(key, "")
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise ConfigError("study", path, f"line {row['line']}: {key} is {text!r}, but must be a number") from None
    return value if math.isfinite(value) else math.nan


def _one(one: Run, other: Run, path: Path) -> Run:
    """Of two rows about a run, the one that counts."""
    if one.finished != other.finished:
        return one if one.finished else other
    if one.finished and repr((one.val, one.test)) != repr((other.val, other.test)):
        what = f"{one.arm} {one.setting}".strip()
        why = f"a second result of {what} with lr={one.lr:g} seed={one.seed} differs from the first"
        raise ConfigError("study", path, f"{why}; two studies must not have the same name")
    return one if repr(one) <= repr(other) else other


def _check_roles(name: str, runs: Sequence[Run]) -> None:
    roles: dict[str, set[str]] = {}
    for run in runs:
        roles.setdefault(run.arm, set()).add(run.role)
    unclear = sorted(arm for arm, own in roles.items() if len(own) > 1)
    if unclear:
        raise ConfigError("study", name, f"the arm {unclear[0]} has several roles")
    references = sorted(arm for arm, own in roles.items() if "reference" in own)
    if len(references) > 1:
        raise ConfigError("study", name, f"has several reference arms: {few(references)}")
