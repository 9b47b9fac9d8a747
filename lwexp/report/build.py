"""One report: the sweep read from MLflow, analyzed, written to a folder, and attached to the sweep's run."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError, RunError
from lwexp.formatting import printable

from .analysis import Analysis, analyze
from .conclusions import conclusions, main_sentence, progress
from .files import write_report
from .reading import SweepReader
from .selecting import study_of
from .settings import reasons
from .tables import legend, terminal_table

_ROWS, _LISTED = 40, 20  # in the terminal
_NARROWEST = 60  # characters


@dataclass(frozen=True)
class Report:
    """`text` for the terminal; `files` in `folder`; `problem`: why the sweep's run does not have them, None if it does.

    `attached` is False if that was not requested, or failed.
    """

    text: str
    folder: Path
    files: list[Path]
    attached: bool
    problem: str | None
    analysis: Analysis


def find_study(config: MLflowConfig, base: Path, *words: str, query: str | None = None) -> Path | None:
    """The `study.csv` of the study that `make_report` would be asked to report on as a sweep. Raises as that does."""
    return study_of(SweepReader(config, base).find(*words, query=query))


def make_report(
    config: MLflowConfig,
    base: Path,
    *words: str,
    query: str | None = None,
    metric: str | None = None,
    confidence: float = 0.95,
    out: Path | None = None,
    attach: bool = True,
) -> Report:
    """Report on what `words` name: sweeps or runs by id or its first digits, by folder, sweeps by name.

    `query`: and on the runs of the experiment that match this filter of MLflow's; by default on the latest sweep.
    `metric`: by default the one that the runs monitor.

    Written to `out`, by default `base`/outputs/reports/<start>_<id>, without the id where it is not one sweep; with
    `attach` also put under `report/` of the sweep's artifacts, over an earlier report. Relative addresses count from
    `base`. Raises `ConfigError` for runs, a metric or a folder that cannot be used, `RunError` for a store that fails
    and where no run has finished.
    """
    store = SweepReader(config, base)
    read = store.read(store.find(*words, query=query), metric, query)
    found = analyze(read, confidence)
    if not any(setting.runs for setting in found.settings):
        left = ", ".join(f"{count} {why}" for why, count in reasons(found.settings))
        name = f"the sweep {printable(read.name)} ({read.id}) has" if read.id else f"{printable(read.name)} have"
        raise RunError(f"{name} no finished run to report on{f': {left}' if left else ''}")
    folder = out or base / "outputs" / "reports" / read.label
    files = write_report(found, folder)
    problem = None
    attach = attach and bool(read.id)
    if attach:
        try:
            store.attach(read.id, files)
        except (RunError, ConfigError) as error:
            problem = str(error)
    return Report(short_text(found), folder, files, attach and problem is None, problem, found)


def headline(report: Report) -> str:
    """The sentence that matters most: which rates lead, by how much, and whether that can be claimed."""
    return main_sentence(report.analysis)


def short_text(found: Analysis) -> str:
    """Conclusions and table for a terminal, and the reasons of runs that failed."""
    width = max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST)
    first, *others = map(printable, conclusions(found))
    name = printable(found.sweep.name)
    what = f"sweep {name} ({found.sweep.id[:8]})" if found.sweep.id else name
    lines = [*_wrapped(f"{what}: {progress(found)}", width), "", *_wrapped(first, width)]
    table = terminal_table(found, width, _ROWS)
    lines += ["", table, *_wrapped(legend(found, table), width)]
    for sentence in others:
        lines += ["", *_wrapped(sentence, width)]
    lost = [(run, why) for setting in found.settings for run, why in setting.excluded if run.why and not run.pruned]
    if lost:
        lines += ["", "excluded:", *(f"  {printable(f'{run.name}: {why}: {run.why}')}" for run, why in lost[:_LISTED])]
    if len(lost) > _LISTED:
        lines.append(f"  … {len(lost) - _LISTED} more, all in runs.csv")
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
