"""The files of a report on studies: Markdown, CSV and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lwexp.errors import ConfigError
from lwexp.formatting import escaped, printable

from .analysis import StudyAnalysis
from .sentences import details, main_sentence, progress
from .tables import arms_csv, arms_table, headings, more_table, overview_table, settings_csv


def write_files(studies: Sequence[StudyAnalysis], folder: Path) -> list[Path]:
    """Write the report on `studies` into `folder`, made if new; returns the files. Raises `ConfigError`."""
    texts = {
        "study_report.md": markdown(studies, {}),
        "study_arms.csv": arms_csv(studies),
        "study_settings.csv": settings_csv(studies),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError("--out", folder, f"cannot be written: {error.strerror}") from None
    return [folder / name for name in contents]


def markdown(studies: Sequence[StudyAnalysis], pictures: dict[str, str]) -> str:
    """The report as Markdown."""
    parts = []
    if len(studies) > 1:
        parts += [f"# {len(studies)} studies", overview_table(studies).markdown()]
    for found in studies:
        parts.append(f"# Study {escaped(printable(found.study.name))}")
        parts += [f"**{_text(main_sentence(found))}**", _text(progress(found)) + ".", arms_table(found).markdown()]
        parts.append("\n".join(f"- {_text(sentence)}" for sentence in details(found)))
        parts += [more_table(found).markdown(), "\n".join(f"- **{_text(a)}**: {_text(b)}" for a, b in headings(found))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(sentence: str) -> str:
    return escaped(printable(sentence))
