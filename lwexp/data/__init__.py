"""Data: open it (`open_data`), make datasets for a model's preprocessing, and loaders that can resume anywhere.

open_data(config) -> DataSource -> .datasets(preprocessing, augment, seed) -> Splits -> train_loader, eval_loader
"""

from __future__ import annotations

from .cache import CacheSettings
from .images import Batch, CorruptImageError, Inputs, SampleDataset
from .info import DataInfo
from .keys import SampleKey
from .loading import (
    EpochLoader,
    EpochSampler,
    call,
    eval_loader,
    to_device,
    train_loader,
    workers_note,
)
from .opening import open_data
from .source import DataSource, Splits, half_of_classes
from .tokens import Tokens
from .transforms import Preprocessing, standard_preprocessing

__all__ = [
    "Batch",
    "CacheSettings",
    "CorruptImageError",
    "DataInfo",
    "DataSource",
    "EpochLoader",
    "EpochSampler",
    "Inputs",
    "Preprocessing",
    "SampleDataset",
    "SampleKey",
    "Splits",
    "Tokens",
    "call",
    "eval_loader",
    "half_of_classes",
    "open_data",
    "standard_preprocessing",
    "to_device",
    "train_loader",
    "workers_note",
]
