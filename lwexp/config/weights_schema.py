"""The schema of `weights`: what a network starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .section import Count, Positive, Section


class ScratchConfig(Section):
    """Random initial weights, drawn from `seed`."""

    name: Literal["scratch"]


class PretrainedConfig(Section):
    """The weights published with the model, loaded by the library that it is from; `tag` picks among several."""

    name: Literal["pretrained"]
    tag: str | None


class WeightsFileConfig(Section):
    """Weights from a `.safetensors` or weights-only `.pt` file; `strict` refuses missing and unexpected keys.

    `key` is the place in the file, `prefix` what the names begin with there; null: what fits the model best.
    """

    name: Literal["checkpoint"]
    path: str
    key: str | None
    prefix: str | None
    strict: bool


class PretrainingConfig(Section):
    """Weights that are pretrained here, on a source task, before the run."""

    epochs: Count
    lr: Positive


class SourceTaskConfig(PretrainingConfig):
    """Weights pretrained on one half of the classes; the run itself then learns the other half."""

    name: Literal["source_task"]
    split_seed: Annotated[int, Field(ge=0)]


class LettersConfig(PretrainingConfig):
    """Weights pretrained on printed letters."""

    name: Literal["letters"]
    batch_size: Count
    seed: Annotated[int, Field(ge=0)]


WeightsConfig = ScratchConfig | PretrainedConfig | WeightsFileConfig | SourceTaskConfig | LettersConfig
