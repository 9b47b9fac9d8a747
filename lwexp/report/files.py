"""A report's files: Markdown, CSV, figures, and one HTML page with all of it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lwexp.errors import ConfigError
from lwexp.formatting import escaped, printable
from lwexp.plots.axes import DPI

from .analysis import Analysis
from .conclusions import conclusions, progress
from .figures import draw_by_value, draw_curves, draw_settings
from .heatmap import draw_heatmap, not_drawn
from .statistics import EXACT_SEEDS, RANDOM_FLIPS
from .tables import (
    VERDICTS,
    Table,
    headings,
    more_headings,
    more_table,
    runs_csv,
    runs_table,
    settings_csv,
    settings_table,
)

_TEMPLATE = Path(__file__).with_name("report.html")
DRAWINGS: dict[str, tuple[str, Callable[[Analysis], Figure | None]]] = {
    "settings": ("Intervals", draw_settings),
    "by_value": ("By value", draw_by_value),
    "curves": ("Learning curves", draw_curves),
    "heatmap": ("Two keys", draw_heatmap),
}


def write_report(found: Analysis, folder: Path) -> list[Path]:
    """Write `report.md`, `report.html`, `report.csv`, `runs.csv` and the pictures into `folder`, made if new.

    Returns the files; pictures of an earlier report that this one does not have are removed. Raises `ConfigError` for
    a folder that cannot be written.
    """
    pictures = {name: png(figure) for name, (_, draw) in DRAWINGS.items() if (figure := draw(found)) is not None}
    texts = {
        "report.md": markdown(found, list(pictures)),
        "report.html": page(found, pictures),
        "report.csv": settings_csv(found),
        "runs.csv": runs_csv(found),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    contents |= {f"{name}.png": picture for name, picture in pictures.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in {f"{name}.png" for name in DRAWINGS} - contents.keys():
            (folder / name).unlink(missing_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError("--out", folder, f"cannot be written: {error.strerror}") from None
    return [folder / name for name in contents]


def markdown(found: Analysis, pictures: list[str]) -> str:
    """The report as Markdown; `pictures` are in the same folder."""
    first, *others = (escaped(printable(sentence)) for sentence in conclusions(found))
    parts = [f"# {escaped(title(found))}", f"**{first}**", escaped(progress(found)) + ".", "## Settings"]
    parts += [settings_table(found).markdown()]
    parts += [_explained(headings(found))]
    parts += ["## In detail", "\n".join(f"- {sentence}" for sentence in others)] if others else []
    parts += [f"## {DRAWINGS[name][0]}\n\n![{DRAWINGS[name][0]}]({name}.png)" for name in pictures]
    parts += ["## More numbers", more_table(found).markdown(), _explained(more_headings(found))]
    parts += ["## How the numbers are computed", *map(escaped, notes(found))]
    parts += ["## Runs", runs_table(found).markdown()]
    return "\n\n".join(parts) + "\n"


def page(found: Analysis, pictures: dict[str, bytes]) -> str:
    """One HTML file without scripts or links: the pictures are in it, all texts are escaped."""
    first, *others = (html.escape(printable(sentence)) for sentence in conclusions(found))
    said = "".join(f"<li>{sentence}</li>" for sentence in others)
    shown = "".join(
        f'<h2>{DRAWINGS[name][0]}</h2>\n<img alt="{DRAWINGS[name][0]}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">\n'
        for name, content in pictures.items()
    )
    where = f" MLflow run {found.sweep.id}." if found.sweep.id else ""
    parts = {
        "TITLE": html.escape(title(found)), "PROGRESS": html.escape(f"{progress(found)}.{where}"), "HEADLINE": first,
        "WORDS": f"<ul>{said}</ul>" if said else "", "SETTINGS": _html_table(settings_table(found)),
        "HEADINGS": _html_list(headings(found)), "MORE": _html_table(more_table(found)), "PICTURES": shown,
        "MOREHEADINGS": _html_list(more_headings(found)),
        "NOTES": "".join(f"<p>{html.escape(note)}</p>" for note in notes(found)),
        "RUNS": _html_table(runs_table(found)),
    }  # fmt: skip
    pieces = _TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def _explained(words: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{escaped(word)}**: {escaped(text)}" for word, text in words)


def _html_list(words: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in words)


def title(found: Analysis) -> str:
    """What is reported on."""
    return f"{'Sweep ' if found.sweep.id else ''}{printable(found.sweep.name)}"


def notes(found: Analysis) -> list[str]:
    """How the numbers were computed."""
    metric, percent = found.metric, f"{100 * found.confidence:g} %"
    values = (
        f"{found.split.capitalize()} {metric.name} is of each run's best weights by validation. Settings are chosen on "
        f"validation{' and compared on test' if found.on_test else ''}."
    )
    differences = (
        "Uniform runs are those whose plan gives every layer the base rate. Differences to them are between runs of "
        "one seed, one base rate and one value of all else that is not layer-wise."
    )
    bounded = not math.isinf(metric.high - metric.low)
    scale = " on the logit scale, within the possible values" if bounded else ""
    cut = ", cut at what the intervals of the two means allow" if bounded else ""
    intervals = (
        f"Intervals of means are {percent} t intervals{scale}; those of differences are paired t intervals{cut}; “all "
        "at once” is wider, so that all of them hold together (Bonferroni). Equal values give no interval."
    )
    several = any(len(one.uniform) > 1 for one in found.contests)
    scope = "all pairs of a layer-wise and a uniform setting" if several else "all settings compared"
    tests = (
        f"p: exact sign-flip test over seeds (with more than {EXACT_SEEDS} seeds, {RANDOM_FLIPS:,} random flips) of "
        f"the greatest difference of {scope}, step-down (Westfall and Young 1993; Romano and Wolf 2005). A claim needs "
        f"p of at most {found.level:g}: where nothing differs, no more than {100 * found.level:g} % of reports claim "
        "something. Intervals take differences for normal, which few seeds cannot show; claims do not rest on them."
    )
    compared = [differences, intervals, tests] if found.uniform and found.layerwise else [intervals]
    return [note for note in (values, *compared, not_drawn(found)) if note]


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, dpi=DPI, format="png")
    return out.getvalue()


def _html_table(table: Table) -> str:
    """With the verdicts as classes."""
    filled = table.filled()
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in filled.titles)
    rows = (
        f'<tr><th scope="row">{html.escape(row[0])}</th>{"".join(map(_html_cell, filled.titles[1:], row[1:]))}</tr>'
        for row in filled.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _html_cell(heading: str, text: str) -> str:
    kind = f' class="{text.replace(" ", "-")}"' if heading == "verdict" and text in VERDICTS.values() else ""
    return f"<td{kind}>{html.escape(text)}</td>"
