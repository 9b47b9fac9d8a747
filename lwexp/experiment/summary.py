"""What a run prints before its first step: what is trained on what, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lwexp.config.schema import RunConfig
from lwexp.formatting import NBSP, few, printable, wrapped

from .naming import data_label, weights_text

if TYPE_CHECKING:
    from .instantiate import Experiment

_MOST_CLASSES = 12  # that are all named, each with its number
_EXTREMES = 3  # of more, so many of the smallest and of the largest
_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_OUTPUTS = {"classification": "classes", "multilabel": "labels", "regression": "numbers"}


def summary(experiment: Experiment, device: torch.device, processes: int, *, width: int) -> str:
    """A few lines, none longer than `width` where blanks allow it."""
    config, info = experiment.config, experiment.source.info
    lines = [("data", data_text(experiment)), (_OUTPUTS[info.task], outputs_text(experiment))]
    if experiment.preprocessing is not None:
        lines.append(("images", str(experiment.preprocessing)))
    elif info.tokens is not None:
        tokens = info.tokens
        lines.append(("texts", f"up to {tokens.max_length} tokens of {tokens.vocabulary:,} ({tokens.label})"))
    lines += [
        ("weights", weights_text(config)),
        ("training", training_text(experiment)),
        ("device", device_text(config, device, processes)),
    ]
    indent = 2 + max(len(title) for title, _ in lines)
    return "\n".join(wrapped(f"{title + ':':{indent}}{text}", width, indent) for title, text in lines)


def data_text(experiment: Experiment) -> str:
    """Name and sizes of the splits."""
    info, label = experiment.source.info, printable(data_label(experiment.config.data.model_dump(by_alias=True)))
    sizes = [f"{size:,} {_SPLITS[name]}" for name, size in info.sizes.items()]
    return f"{label}, {', '.join(sizes)} {info.kind}s"


def outputs_text(experiment: Experiment) -> str:
    """Classes or labels with the numbers of their training samples; of numbers their range."""
    source = experiment.source
    info, labels = source.info, source.labels("train")
    names = [printable(name) for name in info.classes]
    if info.task == "regression":
        columns = labels.reshape(len(labels), -1)
        ends = zip(names, columns.amin(dim=0).tolist(), columns.amax(dim=0).tolist(), strict=False)
        return few([f"{name} from {low:.4g} to {high:.4g}" for name, low, high in ends], 4)
    if info.task == "multilabel":
        counts = [int(count) for count in (labels > 0).sum(dim=0).tolist()]
    else:
        counts = torch.bincount(labels, minlength=len(names)).tolist()
    return counts_text(names, counts)


def counts_text(names: Sequence[str], counts: Sequence[int]) -> str:
    """Names with their numbers; of many the smallest and the largest.

    >>> counts_text(["cat", "dog"], [12, 30]).replace(NBSP, " "), counts_text(["a", "b", "c"], [5, 5, 5])
    ('2: cat 12, dog 30', '3 with 5 each: a, b, c')
    """
    count, pairs = len(names), sorted(zip(counts, names, strict=True), key=lambda pair: pair[0])
    if pairs[0][0] == pairs[-1][0]:
        return f"{count:,} with {pairs[0][0]:,} each: {few(list(names), _MOST_CLASSES)}"
    if count <= _MOST_CLASSES:
        return f"{count}: " + ", ".join(f"{name}{NBSP}{number:,}" for name, number in zip(names, counts, strict=True))
    least, most = (
        ", ".join(f"{name} {number:,}" for number, name in part)
        for part in (pairs[:_EXTREMES], pairs[-_EXTREMES:][::-1])
    )
    empty = sum(number == 0 for number, _ in pairs)
    none = f"; {empty} without any" if empty else ""
    return f"{count:,}: smallest {least}; largest {most}{none}"


def training_text(experiment: Experiment) -> str:
    """Epochs, steps and batches."""
    config = experiment.config
    epochs, steps = config.epochs, experiment.steps
    short = f", ends after step {steps:,}" if steps < epochs * experiment.steps_per_epoch else ""
    batches = f"batches of {config.batch_size}" + (f" x {config.accumulate}" if config.accumulate > 1 else "")
    word = "epoch" if epochs == 1 else "epochs"
    return f"{epochs} {word} of {experiment.steps_per_epoch:,} steps{short}; {batches}, {config.optimizer.name}"


def device_text(config: RunConfig, device: torch.device, processes: int) -> str:
    """The device, its threads, the precision and the processes."""
    name = str(device)
    if device.type == "cuda":
        name += f" ({torch.cuda.get_device_name(device)})"
    threads = torch.get_num_threads()
    words = [name, f"{threads} {'thread' if threads == 1 else 'threads'}", config.precision]
    words += ["compiled"] if config.compile else []
    words += [f"{processes} processes ({config.parallel})"] if processes > 1 else []
    return ", ".join(words)
