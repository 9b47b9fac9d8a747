"""Predictions for many images or texts: batch after batch, what cannot be read is named."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lwexp.errors import ConfigError, RunError
from lwexp.formatting import aligned, cell, one_line, printable
from lwexp.host.files import atomic_write
from lwexp.host.resources import usable_cores

from .items import Item
from .loaded import LoadedRun

SHOWN = 20  # rows of the printed table
WIDTH = 80


@dataclass(frozen=True)
class Predictions:
    """`scores` float32 [n, outputs] of the `items`; `unreadable`: names and reasons of the others."""

    run: LoadedRun
    items: list[Item]
    scores: list[list[float]]
    unreadable: list[tuple[str, str]]

    def best(self, row: int, top: int) -> list[tuple[str, float]]:
        """The `top` classes of one row with their probabilities, the most likely first."""
        pairs = sorted(zip(self.run.classes, self.scores[row], strict=True), key=lambda pair: -pair[1])
        return pairs[:top]


def predict_items(
    run: LoadedRun, items: Sequence[Item], batch_size: int, progress: Callable[[int], None] = lambda _: None
) -> Predictions:
    """Predict `items`; images are read by as many threads as there are cores. `progress` gets the number done."""
    kept: list[Item] = []
    scores: list[list[float]] = []
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for first in range(0, len(items), batch_size):
            chunk = items[first : first + batch_size]
            inputs: list[Tensor] = []
            for item, found in zip(chunk, pool.map(lambda item: _prepared(run, item), chunk), strict=True):
                if isinstance(found, Tensor):
                    inputs.append(found)
                    kept.append(item)
                else:
                    unreadable.append((item.name, found))
            if inputs:
                scores += run.scores(run.outputs(run.collate(inputs))).cpu().tolist()
            progress(first + len(chunk))
    return Predictions(run, kept, scores, unreadable)


def _prepared(run: LoadedRun, item: Item) -> Tensor | str:
    """The input, or why there is none."""
    try:
        return run.transform(item.value)
    except ConfigError:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        from PIL import UnidentifiedImageError

        if isinstance(error, UnidentifiedImageError):
            return "not an image, or a format that Pillow cannot read"
        return str(getattr(error, "strerror", None) or one_line(error)).lower()


def columns(predictions: Predictions, top: int) -> tuple[list[str], Iterator[list[str | float]]]:
    """The titles and rows of the CSV file.

    Of classes the `top` most likely; of several labels those from 0.5 on, then each label's probability; of a
    regression its numbers.
    """
    run = predictions.run
    texts = run.kind == "text"
    titles = ["file", *(["text"] if texts else [])]
    if run.task == "classification":
        titles += [name for k in range(1, top + 1) for name in _numbered(k)]
    else:
        titles += [*(["labels"] if run.task == "multilabel" else []), *run.classes]

    def rows() -> Iterator[list[str | float]]:
        for row, item in enumerate(predictions.items):
            start: list[str | float] = [cell(item.name), *([cell(str(item.text))] if texts else [])]
            values = predictions.scores[row]
            if run.task == "classification":
                best = predictions.best(row, top)
                yield [*start, *(value for name, p in best for value in (cell(name), round(p, 6)))]
            elif run.task == "multilabel":
                yield [*start, cell(";".join(_labels(run, values))), *(round(value, 6) for value in values)]
            else:
                yield [*start, *values]

    return titles, rows()


def save_csv(predictions: Predictions, path: Path, top: int) -> None:
    """Write the CSV file, whole or not at all. Raises `RunError`."""
    titles, rows = columns(predictions, top)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text.getvalue())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error


def table(predictions: Predictions, top: int) -> str:
    """The first rows, in 80 columns, and how many there are of each class."""
    run, count, top = predictions.run, len(predictions.items), min(top, 2)  # more do not fit; the file has them
    lines = [_row(predictions, row, top) for row in range(min(count, SHOWN))]
    titles = ["text" if run.kind == "text" else "file", *_titles(run, top)]
    room = WIDTH - sum(max(len(row[k]) for row in [titles, *lines]) + 2 for k in range(1, len(titles)))
    for row in lines:
        row[0] = _shortened(row[0], max(room, 12))
    left = {0, *(range(1, 2 * top, 2) if run.task == "classification" else (1,) if run.task == "multilabel" else ())}
    shown = aligned(titles, lines, left=left) if lines else []
    if count > SHOWN:
        shown.append(f"… and {count - SHOWN} more")
    if run.task == "classification" and count > 1:
        counts = Counter(predictions.best(row, 1)[0][0] for row in range(count))
        parts = [f"{printable(name)} ({number})" for name, number in counts.most_common(8)]
        shown.append(_wrapped(f"{count} in all: {', '.join(parts)}{', …' if len(counts) > 8 else ''}"))
    return "\n".join(shown)


def _titles(run: LoadedRun, top: int) -> list[str]:
    if run.task == "classification":
        return [name for k in range(1, top + 1) for name in _numbered(k)]
    return ["labels"] if run.task == "multilabel" else list(run.classes)


def _row(predictions: Predictions, row: int, top: int) -> list[str]:
    run, item, values = predictions.run, predictions.items[row], predictions.scores[row]
    name = printable(item.name if item.text is None else item.text)
    if run.task == "classification":
        return [
            name,
            *(text for label, p in predictions.best(row, top) for text in (printable(label)[:16], f"{p:.4f}")),
        ]
    if run.task == "multilabel":
        return [name, printable(", ".join(_labels(run, values)))[:40]]
    return [name, *(f"{value:.6g}" for value in values)]


def _labels(run: LoadedRun, values: Sequence[float]) -> list[str]:
    return [name for name, value in zip(run.classes, values, strict=True) if value >= 0.5]


def _numbered(k: int) -> tuple[str, str]:
    return ("class", "probability") if k == 1 else (f"class_{k}", f"probability_{k}")


def _shortened(name: str, width: int) -> str:
    """The end of a path says more than its beginning."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def _wrapped(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
