"""An evaluation as a table for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lwexp.experiment.evaluation_files import per_class
from lwexp.formatting import aligned, few, printable
from lwexp.training.details import ClassDetails, LabelDetails, NumberDetails

from .evaluation import Evaluation

_SHOWN = 30  # rows of a table; of more, the worst
_NAME = 36  # characters
_MISTAKES = 10


def evaluation_text(evaluation: Evaluation) -> str:
    """The table of classes, the headline numbers, and what is frequently confused."""
    details, data = evaluation.details, evaluation.data
    lines = [data.title, "", *_table(evaluation), "", *_headline(evaluation)]
    if isinstance(details, ClassDetails) and (pairs := details.confusions(5)):
        names = [(_short(details.classes[true], 26), _short(details.classes[other], 26), n) for true, other, n in pairs]
        lines += ["", "most frequent mistakes", *(f"  {n:>5,}  {true} as {other}" for true, other, n in names)]
    if data.kind == "text" and isinstance(details, ClassDetails) and len(worst := details.mistakes()):
        found, names_of = details.predictions, details.classes
        lines += ["", "most confident mistakes"]
        for i in worst[:_MISTAKES].tolist():
            true, guess = (_short(names_of[k], 14) for k in (found.true[i], found.predicted[i]))
            said = f"  {found.confidence[i]:6.1%}  {true} as {guess}: "
            lines.append(said + _short(data.samples.name(i), 79 - len(said)))
    if evaluation.skipped:
        lines += ["", f"ignored, of classes that the model does not know: {evaluation.skipped:,}"]
    if evaluation.missing:
        lines += ["", f"no sample of {few([_short(name, 20) for name in evaluation.missing])}"]
        if isinstance(details, ClassDetails) and details.claimed[details.support == 0].any():
            lines.append("(those that were predicted all the same count as 0 in the mean of classes)")
    return "\n".join(lines)


def _table(evaluation: Evaluation) -> list[str]:
    details, kinds = evaluation.details, f"{evaluation.data.kind}s"
    titles, rows = per_class(details)
    if isinstance(details, NumberDetails):
        shown = [[_short(str(row[0]), _NAME), *(f"{value:.4g}" for value in row[1:])] for row in rows]
        return aligned(titles, shown[:_SHOWN])
    order: Sequence[int] = range(len(rows))
    note = []
    if len(rows) > _SHOWN:
        worst = np.argsort(np.nan_to_num(details.f1, nan=2), kind="stable")[:_SHOWN]
        order, note = worst.tolist(), [f"the {_SHOWN} of {len(rows):,} with the lowest F1; all are in per_class.csv"]
    shown = [[_short(str(rows[i][0]), _NAME), *map(_share, rows[i][1:4]), f"{rows[i][4]:,}"] for i in order]
    if isinstance(details, ClassDetails):
        columns = (details.precision, details.recall, details.f1)
        total = f"{int(details.support.sum()):,}"
        means = [["mean of classes", *(_share(details.mean(column)) for column in columns), total]]
        means += [["weighted mean", *(_share(details.mean(column, weighted=True)) for column in columns), total]]
    else:
        means = [
            ["mean of labels", *(_share(details.mean(c)) for c in (details.precision, details.recall, details.f1)), ""]
        ]
    lines = aligned([titles[0], "precision", "recall", "F1", kinds], [*shown, *means])
    return [*lines[: -len(means)], lines[1], *lines[-len(means) :], *note]


def _headline(evaluation: Evaluation) -> list[str]:
    details, metrics = evaluation.details, evaluation.details.metrics()
    if isinstance(details, NumberDetails):
        return [f"RMSE {metrics['rmse']:.4g}  MAE {metrics['mae']:.4g}"]
    if isinstance(details, LabelDetails):
        return [f"all labels right {metrics['exact_match']:.2%}  micro F1 {metrics['micro_f1']:.3f}"]
    top5 = f"  top-5 {metrics['top5']:.2%}" if "top5" in metrics else ""
    return [f"accuracy {metrics['accuracy']:.2%}{top5}  macro F1 {metrics['macro_f1']:.3f}  "
            f"calibration error (ECE) {metrics['ece']:.3f}"]  # fmt: skip


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _short(text: str, width: int) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= width else f"{text[: width - 3]}..."
