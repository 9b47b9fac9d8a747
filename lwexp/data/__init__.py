"""Data sources, datasets with a model's preprocessing, and loaders that can resume at any batch.

    open_data(config) -> DataSource -> .datasets(preprocessing, augment, seed) -> Splits -> train_loader, eval_loader

May import `errors`, `formatting`, `host`, `config` and `distributed`. Begin with `opening.py`; a kind of data has its
own module (`digits.py`, `image_folder.py`, `torchvision_sets.py`, `text.py`).
"""

from __future__ import annotations

from .augmentation import Augmentation, OwnTransform, make_augmentation
from .cache import CacheSettings
from .images import Batch, CorruptImageError, Inputs, SampleDataset
from .info import DataInfo, TargetScale, predictions_of
from .keys import SampleKey
from .letters import open_letters
from .loading import EpochLoader, EpochSampler, call, eval_loader, to_device, train_loader, workers_note
from .mixing import Mixing
from .opening import open_data
from .source import DataSource, Splits, half_of_classes
from .tokens import Tokens
from .transforms import Preprocessing, standard_preprocessing
from .views import Views

__all__ = [
    "Augmentation",
    "Batch",
    "CacheSettings",
    "CorruptImageError",
    "DataInfo",
    "DataSource",
    "EpochLoader",
    "EpochSampler",
    "Inputs",
    "Mixing",
    "OwnTransform",
    "Preprocessing",
    "SampleDataset",
    "SampleKey",
    "Splits",
    "TargetScale",
    "Tokens",
    "Views",
    "call",
    "eval_loader",
    "half_of_classes",
    "make_augmentation",
    "open_data",
    "open_letters",
    "predictions_of",
    "standard_preprocessing",
    "to_device",
    "train_loader",
    "workers_note",
]
