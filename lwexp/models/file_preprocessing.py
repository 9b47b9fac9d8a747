"""Preprocessing as the libraries write it beside their weights: timm's config.json, transformers' image processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def preprocessing_beside(weights: Path) -> tuple[str, dict[str, Any]] | None:
    """Name and content of the file beside `weights` that says how images were preprocessed, None if there is none.

    The content has `mean` and `std`, and may have `interpolation` and `crop_pct`. A file that says less, or is damaged,
    does not count.
    """
    for name, read in (("config.json", _of_timm), ("preprocessor_config.json", of_image_processor)):
        try:
            values = json.loads((weights.parent / name).read_text(encoding="utf-8"))
            found = read(values) if isinstance(values, Mapping) else None
        except (OSError, ValueError, TypeError):
            continue
        if found is not None:
            return name, found
    return None


def of_image_processor(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Mean, std, interpolation and crop_pct in a `preprocessor_config.json`; None without mean and std."""
    found = {name: values[f"image_{name}"] for name in ("mean", "std") if values.get(f"image_{name}") is not None}
    if len(found) < 2:
        return None
    size, crop = values.get("size"), values.get("crop_size")
    crop_pct = values.get("crop_pct") or 1.0
    if isinstance(size, Mapping) and isinstance(crop, Mapping) and size.get("shortest_edge"):
        crop_pct = min(1.0, crop.get("height", 0) / size["shortest_edge"]) or 1.0
    interpolation = _INTERPOLATIONS.get(values.get("resample", 2), "bilinear")
    return {**found, "interpolation": interpolation, "crop_pct": crop_pct}


def for_channels(preprocessing: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Mean and standard deviation for `channels`; their average where they are for another number of channels."""
    adapted = dict(preprocessing)
    for key in ("mean", "std"):
        values = tuple(float(value) for value in preprocessing[key])
        adapted[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    return adapted


def _of_timm(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those in a config.json that timm's `save_for_hf` has written."""
    section = values.get("pretrained_cfg")
    if not isinstance(section, Mapping) or not section.get("mean") or not section.get("std"):
        return None
    known = ("mean", "std", "interpolation", "crop_pct")
    return {name: section[name] for name in known if section.get(name) is not None}
