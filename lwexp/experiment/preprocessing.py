"""How the images of a run become the model's input.

Of each value, the first of these counts: the option (`data.mean`, …); what the weights were trained with; what is
standard for the data. A run that is resumed keeps what it recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import PretrainedConfig, WeightsFileConfig
from lwexp.data import Preprocessing, standard_preprocessing
from lwexp.errors import ConfigError
from lwexp.models.file_preprocessing import for_channels, preprocessing_beside

from .saved_config import config_before

if TYPE_CHECKING:
    from lwexp.data import DataSource
    from lwexp.models.build import BuiltModel

MODEL_FILE = "inference.json"  # what `model_record.py` writes into a run's folder
_AS_PUBLISHED = "as of the published"
_FIELDS = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop": "crop_pct"}  # by option


def choose_preprocessing(
    config: RunConfig, source: DataSource, built: BuiltModel, base: Path, resumed: Path | None = None
) -> Preprocessing | None:
    """The preprocessing of the images of `source` for the model `built`; None for texts.

    `resumed`: folder of the run that is resumed; `base`: where relative paths start. Raises `ConfigError` for an
    option that does not fit.
    """
    if source.info.kind == "text" or source.info.ready:
        return None
    given = _options(config, source, built.channels)
    recorded = None if resumed is None else read_preprocessing(resumed)
    if recorded is not None and not config.checkpoint.remap:
        return replace(recorded, origin="as the run began")
    before = None if resumed is None else config_before(resumed)
    # a run of a version without these options used the standard for weights of a file
    earlier = before is not None and "mean" not in before.get("data", {}) and not given
    trained = None if earlier and not isinstance(config.weights, PretrainedConfig) else _of_weights(config, built, base)
    chosen = preprocessing_of(source, built, trained)
    if not given:
        unsure = chosen.origin.startswith(_AS_PUBLISHED)
        hint = "; if the file's weights are not of its kind, set data.mean and data.std"
        return replace(chosen, origin=f"{chosen.origin}{hint}") if unsure else chosen
    names = ", ".join(f"data.{name}" for name in given)
    origin = names if len(given) == len(_FIELDS) else f"{names}; else {chosen.origin}"
    return replace(chosen, **{_FIELDS[name]: value for name, value in given.items()}, origin=origin)


def preprocessing_of(
    source: DataSource, built: BuiltModel, trained: tuple[str, Mapping[str, Any]] | None
) -> Preprocessing:
    """What the weights were `trained` with (where that is from, and the values), else the standard for the data."""
    standard = standard_preprocessing(source.info, built.image_size, built.channels)
    return standard if trained is None else replace(standard, **trained[1], origin=trained[0])


def read_preprocessing(folder: Path) -> Preprocessing | None:
    """That of the run in `folder`; None without a record, as of texts, or if the file is damaged."""
    try:
        values = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))["preprocessing"]
        lists = {name: tuple(float(value) for value in values[name]) for name in ("mean", "std")}
        return Preprocessing(**{**values, **lists})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _options(config: RunConfig, source: DataSource, channels: int) -> dict[str, Any]:
    """The values that the data section gives, by option; mean and std with one value for each of `channels`."""
    given = {name: getattr(config.data, name, None) for name in _FIELDS}
    if given["crop"] is not None and source.style != "photograph":
        raise ConfigError("data.crop", given["crop"], "is for photographs; these images are resized whole")
    for name in ("mean", "std"):
        value = given[name]
        if value is None:
            continue
        values = tuple(value) if isinstance(value, list) else (value,)
        if len(values) not in (1, channels):
            fits = "one value" if channels == 1 else f"one value, or {channels}, one for each channel"
            raise ConfigError(f"data.{name}", value, f"must be {fits}")
        given[name] = values if len(values) == channels else values * channels
    return {name: value for name, value in given.items() if value is not None}


def _of_weights(config: RunConfig, built: BuiltModel, base: Path) -> tuple[str, Mapping[str, Any]] | None:
    """Where the weights' preprocessing is from, and its values; None where nothing is known."""
    label = config.model.label
    if not isinstance(config.weights, WeightsFileConfig):
        return None if built.preprocessing is None else (f"of {label}'s weights", built.preprocessing)
    path = base / config.weights.path
    for folder in (path.parent, path.parent.parent if path.parent.name == "checkpoints" else path.parent):
        found = read_preprocessing(folder)
        if found is not None:
            values = {name: getattr(found, name) for name in _FIELDS.values()}
            return f"of the run {folder.name}", for_channels(values, built.channels)
        if (folder / "plan.csv").is_file() and (folder / "config.yaml").is_file():
            return None  # a run without a record: of an earlier version
    beside = preprocessing_beside(path)
    if beside is not None:
        return f"{beside[0]} beside {path.name}", for_channels(beside[1], built.channels)
    if built.preprocessing is None or built.channels != 3:  # published weights are of color images
        return None
    return f"{_AS_PUBLISHED} {label}", built.preprocessing
