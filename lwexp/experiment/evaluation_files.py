"""The files of an evaluation: metrics, numbers of each class, confusion, mistakes, predictions; tables and pictures."""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lwexp.formatting import cell
from lwexp.host.files import atomic_write
from lwexp.training.details import ClassDetails, Details, LabelDetails, NumberDetails

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lwexp.data import Preprocessing, SampleDataset

FOLDER = "evaluation"  # in the run's folder, and of the run's artifacts
LISTED = 100  # mistakes in their table
MATRIX = 3000  # classes at most of a confusion matrix, which has their square as cells
FILES = (
    "confusion.csv", "confusion.png", "errors.png", "labels.png", "metrics.json", "mistakes.csv", "mistakes.png",
    "per_class.csv", "predictions.csv",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """The samples of an evaluation: `what` they are, such as "test"; `preprocessing` is None for ready tensors."""

    what: str
    samples: SampleDataset
    preprocessing: Preprocessing | None
    kind: str  # "image" or "text"

    @property
    def title(self) -> str:
        """Split and number of samples."""
        return f"{self.what}: {len(self.samples):,} {self.kind}{'s' if len(self.samples) != 1 else ''}"


def write_evaluation(details: Details, data: Evaluated, folder: Path) -> list[Path]:
    """Write all files into `folder`; of an earlier evaluation none is left, other files stay. Raises `OSError`.

    Numbers in tables are shares in [0, 1]; a cell is empty where nothing is defined. The files: `metrics.json`,
    `per_class.csv`, `predictions.csv`, `mistakes.csv`, `mistakes.png` (images), and of a classification
    `confusion.csv` and (up to `MATRIX` classes) `confusion.png`, of several labels `labels.png`, of numbers
    `errors.png`.
    """
    for place in (folder, *([folder.parent] if folder.parent.name == FOLDER else [])):
        if place.is_symlink():  # the run's folder may come from somebody else
            raise OSError(errno.ELOOP, "is a link to another place", str(place))
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    names = [data.samples.name(i) for i in range(len(data.samples))]
    atomic_write(folder / "metrics.json", json.dumps(_finite(details.metrics()), indent=1), durable=False)
    tables = {"per_class.csv": per_class(details), "predictions.csv": _predictions(details, data, names)}
    if isinstance(details, ClassDetails):
        tables["confusion.csv"] = _confusion(details)
    mistakes = _mistakes(details)
    tables["mistakes.csv"] = (
        [
            data.samples.named_by,
            "predicted",
            "true",
            *(["error"] if isinstance(details, NumberDetails) else ["probability"]),
        ],
        ([names[m.sample], m.predicted, m.true, m.size] for m in mistakes),
    )
    for name, (titles, lines) in tables.items():
        _write_table(folder / name, titles, lines)
    _draw(details, data, mistakes, names, folder)
    return [folder / name for name in FILES if (folder / name).is_file()]


def per_class(details: Details) -> tuple[list[str], list[list[Any]]]:
    """Titles and rows of the table of classes, labels or numbers."""
    if isinstance(details, NumberDetails):
        columns: list[NDArray[Any]] = [details.rmse, details.mae, details.r2]
        titles = ["output", "rmse", "mae", "r2"]
    else:
        columns = [details.precision, details.recall, details.f1, details.support]
        titles = ["class", "precision", "recall", "f1", "support"]
    if isinstance(details, ClassDetails):
        columns, titles = [*columns, details.claimed, details.correct], [*titles, "predicted", "correct"]
    if isinstance(details, LabelDetails):
        columns, titles = [*columns, *details.counts.values()], ["label", *titles[1:], *details.counts]
    return titles, [list(row) for row in zip(details.classes, *(c.tolist() for c in columns), strict=True)]


def _confusion(details: ClassDetails) -> tuple[list[str], Iterable[list[Any]]]:
    """The matrix; of very many classes only the mistakes that occur, a row for each pair."""
    names = details.classes
    if len(names) > MATRIX:
        rows = [[names[true], names[predicted], count] for true, predicted, count in details.confusions()]
        return ["true", "predicted", "samples"], rows
    matrix = ([name, *row] for name, row in zip(names, details.confusion.tolist(), strict=True))
    return ["true \\ predicted", *names], matrix


def _predictions(details: Details, data: Evaluated, names: Sequence[str]) -> tuple[list[str], Iterable[list[Any]]]:
    """A row for each sample, in the order of the split."""
    first = data.samples.named_by
    if isinstance(details, ClassDetails):
        found, classes = details.predictions, details.classes
        more = range(1, found.ranked.shape[1])
        titles = [first, "true", "predicted", "correct", "probability", "probability_of_true"]
        titles += [f"{word}_{i + 1}" for i in more for word in ("predicted", "probability")]
        columns = (
            names,
            found.true.tolist(),
            found.ranked.tolist(),
            found.probabilities.tolist(),
            found.of_true.tolist(),
        )
        return titles, (
            [
                name, classes[true], classes[ranked[0]], int(true == ranked[0]), _short(values[0]), _short(of_true),
                *(text for i in more for text in (classes[ranked[i]], _short(values[i]))),
            ]
            for name, true, ranked, values, of_true in zip(*columns, strict=True)
        )  # fmt: skip
    outputs = details.predictions
    titles = [first, *(f"{word}: {name}" for name in details.classes for word in ("true", "predicted"))]
    pairs = np.stack([outputs.true, outputs.predicted], axis=2).reshape(len(names), -1).tolist()
    return titles, ([name, *map(_short, row)] for name, row in zip(names, pairs, strict=True))


@dataclass(frozen=True)
class _Mistake:
    """The number of a sample, and what is wrong; `size` is a probability, or an error in the unit of the data."""

    sample: int
    predicted: str
    true: str
    size: str
    shown: tuple[str, str]  # two lines below its picture


def _mistakes(details: Details) -> list[_Mistake]:
    """The first `LISTED`, the most confident or largest first."""
    names, found = details.classes, []
    if isinstance(details, ClassDetails):
        values = details.predictions
        for i in details.mistakes()[:LISTED].tolist():
            guess, true, share = names[values.predicted[i]], names[values.true[i]], float(values.confidence[i])
            found.append(_Mistake(i, guess, true, _short(share), (f"as {guess} ({share:.1%})", f"true: {true}")))
    elif isinstance(details, LabelDetails):
        for i, label in details.mistakes()[:LISTED].tolist():
            share, there = float(details.predictions.predicted[i, label]), details.predictions.true[i, label] > 0.5
            words = (f"{'' if there else 'not '}{names[label]}", f"{'not ' if there else ''}{names[label]}")
            shown = (f"{names[label]} ({share:.1%})", f"true: {words[0]}")
            found.append(_Mistake(i, words[1], words[0], _short(share), shown))
    else:
        for i in details.mistakes()[:LISTED].tolist():
            output = int(np.argmax(np.abs(details.errors[i]) / np.where(details.rmse > 0, details.rmse, 1)))
            guess, true = (float(x[i, output]) for x in (details.predictions.predicted, details.predictions.true))
            name = f"{names[output]} " if len(names) > 1 else ""
            texts = (f"{name}{guess:.4g}", f"{name}{true:.4g}")
            found.append(_Mistake(i, *texts, _short(guess - true), (f"predicted: {texts[0]}", f"true: {true:.4g}")))
    return found


def _draw(details: Details, data: Evaluated, mistakes: Sequence[_Mistake], names: Sequence[str], folder: Path) -> None:
    from lwexp.plots.confusion import draw_confusion
    from lwexp.plots.mistakes import SHOWN, Mistake, draw_mistakes
    from lwexp.plots.outputs import draw_errors, draw_labels

    if isinstance(details, ClassDetails) and len(details.classes) <= MATRIX:
        title = f"{data.title}, {len(details.classes)} classes, accuracy {details.accuracy:.2%}"
        draw_confusion(details.confusion, details.classes, details.confusions(25), title, folder / "confusion.png")
    elif isinstance(details, LabelDetails):
        title = f"{data.title}, {len(details.classes)} labels at a probability of 0.5"
        draw_labels(details.counts, details.classes, title, folder / "labels.png")
    elif isinstance(details, NumberDetails):
        true, predicted = details.predictions.true, details.predictions.predicted
        titles = [f"{name}: RMSE {rmse:.4g}" for name, rmse in zip(details.classes, details.rmse.tolist(), strict=True)]
        draw_errors(true, predicted, titles, data.title, folder / "errors.png")
    if data.kind == "image" and mistakes and _is_image(data):
        shown = [
            Mistake(
                _pixels(data, m.sample),
                *m.shown,
                f"{'' if data.samples.named_by == 'file' else 'sample '}{names[m.sample]}",
            )
            for m in mistakes[:SHOWN]
        ]
        count = len(details.mistakes())
        what = f"the {len(shown)} most confident of {count:,}" if count > len(shown) else f"the {count}"
        what = (
            "the largest errors" if isinstance(details, NumberDetails) else f"{what} mistake{'s' if count > 1 else ''}"
        )
        draw_mistakes(shown, f"{data.title}, {what}", folder / "mistakes.png")


def _is_image(data: Evaluated) -> bool:
    """Whether samples are [C, H, W]: those of a user's own data may be anything."""
    first = data.samples[0][0]
    return isinstance(first, Tensor) and first.ndim == 3


def _pixels(data: Evaluated, sample: int) -> NDArray[np.uint8]:
    """A sample as the model sees it, uint8 [H, W, 3]; tensors of an unknown range are stretched to all of it."""
    image = np.asarray(data.samples[sample][0].float().numpy(), dtype=np.float64)
    if data.preprocessing is not None:
        mean, std = (np.array(part)[:, None, None] for part in (data.preprocessing.mean, data.preprocessing.std))
        image = image * std + mean
    else:
        low, high = float(image.min()), float(image.max())
        image = (image - low) / (high - low or 1.0)
    image = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    return np.asarray((image * 255).round().clip(0, 255).transpose(1, 2, 0), dtype=np.uint8)


def _write_table(path: Path, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([cell(title) for title in titles])
    for row in rows:
        writer.writerow([value if type(value) is int else _written(value) for value in row])
    atomic_write(path, text.getvalue(), durable=False)


def _short(value: float) -> str:
    return f"{value:.6g}"


def _written(value: Any) -> Any:
    """`value` for a cell, which is empty where a number is not defined."""
    if isinstance(value, float):
        return "" if np.isnan(value) else _short(value)
    return cell(value, numbers=True)


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in metrics.items()}
