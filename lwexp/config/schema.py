"""The typed schema of the whole config: types, ranges and unknown keys; `validation.py` applies it.

Sections whose options are the keyword arguments of a function (`grouping`, `decay`, `policy`, `optimizer`, `model`)
are open here and checked against that function where it is looked up; all others are closed. Defaults live in
`conf/`, not here, so that every key has one default in one place.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .data_schema import DataConfig
from .recipe_schema import RecipeConfig
from .section import Count, NonNegative, OpenSection, Positive, Section
from .training_schema import AverageConfig, DiagnosticsConfig, EarlyStoppingConfig, LossConfig
from .tuning_schema import L2SPConfig, LoraConfig, WiseFTConfig
from .weights_schema import WeightsConfig


class ModelConfig(OpenSection):
    """Which network; `source` says who builds `name`. Other keys go to the builder."""

    source: Literal["timm", "torchvision", "lstm", "huggingface", "custom"]

    @property
    def label(self) -> str:
        """A short name for display; of a folder, its last part."""
        name = self.name or self.target or self.options.get("config_class") or self.source
        return PurePath(name).name if self.source == "huggingface" and name.count("/") > 1 else str(name)


class TensorBoardConfig(Section):
    """Event files for TensorBoard, in the run's folder."""


class WandbConfig(Section):
    """A run of Weights & Biases; `mode` null means WANDB_MODE, else online where the user is logged in."""

    project: Annotated[str, Field(min_length=1)]
    entity: str | None
    mode: Literal["online", "offline"] | None


class TrackingConfig(Section):
    """What all records have; None: not recorded there."""

    tensorboard: TensorBoardConfig | None = None
    wandb: WandbConfig | None = None


class MLflowConfig(TrackingConfig):
    """The MLflow store: `uri` null means MLFLOW_TRACKING_URI, else sqlite:///outputs/mlflow.db.

    `experiment` null means MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID, else lwexp.
    """

    name: Literal["mlflow"]
    uri: str | None
    experiment: Annotated[str, Field(min_length=1)] | None
    timeout: Positive
    flush_timeout: NonNegative
    rates_every: Count
    system_metrics: bool = False
    model: bool = True
    register_model: Annotated[str, Field(min_length=1)] | None = None


class NoTrackingConfig(TrackingConfig):
    """No MLflow."""

    name: Literal["none"] = "none"
    flush_timeout: NonNegative = 0.0
    rates_every: Count = 1
    system_metrics: Literal[False] = False


def _tracker(values: Any) -> Any:
    """Which of the two: TensorBoard and W&B have no name, so that `tracking=[mlflow,wandb]` keeps MLflow's."""
    name = values.get("name", "none") if isinstance(values, dict) else getattr(values, "name", None)
    return name if isinstance(name, str) else None


class UnfreezeConfig(Section):
    """Gradual unfreezing from the head, one more group every so many epochs or steps (null: off), or by pattern."""

    every_epochs: Count | None
    every_steps: Count | None
    at: dict[str, Annotated[int, Field(ge=0)]]


class PhaseConfig(Section):
    """A part of the training: its length, the groups that it trains (null: all), their policies and rates."""

    steps: Count | None = None
    epochs: Positive | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    train: str | list[str] | None = None
    policy: str | OpenSection | None = None
    policies: dict[str, str | OpenSection] | None = None
    lr_factor: Positive = 1.0


class EventConfig(Section):
    """From optimizer step `step` on, `group` (plan index or name) has the absolute rate `lr`."""

    step: Annotated[int, Field(ge=0)]
    group: int | str
    lr: NonNegative


class CheckpointConfig(Section):
    """When the whole state of the training is saved, for `resume`, and how it is restored."""

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
    keep_weights: bool
    details: bool
    report: bool
    search: SearchConfig


class PreviewConfig(Section):
    """Files that `lwexp.preview` writes the plan's table to, relative to where it is started."""

    csv: str | None
    json_: str | None = Field(alias="json")


class FindConfig(Section):
    """The range tests of `lwexp.find`; their ranges are checked in `lwexp.core.finding.curve`."""

    min_lr: Positive
    max_lr: Positive
    steps: Count
    groups: bool
    repeats: Count
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    diverged: Annotated[float, Field(gt=1)]


class CallbackConfig(OpenSection):
    """A callback of the user's own; other keys are arguments of its class."""

    target: str = Field(alias="_target_")


class NetworkConfig(Section):
    """The two sections of a run that say what its network is and what it reads."""

    model: ModelConfig
    data: Annotated[DataConfig, Field(discriminator="name")]


class MetricConfig(OpenSection):
    """A metric of the user's own; other keys are arguments of its class."""

    target: str = Field(alias="_target_")


class RunConfig(Section):
    """All settings of a run."""

    model: ModelConfig
    grouping: OpenSection
    decay: OpenSection
    policy: OpenSection
    optimizer: OpenSection
    data: Annotated[DataConfig, Field(discriminator="name")]
    weights: Annotated[WeightsConfig, Field(discriminator="name")]
    tracking: Annotated[
        Annotated[MLflowConfig, Tag("mlflow")] | Annotated[NoTrackingConfig, Tag("none")], Discriminator(_tracker)
    ]

    name: Annotated[str, Field(min_length=1, max_length=250)] | None
    tags: dict[str, str | bool | int | float]
    notes: str | None

    recipe: RecipeConfig
    lr: Positive | None
    mult: Positive | None
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    freeze: list[str]
    train: list[str]
    freeze_mode: Literal["requires_grad", "lr_zero"]
    freeze_stats: bool
    lr_overrides: dict[str, NonNegative]
    lr_mults: dict[str, NonNegative]
    split_groups: list[str]
    lr_events: list[EventConfig]
    policies: dict[str, str | OpenSection]
    phases: list[PhaseConfig]
    weight_decay_policy: OpenSection
    momentum_policy: OpenSection
    unfreeze: UnfreezeConfig
    group_options: dict[str, dict[str, Any]]
    no_weight_decay: bool | list[str]
    weight_decay_mult: Positive
    independent_weight_decay: bool
    index_from: Literal["all", "trained"]

    epochs: Count
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    clip_grad_norm: Positive | None
    loss: LossConfig
    metrics: dict[str, MetricConfig]
    monitor: Annotated[str, Field(min_length=1)]
    monitor_mode: Literal["auto", "min", "max"]
    eval_every_epochs: Count
    eval_every_steps: Count | None
    evaluate_test: bool
    early_stopping: EarlyStoppingConfig
    ema: AverageConfig
    lora: LoraConfig
    l2_sp: L2SPConfig
    wise_ft: WiseFTConfig
    deterministic: bool
    tta: Literal["none", "flip", "five_crop", "ten_crop"]
    device: str
    threads: Count | None
    precision: Literal["fp32", "bf16", "fp16"]
    channels_last: bool
    compile: bool
    parallel: Literal["ddp", "fsdp"]
    sync_batchnorm: bool
    nonfinite: Literal["stop", "skip"]
    diagnostics: DiagnosticsConfig
    progress: bool
    resume: str | None
    from_run: str | None
    callbacks: dict[str, CallbackConfig]
    checkpoint: CheckpointConfig
    sweep: SweepConfig
    find: FindConfig
    preview: PreviewConfig
