"""What a run's network is and what it expects, in `inference.json` of its folder: enough to use it without the data.

Written before the first step, so that an interrupted run can be used as well. A run of an earlier version has no such
file; its data are opened instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lwexp.config.defaults import CONF, defaults
from lwexp.config.schema import ModelConfig, NetworkConfig
from lwexp.config.validation import validate
from lwexp.errors import ConfigError, LwexpError, RunError
from lwexp.formatting import one_line
from lwexp.host.files import atomic_write
from lwexp.redaction import redact_values
from lwexp.tasks import Task
from lwexp.tracking import started_in

from .preprocessing import MODEL_FILE, preprocessing_of
from .saved_config import code_in, saved_config

if TYPE_CHECKING:
    from lwexp.data import DataInfo, Preprocessing
    from lwexp.models.build import BuiltModel

    from .instantiate import Experiment

FILE, TOKENIZER = MODEL_FILE, "tokenizer"  # in the run's folder
_FORMAT = 1


@dataclass(frozen=True)
class ModelRecord:
    """The network of a run and its input and output.

    `task` says what the outputs mean, `classes` their names; `scale`: mean and std of the numbers of a regression.
    `channels`: of the data's images, 1 or 3; 0 for texts. `image_size`: side in pixels; 0 for texts. `model`: the
    config's section, without anything that needs the network or a random number. `network`: what `model` alone does
    not say, for `lwexp.models.rebuild.rebuild_model`. `style`, `preprocessing`: of images, None where samples are
    tensors that are used as they are; `max_length`: of texts; `adapters`: those in the network.
    """

    task: Task
    classes: tuple[str, ...]
    channels: int
    image_size: int
    model: Mapping[str, Any]
    network: Mapping[str, Any] | None = None
    style: str | None = None
    preprocessing: Mapping[str, Any] | None = None
    max_length: int | None = None
    scale: Mapping[str, Any] | None = None
    adapters: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Kind of the inputs: "image" or "text"."""
        return "image" if self.max_length is None else "text"


def save_model_record(folder: Path, experiment: Experiment) -> None:
    """Write the record of `experiment`, and for texts the tokenizer. Raises `RunError`."""
    record, tokens = record_of(experiment), experiment.source.info.tokens
    try:
        atomic_write(folder / FILE, json.dumps({"format": _FORMAT, **redact_values(asdict(record))}, indent=1))
        if tokens is not None:
            tokens.tokenizer.save_pretrained(folder / TOKENIZER)
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error


def record_of(experiment: Experiment) -> ModelRecord:
    """The record of `experiment`."""
    config, source = experiment.config, experiment.source
    return _record(
        config.model, source.info, source.style, experiment.built, experiment.preprocessing,
        tag=getattr(config.weights, "tag", None),
    )  # fmt: skip


def model_record(folder: Path) -> ModelRecord:
    """The record of the run in `folder`; of a run without one, as its data say. Raises `ConfigError`, `RunError`."""
    path = folder / FILE
    if not path.is_file():
        return _from_data(folder)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("format") != _FORMAT:
            raise ValueError("it is of another version of lwexp")
        known = {known.name for known in fields(ModelRecord)}
        found = {key: value for key, value in found.items() if key in known}
        record = ModelRecord(**{**found, "classes": tuple(map(str, found["classes"]))})
        if not isinstance(record.model, Mapping) or record.task not in get_args(Task):
            raise TypeError("it does not describe a network")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("run", folder, f"its {FILE} cannot be read: {one_line(error)}") from None
    return record


def code_of(folder: Path) -> list[str]:
    """Names of the code that rebuilding the network of the run in `folder` would execute."""
    path = folder / FILE
    if path.is_file():
        return sorted({name for _, name in code_in(dict(model_record(folder).model), "model")})
    values = saved_config(folder)
    sections = {key: values.get(key) for key in ("model", "data")}
    return sorted({name for _, name in code_in(sections)})


def _record(
    model: ModelConfig,
    info: DataInfo,
    style: str | None,
    built: BuiltModel,
    preprocessing: Preprocessing | None,
    *,
    tag: str | None,
) -> ModelRecord:
    from lwexp.models.rebuild import network_of

    section = model.model_dump(by_alias=True)
    if tag is not None and model.source == "timm":
        section["name"] = f"{str(model.name).partition('.')[0]}.{tag}"
    return ModelRecord(
        task=info.task,
        classes=info.classes,
        channels=info.channels,
        image_size=built.image_size,
        model=section,
        network=network_of(model, built.module),
        style=style,
        preprocessing=None if preprocessing is None else json.loads(json.dumps(asdict(preprocessing))),
        max_length=None if info.tokens is None else info.tokens.max_length,
        scale=None if info.scale is None else json.loads(json.dumps(asdict(info.scale))),
        adapters=None if built.adapters is None else asdict(built.adapters),
    )


def _from_data(folder: Path) -> ModelRecord:
    """The record of a run of an earlier version, whose data are opened for it."""
    from lwexp.data import half_of_classes
    from lwexp.models.build import draft_model

    from .opening import open_whole_data

    values = saved_config(folder)
    try:
        config = _sections(values)
        source = open_whole_data(config, started_in(folder) or Path.cwd())
    except LwexpError as error:
        why = f"is of a version of lwexp that did not record the classes, and its data cannot be opened: {error}"
        raise ConfigError("run", folder, why) from None
    weights = values.get("weights") or {}
    if weights.get("name") == "source_task":
        source = half_of_classes(source, "target", int(weights.get("split_seed", 0)))
    info, pretrained = source.info, weights.get("name") == "pretrained"
    built = draft_model(
        config.model, channels=info.channels, classes=len(info.classes), image_size=info.image_size,
        pretrained=pretrained, tag=weights.get("tag") if pretrained else None, tokens=info.tokens,
    ).on_meta()  # fmt: skip
    if info.tokens is not None and not (folder / TOKENIZER).is_dir():
        raise ConfigError("run", folder, f"its {TOKENIZER} folder is missing")
    trained = None if built.preprocessing is None else ("", built.preprocessing)
    preprocessing = preprocessing_of(source, built, trained) if info.kind == "image" and not info.ready else None
    return _record(
        config.model, info, source.style, built, preprocessing,
        tag=weights.get("tag") if pretrained else None,
    )  # fmt: skip


def _sections(values: Mapping[str, Any]) -> Any:
    """The sections of a saved config that say what the network and its data are; new keys have their defaults."""
    data = dict(values.get("data") or {})
    if (CONF / "data" / f"{data.get('name')}.yaml").is_file():
        data = {**defaults(f"data/{data['name']}"), **data}
    return validate(NetworkConfig, {"model": values.get("model"), "data": data})
