"""The typed schema of the whole config: types, ranges and unknown keys, checked before anything is allocated.

`check` turns what Hydra composed into a `RunConfig`. Sections whose options are the keyword arguments of a function
(`grouping`, `decay`, `policy`, `optimizer`, `model`) are open here and checked against that function where it is
looked up; all others are closed. Defaults live in `conf/`, not here, so that every key has one default in one place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


class Section(BaseModel):
    """A closed part of the config: an unknown key is an error, no value is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), populate_by_name=True)


class OpenSection(Section):
    """A part whose other keys are keyword arguments of what `name` or `_target_` names."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    target: str | None = Field(default=None, alias="_target_")

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides `name` and `_target_`."""
        return dict(self.model_extra or {})


class ModelConfig(OpenSection):
    """Which network; `source` says who builds `name`. Other keys go to the builder."""

    source: Literal["timm", "torchvision", "lstm", "huggingface", "custom"]

    @property
    def label(self) -> str:
        """A short name for people: of a folder, its last part."""
        name = self.name or self.target or self.options.get("config_class") or self.source
        return PurePath(name).name if self.source == "huggingface" and name.count("/") > 1 else str(name)


class ImagesConfig(Section):
    """What all sets of images have: their size, how they are split, augmented and loaded."""

    image_size: Annotated[int, Field(ge=8, le=16384)] | None
    split_seed: Annotated[int, Field(ge=0)]
    augment: bool
    workers: Workers


class DigitsConfig(ImagesConfig):
    """scikit-learn's 1,797 digit images, 8×8, resized to `image_size`."""

    name: Literal["digits"]


class ImageFolderConfig(ImagesConfig):
    """`path`/{train,val or validation,test}/<class>/<image>; a missing validation split is cut from train."""

    name: Literal["image_folder"]
    path: str
    cache: bool | Literal["auto"]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


class TorchvisionConfig(ImagesConfig):
    """Any of torchvision's image classification sets, by class name, under `root`."""

    name: Literal["torchvision"]
    dataset: str
    root: str
    download: bool
    cache: bool | Literal["auto"]
    options: dict[str, Any]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]


class TextConfig(Section):
    """Texts with one label each, from files at `path` or the set `dataset` of the `datasets` library."""

    name: Literal["text"]
    path: str | None
    dataset: str | None
    subset: str | None
    text: str
    label: str
    tokenizer: str | None
    vocabulary: Annotated[int, Field(ge=8)]
    max_length: Count
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    test_fraction: Fraction
    split_seed: Annotated[int, Field(ge=0)]
    workers: Workers

    @property
    def augment(self) -> bool:
        """Texts stay as they are."""
        return False


DataConfig = DigitsConfig | ImageFolderConfig | TorchvisionConfig | TextConfig


class ScratchConfig(Section):
    """Random initial weights, drawn from `seed`."""

    name: Literal["scratch"]


class PretrainedConfig(Section):
    """The weights published with the model, loaded by the library that it is from; `tag` picks among several."""

    name: Literal["pretrained"]
    tag: str | None


class WeightsFileConfig(Section):
    """Weights from a `.safetensors` or weights-only `.pt` file; `strict` refuses missing and unexpected keys."""

    name: Literal["checkpoint"]
    path: str
    strict: bool


class SourceTaskConfig(Section):
    """Weights pretrained on one half of the classes; the run itself then learns the other half."""

    name: Literal["source_task"]
    epochs: Count
    lr: Positive
    split_seed: Annotated[int, Field(ge=0)]


class MLflowConfig(Section):
    """The MLflow store: `uri` null means MLFLOW_TRACKING_URI, else sqlite:///outputs/mlflow.db."""

    name: Literal["mlflow"]
    uri: str | None
    experiment: Annotated[str, Field(min_length=1)]
    timeout: Positive
    flush_timeout: NonNegative
    rates_every: Count


class NoTrackingConfig(Section):
    """No tracking at all."""

    name: Literal["none"]


class LossConfig(Section):
    """Any `torch.nn` loss by its class name."""

    name: str
    label_smoothing: Fraction
    class_weights: Literal["balanced"] | list[NonNegative] | None
    options: dict[str, Any]


class UnfreezeConfig(Section):
    """Gradual unfreezing from the head: one more group every so many epochs or steps; null: off."""

    every_epochs: Count | None
    every_steps: Count | None


class EventConfig(Section):
    """From optimizer step `step` on, `group` (plan index or name) has the absolute rate `lr`."""

    step: Annotated[int, Field(ge=0)]
    group: int | str
    lr: NonNegative


class CheckpointConfig(Section):
    """When the whole state of the training is saved, for `resume`, and how it is taken up again."""

    every_steps: Count | None
    every_minutes: Positive | None
    keep: Count
    remap: bool
    allow_targets: list[str]


class SearchConfig(Section):
    """The trial of a search that a run belongs to; no `storage`: the study is in the sweep's folder."""

    study: str | None
    storage: str | None
    trial: Annotated[int, Field(ge=0)] | None


class SweepConfig(Section):
    """How the jobs of a sweep are run and compared."""

    resume: str | None
    baseline: bool | Literal["auto"]
    isolate: bool
    report: bool
    search: SearchConfig


class PreviewConfig(Section):
    """Files that `lwexp.preview` writes the plan's table to, relative to where it is started."""

    csv: str | None
    json_: str | None = Field(alias="json")


