"""The files of a report on studies: Markdown, CSV and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lwexp.errors import ConfigError
from lwexp.formatting import escaped, printable
from lwexp.report.files import png

from .across import draw_arms_across, draw_multiplier_across
from .analysis import StudyAnalysis
from .figures import draw_arms, draw_multiplier
from .overview import draw_overview
from .rate_figures import draw_curves, draw_rates
from .sentences import details, main_sentence, notes, progress
from .tables import (
    across_table,
    arms_csv,
    arms_table,
    headings,
    more_table,
    overview_legend,
    overview_table,
    settings_csv,
)

REPORT = "study_report.md"
OVERVIEWS: dict[str, tuple[str, Callable[[Sequence[StudyAnalysis]], Figure | None]]] = {
    "overview": ("Overview", draw_overview),
    "overview_multiplier": ("Gain by multiplier", draw_multiplier_across),
    "overview_arms": ("Gain of every arm", draw_arms_across),
}
DRAWINGS: dict[str, tuple[str, Callable[[StudyAnalysis], Figure | None]]] = {
    "arms": ("Arms", draw_arms),
    "multiplier": ("Multiplier", draw_multiplier),
    "rates": ("Base rate and multiplier", draw_rates),
    "curves": ("Base rate by arm", draw_curves),
}


def write_files(studies: Sequence[StudyAnalysis], folder: Path) -> list[Path]:
    """Write the report on `studies` into `folder`, made if new; returns the files. Raises `ConfigError`.

    Pictures of several studies are in a folder for each, and those of an earlier report are removed.
    """
    pictures: dict[str, bytes] = {}
    for found, prefix in zip(studies, _prefixes(studies), strict=True):
        for name, (_, draw) in DRAWINGS.items():
            figure = draw(found)
            if figure is not None:
                pictures[f"{prefix}{name}.png"] = png(figure)
    for name, (_, draw_all) in OVERVIEWS.items() if len(studies) > 1 else ():
        figure = draw_all(studies)
        if figure is not None:
            pictures[f"{name}.png"] = png(figure)
    texts = {
        REPORT: markdown(studies, list(pictures)),
        "study_arms.csv": arms_csv(studies),
        "study_settings.csv": settings_csv(studies),
    }
    contents = pictures | {name: text.encode() for name, text in texts.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / REPORT).is_file():  # other folders may have pictures of these names that are no report's
            for name in (*DRAWINGS, *OVERVIEWS):
                (folder / f"{name}.png").unlink(missing_ok=True)
        for name, content in contents.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError("--out", folder, f"cannot be written: {error.strerror}") from None
    return [folder / name for name in contents]


def markdown(studies: Sequence[StudyAnalysis], pictures: Sequence[str]) -> str:
    """The report as Markdown; `pictures` are named from its folder."""
    parts = []
    if len(studies) > 1:
        parts += [
            f"# {len(studies)} studies",
            overview_table(studies).markdown(),
            _text(overview_legend(studies, overview_table(studies).filled().titles)) + ".",
        ]
        across = across_table(studies)
        if across.rows:
            parts += [
                "## Every arm",
                across.markdown(),
                "Gain over the reference; ▲ better, ▼ worse, by the study's test.",
            ]
        parts += [f"![{title}]({name}.png)" for name, (title, _) in OVERVIEWS.items() if f"{name}.png" in pictures]
    for found, prefix in zip(studies, _prefixes(studies), strict=True):
        parts.append(f"# Study {_text(found.study.name)}")
        parts += [f"**{_text(main_sentence(found))}**", _text(progress(found)) + ".", arms_table(found).markdown()]
        parts.append("\n".join(f"- {_text(sentence)}" for sentence in details(found)))
        for name, (title, _) in DRAWINGS.items():
            if f"{prefix}{name}.png" in pictures:
                parts.append(f"![{title}]({prefix}{name}.png)")
        parts += [more_table(found).markdown(), "\n".join(f"- **{_text(a)}**: {_text(b)}" for a, b in headings(found))]
    parts += ["# How the numbers are computed", *map(_text, notes(studies[0].confidence))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _prefixes(studies: Sequence[StudyAnalysis]) -> list[str]:
    """Of the names of each study's pictures: a folder where there are several studies."""
    if len(studies) == 1:
        return [""]
    names = [re.sub(r"[^\w.-]+", "_", found.study.name).strip(".") or "study" for found in studies]
    return [f"{name}_{k}/" if name in names[:k] else f"{name}/" for k, name in enumerate(names)]


def _text(sentence: str) -> str:
    return escaped(printable(sentence))
