"""Evaluating a run on labeled data: its own test split, or any other data with its classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lwexp.config.data_schema import DataConfig
from lwexp.config.defaults import CONF, defaults
from lwexp.config.schema import NetworkConfig
from lwexp.config.validation import validate
from lwexp.data import TargetScale, call, eval_loader, half_of_classes, to_device
from lwexp.data.labeled import LabeledData, as_labeled, match_classes, open_labeled
from lwexp.data.source import SPLIT_NAMES
from lwexp.data.views import Views
from lwexp.errors import ConfigError, UnknownNameError, UnknownOptionError
from lwexp.experiment.evaluation_files import Evaluated
from lwexp.experiment.opening import based, open_whole_data
from lwexp.experiment.saved_config import code_in, saved_config
from lwexp.experiment.training_batches import evaluated
from lwexp.tasks import Task
from lwexp.tracking import started_in
from lwexp.training.details import Details, details_of
from lwexp.training.predictions import PredictionKeeper

from .inputs import TextInput
from .loaded import LoadedRun

# Keys of the data section that say which samples there are; all others are the model's own
_PLACES = {
    "name", "path", "dataset", "subset", "root", "download", "options", "text", "label", "split_seed", "val_fraction",
    "test_fraction", "workers", "split", "image", "delimiter", "suffix", "task", "_target_",
}  # fmt: skip
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Evaluation:
    """The result: numbers, the samples, and a name for its files; `missing`: classes of the model without samples."""

    details: Details
    data: Evaluated
    name: str
    missing: tuple[str, ...]
    skipped: int = 0  # samples of classes that the model does not know


def evaluate_run(
    run: LoadedRun,
    options: Mapping[str, Any],
    *,
    choice: str | None = None,
    split: str | None = None,
    skip_unknown: bool = False,
    allow_targets: Sequence[str] = (),
    base: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Evaluation:
    """Evaluate `run` on its own test split (else its validation split), or on the data that the options name.

    `choice` is the data's kind, one of `conf/data/`, by default that of the run; `options` are dotted keys such as
    `data.path` and `batch_size`. Of other data the split "test" is taken, else "val", else all; `split` names another.
    `progress(done, count)` is called after each batch. Raises `ConfigError` and `RunError`.
    """
    wanted = next((name for name in SPLIT_NAMES if name == split), None)
    if wanted is None and split is not None:
        raise UnknownNameError("--split", split, SPLIT_NAMES, "no such split")
    saved = saved_config(run.folder)
    section = {key.removeprefix("data."): value for key, value in options.items() if key.startswith("data.")}
    batch_size = _batch_size({**saved, **options})
    is_own = choice is None and not set(section) - {"workers"}
    if choice is None:
        _check_code(saved, section, allow_targets)
    config = _data_config(saved, choice, section, run.record.task)
    elsewhere = choice is not None or not {"path", "dataset"}.isdisjoint(section)
    place = (None if elsewhere else started_in(run.folder)) or base or Path.cwd()
    tokens = run.transform.tokens if isinstance(run.transform, TextInput) else None
    data = _own_data(saved, config, place) if is_own else open_labeled(based(config, place), tokens)
    if data.task != run.record.task:
        raise ConfigError("data", config.name, f"is for a {data.task}, and the run was trained for a {run.record.task}")
    chosen = data.chosen(wanted)
    named = [(f"data.{name}", str(getattr(config, name, None) or "")) for name in ("path", "dataset")]
    option = next((each for each in named if each[1]), ("data", config.name))
    whole = data.splits[chosen]
    part = match_classes(option, data.classes, run.classes, whole, task=data.task, skip=skip_unknown)
    if run.kind == "text" and tokens is not None and hasattr(part.store, "tokens"):
        part.store.tokens = tokens
    preprocessing = getattr(run.transform, "preprocessing", None)
    tta: Any = saved.get("tta", "none")
    seen = evaluated(tta, preprocessing)
    samples = data.dataset(part, seen, run.record.style, run.record.channels)  # type: ignore[arg-type]
    call_model = call if tta == "none" else Views(tta, run.record.image_size)
    loader = eval_loader(samples, batch_size=batch_size, workers=config.workers, device=run.device)
    keeper, done = PredictionKeeper(run.record.task, _scale(run)), 0
    dtype = _AUTOCAST.get(str(saved.get("precision")))
    try:
        with torch.inference_mode(), torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not None):
            for batch in loader:
                inputs, labels = to_device(batch, run.device)
                keeper(call_model(run.model, inputs), labels, done)
                done += len(labels)
                progress(done, len(samples))
    finally:
        loader.close()
    details = details_of(run.record.task, run.classes, keeper.gather())
    alone = len(data.splits) == 1 and chosen == "train"
    where = "" if is_own else _short_name(based(config, place))
    name = " ".join(part for part in (where, "" if alone else chosen) if part)
    present = set(part.labels.tolist()) if part.labels.ndim == 1 else set(range(len(run.classes)))
    missing = tuple(name for label, name in enumerate(run.classes) if label not in present)
    title = Evaluated(name, samples, seen, run.kind)
    return Evaluation(details, title, name.replace(" ", "_"), missing, len(whole.labels) - len(part.labels))


def _own_data(saved: Mapping[str, Any], config: DataConfig, base: Path) -> LabeledData:
    """The run's own splits."""
    sections = validate(NetworkConfig, {"model": saved.get("model"), "data": config.model_dump(by_alias=True)})
    source = open_whole_data(sections, base)
    weights = saved.get("weights") or {}
    if weights.get("name") == "source_task":
        source = half_of_classes(source, "target", int(weights.get("split_seed", 0)))
    return as_labeled(source)


