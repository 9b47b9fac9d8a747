"""Labeled data to evaluate a model on: as they are, nothing is cut off for validation and no class must be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lwexp.config.augment_options import Style
from lwexp.config.data_schema import DataConfig, ImageFolderConfig, TextConfig
from lwexp.errors import ConfigError, nearest
from lwexp.formatting import few
from lwexp.tasks import Task

from .images import PILStore, SampleDataset
from .opening import open_data
from .source import DataSource, Split, SplitName
from .targets import Cells, make_targets
from .text import TextStore, read_tables, task_of_texts
from .text_files import LabeledTexts
from .tokens import Tokens
from .transforms import Preprocessing


@dataclass(frozen=True)
class LabeledData:
    """Splits of labeled samples; `classes` are the names of their labels, `task` what these are."""

    classes: tuple[str, ...]
    splits: Mapping[SplitName, Split]
    task: Task = "classification"

    def chosen(self, wanted: SplitName | None) -> SplitName:
        """The split `wanted`, else the test split, the validation split, or all. Raises `ConfigError`."""
        if wanted is not None and wanted not in self.splits:
            raise ConfigError("--split", wanted, f"the data have {few(list(self.splits))} only")
        order: tuple[SplitName, ...] = ("test", "val", "train")
        return wanted if wanted is not None else next(name for name in order if name in self.splits)

    def dataset(
        self, split: Split, preprocessing: Preprocessing | None, style: Style | None, channels: int
    ) -> SampleDataset:
        """The samples of `split` with a model's preprocessing; `channels`: of the images that it was trained on."""
        if channels == 1 and isinstance(split.store, PILStore):
            split.store.channels = 1  # what was trained on gray images sees gray ones
        how = {"style": style, "augment": None, "seed": 0, "cache": None}
        return split.store.dataset(split.positions, split.labels, preprocessing, **how)  # type: ignore[arg-type]


def open_labeled(config: DataConfig, tokens: Tokens | None) -> LabeledData:
    """The data of `config`; `tokens` are the model's own, for texts. Raises `ConfigError` and `RunError`."""
    if isinstance(config, ImageFolderConfig):
        from .image_folder import open_labeled_folder

        return LabeledData(*open_labeled_folder(config))
    if isinstance(config, TextConfig):
        if tokens is None:
            raise ConfigError("data", "text", "the run reads images, not texts")
        return _open_texts(config, tokens)
    return as_labeled(open_data(config, whole=True), whole=True)


def as_labeled(source: DataSource, *, whole: bool = False) -> LabeledData:
    """The splits of an opened source; `whole`: what was cut off for a training is put back."""
    splits = {name: source.split(name) for name in source.split_names}
    cut = [name for name in source.cut or () if name in splits] if whole else []
    if not cut:
        return LabeledData(source.info.classes, splits, source.info.task)
    parts = [splits["train"], *(splits.pop(name) for name in cut)]
    if all(part.store is parts[0].store for part in parts):
        positions = torch.cat([part.positions for part in parts])
        order = positions.argsort(stable=True)
        splits["train"] = Split(parts[0].store, positions[order], torch.cat([part.labels for part in parts])[order])
    else:
        splits = {name: source.split(name) for name in source.split_names}
    return LabeledData(source.info.classes, splits, source.info.task)


def match_classes(
    option: tuple[str, str], found: tuple[str, ...], known: tuple[str, ...], split: Split, *, task: Task, skip: bool
) -> Split:
    """`split`, whose labels index `found`, with labels that index the model's classes `known`, by their names.

    Samples of a class that the model does not know are skipped if `skip`, else they are a `ConfigError` on `option`,
    the key that named the data and its value. Of several labels the samples stay and the label alone is skipped; a
    label that the data lack is one that no sample has.
    """
    if task == "multilabel":
        return _match_labels(option, found, known, split, skip=skip)
    if task == "regression":  # a column for each number
        absent = [name for name in known if name not in found]
        if absent:
            why = f"the data lack {few(absent)}, which the model predicts; {nearest(absent[0], found)}"
            raise ConfigError(*option, why)
        return Split(split.store, split.positions, split.labels[:, [found.index(name) for name in known]])
    index = {name: number for number, name in enumerate(known)}
    new = torch.tensor([index.get(name, -1) for name in found], dtype=torch.int64)[split.labels]
    unknown = [found[label] for label in sorted(set(split.labels[new < 0].tolist()))]
    if unknown and not skip:
        classes = f"the class{'es' if len(unknown) > 1 else ''} {few(unknown)}"
        why = f"the model does not know {classes}; {nearest(unknown[0], known)}; --skip-unknown ignores such samples"
        raise ConfigError(*option, why)
    if not (new >= 0).any():
        raise ConfigError(*option, f"no sample is of a class that the model knows; {nearest(unknown[0], known)}")
    return split.only(new >= 0, new)


def _match_labels(
    option: tuple[str, str], found: tuple[str, ...], known: tuple[str, ...], split: Split, *, skip: bool
) -> Split:
    unknown = [name for i, name in enumerate(found) if name not in known and split.labels[:, i].any()]
    if unknown and not skip:
        names = f"the label{'s' if len(unknown) > 1 else ''} {few(unknown)}"
        why = f"the model does not know {names}; {nearest(unknown[0], known)}; --skip-unknown ignores them"
        raise ConfigError(*option, why)
    if not set(found) & set(known):
        raise ConfigError(*option, f"has no label that the model knows; {nearest(found[0], known)}")
    labels = torch.zeros(len(split.labels), len(known), dtype=split.labels.dtype)
    for i, name in enumerate(known):
        if name in found:
            labels[:, i] = split.labels[:, found.index(name)]
    return Split(split.store, split.positions, labels)


def _open_texts(config: TextConfig, tokens: Tokens) -> LabeledData:
    tables, names = read_tables(config, needs_train=False)
    if task_of_texts(config) != "classification":
        return _open_other_texts(config, tokens, tables, names)
    found = sorted({label for table in tables.values() for label in table.labels})
    classes = tuple(names or found)
    index = {label: number for number, label in enumerate([str(i) for i in range(len(names))] if names else found)}
    texts = [text for table in tables.values() for text in table.texts]
    store, start = TextStore(texts, tokens, {}), 0
    splits: dict[SplitName, Split] = {}
    for split, table in tables.items():
        labels = torch.tensor([index[label] for label in table.labels], dtype=torch.int64)
        splits[split] = Split(store, torch.arange(start, start + len(labels)), labels)
        start += len(labels)
    return LabeledData(classes, splits)


def _open_other_texts(
    config: TextConfig, tokens: Tokens, tables: Mapping[SplitName, LabeledTexts], names: list[str] | None
) -> LabeledData:
    """Texts with several labels or numbers: all that occur in any split."""
    rows = [row for table in tables.values() for row in table.cells.rows]
    places = [place for table in tables.values() for place in table.places]
    key = "data.path" if config.path is not None else "data.dataset"
    targets = make_targets(
        {"train": Cells(rows, places)},
        [config.label],
        where=(key, str(config.path or config.dataset)),
        task=task_of_texts(config),
        delimiter=config.delimiter,
        names=names,
    )
    texts = [text for table in tables.values() for text in table.texts]
    store, whole, start = TextStore(texts, tokens, {}), targets.labels["train"], 0
    splits: dict[SplitName, Split] = {}
    for split, table in tables.items():
        positions = torch.arange(start, start + len(table.texts))
        splits[split] = Split(store, positions, whole[positions])
        start += len(table.texts)
    return LabeledData(targets.names, splits)