class RunConfig(Section):
    """Everything a run is told."""

    model: ModelConfig
    grouping: OpenSection
    decay: OpenSection
    policy: OpenSection
    optimizer: OpenSection
    data: Annotated[DataConfig, Field(discriminator="name")]
    weights: Annotated[
        ScratchConfig | PretrainedConfig | WeightsFileConfig | SourceTaskConfig, Field(discriminator="name")
    ]
    tracking: Annotated[MLflowConfig | NoTrackingConfig, Field(discriminator="name")]

    lr: Positive
    mult: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    freeze: list[str]
    freeze_mode: Literal["requires_grad", "lr_zero"]
    freeze_stats: bool
    lr_overrides: dict[str, NonNegative]
    lr_events: list[EventConfig]
    unfreeze: UnfreezeConfig
    no_weight_decay: bool

    epochs: Count
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    clip_grad_norm: Positive | None
    loss: LossConfig
    device: str
    threads: Count | None
    precision: Literal["fp32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    parallel: Literal["ddp", "fsdp"]
    sync_batchnorm: bool
    nonfinite: Literal["stop", "skip"]
    progress: bool
    resume: str | None
    checkpoint: CheckpointConfig
    sweep: SweepConfig
    preview: PreviewConfig


def check(values: Mapping[str, Any]) -> RunConfig:
    """The typed config of the resolved mapping `values`; `ConfigError` names the first key that is wrong."""
    values = dict(values)
    if isinstance(values.get("lr_overrides"), Mapping):
        values["lr_overrides"] = flatten(values["lr_overrides"])
    for key, value in flatten(values).items():
        if value == "???":
            raise ConfigError(key, value, "must be given")
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise _explained(error, values) from None


def flatten(nested: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """One level of dotted keys: `{layer4: {0: 0.1}}`, as typed `lr_overrides.layer4.0=0.1`, is `{"layer4.0": 0.1}`.

    >>> flatten({"layer4": {0: 0.1}, "fc": 1.0})
    {'layer4.0': 0.1, 'fc': 1.0}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _explained(error: ValidationError, values: Mapping[str, Any]) -> ConfigError:
    """The most telling of pydantic's findings as one line: a key nobody knows, else the first."""
    findings = error.errors(include_url=False)
    first = _path_of(findings[0], values)
    # the members of a union all complain; the one that came furthest meant the same as the user
    alike = [f for f in findings if _path_of(f, values)[: len(first)] == first]
    deepest = max(alike, key=lambda f: len(_path_of(f, values)))
    found = next((f for f in findings if f["type"] == "extra_forbidden"), deepest)
    parts = _path_of(found, values)
    key = ".".join(str(part) for part in parts)
    if found["type"] == "extra_forbidden":
        return UnknownOptionError(key, found["input"], _siblings(found["loc"]))
    if found["type"] == "missing":
        return ConfigError(key, "???", "must be given")
    if found["type"] == "union_tag_not_found":
        return ConfigError(f"{key}.name", None, "must be given")
    if found["type"].startswith("union_tag"):
        return UnknownNameError(
            f"{key}.name", _tag(found["input"]), _tags(str(found["ctx"].get("expected_tags", ""))), f"no such {key}"
        )
    words = [f["ctx"]["expected"] for f in alike if f["type"] == "literal_error" and _path_of(f, values) == parts]
    others = "".join(f", or {word}" for word in words if found["type"] != "literal_error")
    return ConfigError(key, found["input"], f"{_reason(found['msg'])}{others}")


def _path_of(finding: Any, values: Mapping[str, Any]) -> list[int | str]:
    return _real_path(finding["loc"], values, absent=finding["type"] == "missing")


def _reason(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _tag(value: Any) -> Any:
    return value.get("name") if isinstance(value, Mapping) else value


def _tags(expected: str) -> list[str]:
    return [tag.strip(" '") for tag in expected.split(",") if tag.strip()]


def _real_path(loc: tuple[int | str, ...], values: Any, *, absent: bool) -> list[int | str]:
    """`loc` without the tags of unions that pydantic puts into it, so that it can be typed on the command line.

    `absent`: the last part is a key that is missing from `values`.
    """
    path: list[int | str] = []
    for i, part in enumerate(loc):
        keys = range(len(values)) if isinstance(values, list) else values if isinstance(values, Mapping) else ()
        is_tag = i == 1 and i < len(loc) - 1 and isinstance(values, Mapping) and values.get("name") == part
        if part in keys and not is_tag:  # the texts' tag is a key of theirs as well
            values = values[part]
        elif i < len(loc) - 1 or not absent:
            continue  # a union's tag, or the type that a member of a union was tried as
        path.append(part)
    return path


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section around the last part of `loc` knows."""
    section: Any = RunConfig
    for part in loc[:-1]:
        if isinstance(section, dict):  # a union of sections by tag, and `part` the tag
            section = section[part]
        elif isinstance(part, str):
            field = section.model_fields[part]
            members = _sections(field.annotation)
            section = {_tag_of(m): m for m in members} if field.discriminator else members[0]
    return [field.alias or name for name, field in section.model_fields.items()]


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that a type consists of, however wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _tag_of(section: type[Section]) -> str:
    return str(get_args(section.model_fields["name"].annotation)[0])
