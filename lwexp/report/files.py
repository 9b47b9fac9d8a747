"""A report's files: Markdown, CSV, figures, and one HTML page with all of it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
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
from .tables import Table, runs_csv, runs_table, settings_csv, settings_table

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
    pictures = {name: _png(figure) for name, (_, draw) in DRAWINGS.items() if (figure := draw(found)) is not None}
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
    parts = [f"# Sweep {escaped(printable(found.sweep.name))}", escaped(progress(found)) + ".", "## Conclusions"]
    parts += ["\n".join(f"- {escaped(printable(sentence))}" for sentence in conclusions(found))]
    parts += ["## Settings", settings_table(found).markdown(), *map(escaped, notes(found))]
    parts += [f"## {DRAWINGS[name][0]}\n\n![{DRAWINGS[name][0]}]({name}.png)" for name in pictures]
    parts += ["## Runs", runs_table(found).markdown()]
    return "\n\n".join(parts) + "\n"


def page(found: Analysis, pictures: dict[str, bytes]) -> str:
    """One HTML file without scripts or links: the pictures are in it, all texts are escaped."""
    title = html.escape(printable(found.sweep.name))
    said = "".join(f"<li>{html.escape(printable(sentence))}</li>" for sentence in conclusions(found))
    shown = "".join(
        f'<h2>{DRAWINGS[name][0]}</h2>\n<img alt="{DRAWINGS[name][0]}" '
        f'src="data:image/png;base64,{base64.b64encode(content).decode()}">\n'
        for name, content in pictures.items()
    )
    noted = "".join(f"<p>{html.escape(note)}</p>" for note in notes(found))
    parts = {
        "TITLE": title, "PROGRESS": html.escape(progress(found)), "ID": html.escape(found.sweep.id), "WORDS": said,
        "SETTINGS": _html_table(settings_table(found)), "NOTES": noted, "PICTURES": shown,
        "RUNS": _html_table(runs_table(found)),
    }  # fmt: skip
    pieces = _TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def notes(found: Analysis) -> list[str]:
    """How the numbers were computed."""
    percent = f"{100 * found.confidence:g} %"
    differences = (
        "Uniform runs are those whose plan gives every layer the base rate. Differences to uniform are on test, "
        "between runs of one seed, one base rate and one value of all else that is not layer-wise; each has its "
        f"{percent} t interval, and “all at once” is wider, so that all of them hold together "
        "(Bonferroni)."
    )
    several = len(found.uniform) > 1
    scope = "all pairs of a layer-wise and a uniform setting" if several else "all settings compared"
    tests = (
        f"p: exact sign-flip test over seeds (with more than {EXACT_SEEDS} seeds, {RANDOM_FLIPS:,} random flips); p "
        f"corrected: the same for the greatest difference of {scope}, step-down (Westfall and Young 1993; Romano and "
        f"Wolf 2005). A claim needs p corrected of at most {found.level:g}: where nothing differs, a false claim is "
        f"made in no more than {100 * found.level:g} % of sweeps."
    )
    best = f"* best on validation. Test {found.metric} is of each run's best weights by validation."
    return [note for note in (best, differences, tests, not_drawn(found)) if note]


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, dpi=DPI, format="png")
    return out.getvalue()


def _html_table(table: Table) -> str:
    filled = table.filled()
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in filled.titles)
    rows = (
        f'<tr><th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])}'
        "</tr>"
        for row in filled.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
