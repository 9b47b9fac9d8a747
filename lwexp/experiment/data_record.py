"""The record of what a run's data consisted of, in its folder, and how the data differ from it now."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from lwexp.data.contents import Contents, difference
from lwexp.errors import ConfigError, RunError
from lwexp.host.files import atomic_write
from lwexp.tracking import DatasetRecord

from .naming import data_label

if TYPE_CHECKING:
    from lwexp.data import DataSource
    from lwexp.data.source import SplitName

FILE = "data.json.gz"
_NAMES = ("path", "dataset", "root")  # keys of the data section that say where the data are


def save_data_record(folder: Path, contents: Contents) -> None:
    """Write the names and sizes in `contents`. Raises `RunError`."""
    text = json.dumps({"format": 1, "contents": dict(contents)}, indent=0)
    try:
        atomic_write(folder / FILE, gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0))
    except OSError as error:
        raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error


def datasets_of(source: DataSource, data: Mapping[str, Any], base: Path) -> list[DatasetRecord]:
    """The splits of `source` as MLflow's datasets; `data` is the section of the config, whose paths start at `base`.

    A digest is that of the contents of all splits, and of the labels of its own.
    """
    info, label = source.info, data_label(data)
    whole = hashlib.sha256(json.dumps(dict(source.contents), sort_keys=True).encode("utf-8", "surrogatepass"))
    sample = "text" if info.kind == "text" else "image"
    shape = "string" if info.kind == "text" else f"{info.channels} channels"
    target = {"classification": "class", "multilabel": "labels", "regression": "numbers"}[info.task]
    found = []
    for name, size in info.sizes.items():
        labels = source.labels(cast("SplitName", name))
        own = whole.copy()
        own.update(name.encode())
        own.update(labels.numpy().tobytes())
        if name == "train" and data.get("train_size") is not None:
            own.update(source.split("train").positions.numpy().tobytes())
        profile: dict[str, Any] = {"num_rows": size, "num_classes": len(info.classes)}
        if info.task == "classification":
            counts = torch.bincount(labels, minlength=len(info.classes)).tolist()
            profile["class_counts"] = dict(zip(info.classes, counts, strict=True))
        found.append(
            DatasetRecord(
                name=label,
                digest=own.hexdigest()[:12],
                context=name,
                kind=_source_kind(data),
                source=_source(data, base),
                columns={sample: shape, target: "long" if info.task == "classification" else "double"},
                profile=profile,
            )
        )
    return found


def _source_kind(data: Mapping[str, Any]) -> str:
    if data.get("path"):
        return "local"
    if data.get("dataset"):
        return "torchvision" if data["name"] == "torchvision" else "hugging_face"
    return "sklearn" if data["name"] == "digits" else str(data["name"])


def _source(data: Mapping[str, Any], base: Path) -> dict[str, Any]:
    kept = {key: data[key] for key in ("dataset", "subset", "_target_", "split_seed") if data.get(key) is not None}
    where = {"uri": str((base / str(data["path"])).absolute())} if data.get("path") else {}
    return {**where, **kept} or {"name": data["name"]}


def data_changes(folder: Path, contents: Contents, values: Mapping[str, Any], *, remap: bool) -> list[str]:
    """How `contents` differ from those of the run in `folder`, as one text in a list; empty where they do not.

    A run of an earlier version of lwexp has no record. Raises `ConfigError` for a difference unless `remap`; `values`
    is the config.
    """
    before = _record(folder)
    found = "" if before is None else difference(before, contents)
    if not found:
        return []
    if not remap:
        key = next((key for key in _NAMES if values["data"].get(key)), "name")
        why = f"the data have changed since the run began: {found}; checkpoint.remap=true resumes with them as they are"
        raise ConfigError("data" if key == "name" else f"data.{key}", values["data"].get(key), why)
    return [f"data: {found}"]


def _record(folder: Path) -> Contents | None:
    try:
        found = json.loads(gzip.decompress((folder / FILE).read_bytes()))["contents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # none, or damaged: nothing to compare with
        return None
    return found if isinstance(found, dict) else None
