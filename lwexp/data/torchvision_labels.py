"""Labels and class names of torchvision's datasets, which have no common attribute for them. No image is decoded.

Some attributes are private; they exist in torchvision 0.21 to 0.29.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .torchvision_layouts import SetLayout


def labels_of(dataset: Any) -> Tensor | None:
    """The labels in torchvision's numbering, int64 [n]; None if the split has none."""
    for name in ("targets", "labels", "_labels", "y"):
        values = getattr(dataset, name, None)
        if values is not None:
            break
    else:
        values = _labels_elsewhere(dataset)
    if any(value is None for value in values[:1]):
        return None
    labels = torch.as_tensor(values).to(torch.int64)
    return labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: the class is the first of eight columns


def _labels_elsewhere(dataset: Any) -> Any:
    kind = type(dataset).__name__
    if kind == "PCAM":
        name = dataset._FILES[dataset._split]["targets"][0]
        with dataset.h5py.File(dataset._base_folder / name) as file:
            return file["y"][:, 0, 0, 0].astype("int64")
    if kind == "INaturalist":
        return [label for label, _ in dataset.index]
    if kind == "Omniglot":
        return [label for _, label in dataset._flat_character_images]
    if hasattr(dataset, "_samples"):
        return [label for _, label in dataset._samples]
    return [int(dataset[i][1]) for i in range(len(dataset))]  # FakeData makes labels and images together


def classes_of(dataset: Any, layout: SetLayout, labels: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Names of the classes that have images, and their labels in torchvision's numbering; both in our order."""
    used = torch.bincount(labels).nonzero().flatten()
    names = _names(dataset) or list(layout.classes) or [str(label) for label in range(int(used.max()) + 1)]
    if layout.unordered:  # torchvision's numbering follows the file system
        used = torch.tensor(sorted(used.tolist(), key=lambda label: names[label]))
    return tuple(names[label] for label in used.tolist()), used


def _names(dataset: Any) -> list[str]:
    for attribute in ("classes", "categories", "all_categories", "_characters", "class_to_idx"):
        names = getattr(dataset, attribute, None)
        if names:
            # ImageNet's classes have several names each
            return [name if isinstance(name, str) else ", ".join(name) for name in names]
    return []


def stable_order(dataset: Any, layout: SetLayout, labels: Tensor) -> Tensor:
    """Positions in an order that does not depend on the file system: by class, then by file name."""
    if not layout.unordered:
        return torch.arange(len(labels))
    kind = type(dataset).__name__
    if kind == "SUN397":
        files = [path.name for path in dataset._image_files]
    elif kind == "INaturalist":
        files = [file for _, file in dataset.index]
    else:
        files = [file for file, _ in dataset._flat_character_images]
    return torch.tensor(sorted(range(len(files)), key=lambda i: (int(labels[i]), files[i])), dtype=torch.int64)