def _data_config(saved: Mapping[str, Any], choice: str | None, section: Mapping[str, Any], task: Task) -> DataConfig:
    """The checked data section: that of the run, or of `choice`, with the keys that are given in `section`.

    `task`: the run's, of data that do not say theirs.
    """
    choices = sorted(path.stem for path in (CONF / "data").glob("*.yaml"))
    own = dict(saved.get("data") or {})
    name = choice or str(own.get("name"))
    if name not in choices:
        raise UnknownNameError("data", name, choices, "no such data")
    known = defaults(f"data/{name}")
    for key, value in section.items():
        if key.partition(".")[0] not in known:
            raise UnknownOptionError(f"data.{key}", value, [f"data.{each}" for each in known])
        if key.partition(".")[0] not in _PLACES:
            raise ConfigError(f"data.{key}", value, "an evaluation takes the run's own")
    inherited = own if choice is None else {key: own[key] for key in ("delimiter",) if key in own and key in known}
    for key, others in (("path", ("dataset", "subset")), ("dataset", ("path", "subset"))):
        if section.get(key) is not None:  # other data than those of the run
            inherited = {name: value for name, value in inherited.items() if name not in others}
    values = {**known, **inherited, **_nested(section)}
    if values.get("task") == "auto":  # a few samples may look like another task
        values["task"] = task
    if values.get("path", "") == "???":
        raise ConfigError("data.path", "???", "must be given")
    found: NetworkConfig = validate(NetworkConfig, {"model": saved.get("model"), "data": values})
    return found.data


def _nested(section: Mapping[str, Any]) -> dict[str, Any]:
    """`options.size` as a key of the mapping `options`."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        first, _, rest = key.partition(".")
        if rest:
            found[first] = {**(found.get(first) or {}), rest: value}
        else:
            found[first] = value
    return found


def _batch_size(values: Mapping[str, Any]) -> int:
    size = values.get("batch_size", 64)
    if type(size) is not int or size < 1:
        raise ConfigError("batch_size", size, "must be a whole number above 0")
    return size


def _check_code(saved: Mapping[str, Any], section: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raise `ConfigError` for code of the run's data section, except where the command's `section` has its own."""
    given = {key.partition(".")[0] for key in section}
    rest = {key: value for key, value in dict(saved.get("data") or {}).items() if key not in given}
    refused = [name for _, name in code_in({"data": rest}) if name not in allowed]
    if refused:
        why = f"the run's data would execute {', '.join(refused)}; allow it where you trust the folder"
        raise ConfigError("--allow-target", ", ".join(allowed) or None, why)


def _scale(run: LoadedRun) -> TargetScale | None:
    scale = run.record.scale
    return None if scale is None else TargetScale(tuple(scale["mean"]), tuple(scale["std"]))


def _short_name(config: DataConfig) -> str:
    """A short name of the data for titles and files: of the folder, of two if its own is that of a split."""
    where = getattr(config, "path", None) or getattr(config, "dataset", None) or config.name
    path = Path(os.path.abspath(Path(str(where)).expanduser()))  # noqa: PTH100 (resolve() would follow links)
    name = f"{path.parent.name}-{path.name}" if path.name in SPLIT_NAMES and path.parent.name else path.name
    return name if name and name not in SPLIT_NAMES else f"{config.name}-{name}".strip("-")
