"""The report on studies: read, analyzed, written to a folder, and its text for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from lwexp.formatting import aligned, printable

from .analysis import StudyAnalysis, analyze_study
from .files import write_files
from .reading import read_studies, with_reference
from .sentences import cautions, details, main_sentence, more_primary, progress
from .tables import OVERVIEW_OMITTED, legend, overview_legend, overview_table, terminal_table

_NARROWEST, _WIDEST = 60, 100  # characters


def report_study(
    paths: Iterable[str | Path], out: Path, *, confidence: float = 0.95, reference: str | None = None
) -> str:
    """Report on the studies in `paths`: what they allow to conclude, as text; files in `out`, made if new.

    `paths`: `study.csv` files, or folders that hold one; a study may be spread over several. Written are
    `study_report.md`, `study_arms.csv`, `study_settings.csv` and pictures, those of several studies in a folder each.
    `confidence`: of all intervals and tests. `reference`: the arm that all are compared with in place of the planned
    one; all comparisons are exploratory then. Raises `ConfigError` for what is no study and for a folder that cannot
    be written.
    """
    read = read_studies(paths)
    if reference is not None:
        read = [with_reference(study, reference) for study in read]
    studies = [analyze_study(study, confidence) for study in read]
    write_files(studies, out)
    return study_text(studies)


def study_text(studies: Sequence[StudyAnalysis]) -> str:
    """Of one study all sentences and the table of arms; of several the overview and the main sentence of each."""
    width = min(max(shutil.get_terminal_size((80, 24)).columns, _NARROWEST), _WIDEST)
    if len(studies) == 1:
        return "\n".join(_one(studies[0], width))
    table = overview_table(studies).filled().fitted(width, OVERVIEW_OMITTED)
    lines = [f"{len(studies)} studies", "", *aligned(table.titles, table.rows, left=(0, 1))]
    lines += _wrapped(overview_legend(studies, table.titles), width)
    for found in studies:
        lines += ["", *_wrapped(" ".join([f"{found.study.name}: {main_sentence(found)}", *more_primary(found)]), width)]
        lines += [line for caution in cautions(found) for line in _wrapped(f"- {caution}", width, "  ")]
    return "\n".join(lines)


def _one(found: StudyAnalysis, width: int) -> list[str]:
    lines = [*_wrapped(f"study {found.study.name}: {progress(found)}", width)]
    table = terminal_table(found, width)
    lines += ["", *_wrapped(main_sentence(found), width), "", table, *_wrapped(legend(found, table), width)]
    for sentence in details(found):
        lines += ["", *_wrapped(sentence, width)]
    return lines


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        printable(text), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
