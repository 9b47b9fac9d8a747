"""Texts with their labels: from CSV, TSV or JSONL files, or any dataset of the `datasets` library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lwexp.errors import ConfigError
from lwexp.tasks import Task

from .cache import CacheSettings
from .contents import Contents, digest_of
from .images import Inputs, SampleDataset
from .keys import SampleKey
from .source import DataSource, Split, SplitName
from .targets import cut_missing, make_targets
from .text_files import LabeledTexts, read_files
from .text_library import read_library
from .tokens import Tokens, find_tokenizer, word_tokenizer

if TYPE_CHECKING:
    from lwexp.config.data_schema import TextConfig

KEPT_TOKENS = 2**25  # kept in memory per split: 256 MiB


def open_text(config: TextConfig, model: str | None = None) -> DataSource:
    """The texts that `config` names; splits that are missing are cut from train, stratified, by `data.split_seed`.

    The tokenizer is `data.tokenizer`, else that of `model` (a hub name or folder), else built from the training texts.
    Raises `ConfigError` for data that are missing, empty or inconsistent.
    """
    tables, names = read_tables(config)
    key = "data.path" if config.path is not None else "data.dataset"
    targets = make_targets(
        {name: table.cells for name, table in tables.items()},
        [config.label],
        where=(key, str(config.path or config.dataset)),
        task=task_of_texts(config),
        delimiter=config.delimiter,
        names=names,
    )
    texts: list[str] = []
    positions: dict[SplitName, Tensor] = {}
    for name, table in tables.items():
        positions[name] = torch.arange(len(texts), len(texts) + len(table.texts))
        texts.extend(table.texts)
    whole = torch.cat([targets.labels[name] for name in tables])
    fractions = {"val_fraction": config.val_fraction, "test_fraction": config.test_fraction}
    cut = cut_missing(positions, whole, **fractions, seed=config.split_seed, what="text")
    if config.workers not in (0, "auto"):  # forking while the tokenizer's threads run may deadlock
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    chosen = config.tokenizer or model
    if chosen is not None:
        tokens = find_tokenizer(chosen, "data.tokenizer" if config.tokenizer else "model.name", config.max_length)
    else:
        tokens = word_tokenizer([texts[i] for i in positions["train"]], config.vocabulary, config.max_length)
    contents = {str(name): digest_of("text", table.labels, table.texts) for name, table in tables.items()}
    store = TextStore(texts, tokens, contents)
    splits = {name: Split(store, where, whole[where]) for name, where in positions.items()}
    return DataSource(
        splits,
        classes=targets.names,
        channels=0,
        image_size=None,
        style=None,
        tokens=tokens,
        task=targets.task,
        cut=cut,
    )


def task_of_texts(config: TextConfig) -> Task:
    """What the labels of `config` are."""
    if config.task != "auto":
        return config.task
    return "classification" if config.delimiter is None else "multilabel"


def read_tables(
    config: TextConfig, *, needs_train: bool = True
) -> tuple[dict[SplitName, LabeledTexts], list[str] | None]:
    """The labeled texts of each split that `config` names, and the names of the labels where these are indices."""
    if (config.path is None) == (config.dataset is None):
        raise ConfigError("data.path", config.path, "give either data.path or data.dataset")
    task = task_of_texts(config)
    if config.path is not None:
        return read_files(config.path, config.text, config.label, task, needs_train=needs_train), None
    return read_library(config, str(config.dataset), task)


class TextStore:
    """Texts by position, and their tokenizer."""

    def __init__(self, texts: Sequence[str], tokens: Tokens, contents: Contents) -> None:
        """Tokenizes nothing."""
        self.texts, self.tokens, self._contents = texts, tokens, contents

    def contents(self) -> Contents:
        """The number of texts of each split as it was read, with a checksum."""
        return self._contents

    def dataset(
        self,
        positions: Tensor,
        labels: Tensor,
        preprocessing: Any,
        *,
        style: Any,
        augment: Any,
        seed: int,
        cache: CacheSettings | None = None,
    ) -> SampleDataset:
        """The texts at `positions` with `labels`; the other arguments apply to images."""
        return TextDataset(self, positions, labels)


class TextDataset(SampleDataset):
    """Token ids: made on first access, kept up to `KEPT_TOKENS`, and padded to the longest of a batch."""

    named_by = "text"

    def __init__(self, store: TextStore, positions: Tensor, labels: Tensor) -> None:
        """See `TextStore.dataset`."""
        super().__init__(labels)
        self._store = store
        self._positions: list[int] = positions.tolist()
        self._kept: dict[int, Tensor] = {}
        self._room = KEPT_TOKENS

    def name(self, index: int) -> str:
        """The text."""
        return self._store.texts[self._positions[index]]

    def inputs(self, keys: Sequence[SampleKey]) -> Sequence[Tensor]:
        """Each int64 [its tokens]."""
        new = list(dict.fromkeys(key.sample for key in keys if key.sample not in self._kept))
        texts = [self._store.texts[self._positions[sample]] for sample in new]
        found = dict(zip(new, self._store.tokens.encode(texts), strict=True)) if new else {}
        inputs = [found[key.sample] if key.sample in found else self._kept[key.sample] for key in keys]
        if self._room > 0:
            self._kept.update(found)
            self._room -= sum(map(len, found.values()))
        return inputs

    def collate(self, inputs: Tensor | Sequence[Tensor]) -> Inputs:
        """`input_ids` and `attention_mask`, int64 [texts, tokens of the longest]."""
        return self._store.tokens.batch(list(inputs))
