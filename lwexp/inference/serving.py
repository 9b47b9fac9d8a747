"""The network of a run in a folder of its own, as MLflow serves it: images or texts in, classes and probabilities out.

A copy of this file goes with every MLflow model, as the package `lwexp_model`, so that it works where lwexp is not
installed: of lwexp it imports `lwexp.data.standalone` alone, which is copied as well.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lwexp.data.standalone import as_mode, evaluation_steps, normalized, upright

PROGRAM, FACTS, TOKENIZER = "model.pt2", "inference.json", "tokenizer"
BATCH = 32


class Model:
    """What `mlflow.pyfunc.load_model` returns, unwrapped.

    The input has a column `image` (a file's content in base64, or its path) or `text`. The output has, for each row,
    the columns `class`, `probability` and `probabilities` (of all `classes`, in their order); for several labels
    `labels` and `probabilities`; for a regression a column for each number.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` has the exported program, the facts about it, and for texts the tokenizer."""
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.facts = facts
        self.classes: list[str] = facts["classes"]
        self.task: str = facts["task"]
        self.column = "image" if facts["max_length"] is None else "text"
        check_archive(folder / PROGRAM)
        self.network = torch.export.load(folder / PROGRAM).module()
        self._tokenizer: Any = None
        if self.column == "text":
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(folder / TOKENIZER), local_files_only=True)
            if self._tokenizer.pad_token_id is None:
                self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """A data frame for a data frame (or for a list of images or texts)."""
        import pandas as pd  # type: ignore[import-untyped]

        rows = list(model_input[self.column]) if hasattr(model_input, "columns") else list(model_input)
        scores = [row for first in range(0, len(rows), BATCH) for row in self.scores(rows[first : first + BATCH])]
        if self.task == "regression":
            return pd.DataFrame(scores, columns=self.classes)
        if self.task == "multilabel":
            labels = [[self.classes[k] for k, value in enumerate(row) if value >= 0.5] for row in scores]
            return pd.DataFrame({"labels": labels, "probabilities": scores})
        best = [int(np.argmax(row)) for row in scores]
        return pd.DataFrame(
            {
                "class": [self.classes[k] for k in best],
                "probability": [row[k] for row, k in zip(scores, best, strict=True)],
                "probabilities": scores,
            }
        )

    def scores(self, rows: Sequence[Any]) -> list[list[float]]:
        """Probabilities of the classes, or the numbers of a regression, for up to a batch of images or texts."""
        with torch.no_grad():
            found: Tensor = (
                self.network(*self._texts(rows)) if self.column == "text" else self.network(self._images(rows))
            )
        found = found.float()
        if self.task == "regression":
            scale = self.facts["scale"]
            found = found if scale is None else found * torch.tensor(scale["std"]) + torch.tensor(scale["mean"])
        elif self.task == "multilabel":
            found = found.sigmoid()
        else:
            found = found.softmax(dim=1)
        rounded: list[list[float]] = found.tolist()
        return rounded

    def _images(self, rows: Sequence[Any]) -> Tensor:
        to = self.facts["preprocessing"]
        channels = 1 if 1 in (self.facts["channels"], to["channels"]) else to["channels"]
        steps = evaluation_steps(self.facts["style"], to["image_size"], to["interpolation"], to["crop_pct"])
        pixels = [np.asarray(steps(as_mode(upright(opened(row)), channels))) for row in rows]
        whole = np.stack([image if image.ndim == 3 else image[:, :, None] for image in pixels])
        return normalized(torch.from_numpy(whole), to["channels"], to["mean"], to["std"])

    def _texts(self, rows: Sequence[Any]) -> tuple[Tensor, ...]:
        found = self._tokenizer(
            [str(row) for row in rows], truncation=True, max_length=self.facts["max_length"], padding=True,
            return_tensors="pt",
        )  # fmt: skip
        return tuple(found[name] for name in ("input_ids", "attention_mask"))


def check_archive(path: Path) -> None:
    """Raise `ValueError` for an archive of which `torch.export.load` would unpickle more than plain tensors."""
    with zipfile.ZipFile(path) as archive:
        seen = set[str]()
        for name in archive.namelist():
            lower = name.lower()  # torch finds an entry whatever the case of its name
            if lower in seen:  # it might read the other one
                raise ValueError(f"{path.name} holds {name} twice")
            seen.add(lower)
            last = lower.rpartition("/")[2]
            pickled = last.endswith("_config.json") and _has_pickle(path, name, archive.read(name))
            if pickled or "custom_obj" in last or last.endswith((".so", ".o")):
                raise ValueError(f"{path.name} holds objects that would execute code: {name}")
            if last.endswith(".pt"):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)  # raises for more than tensors


def _has_pickle(path: Path, name: str, content: bytes) -> bool:
    """Whether a part of the JSON `content` says that torch should unpickle something."""
    found = False

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal found
        found = found or any(key == "use_pickle" and value not in (False, None) for key, value in pairs)
        return dict(pairs)

    try:
        json.loads(content, object_pairs_hook=look)
    except ValueError:
        raise ValueError(f"{path.name} cannot be read: {name} is not JSON") from None
    return found


def opened(image: Any) -> Image.Image:
    """The image of a file's content, in bytes or base64 (also as a data URL), or of a path. Raises `ValueError`."""
    if isinstance(image, Image.Image):
        return image.copy()
    if isinstance(image, str) and Path(image[:4096]).suffix and _is_file(image):
        return _read(Path(image).read_bytes())
    if isinstance(image, str):
        try:
            return _read(base64.b64decode(image.partition(";base64,")[2] or image, validate=True))
        except binascii.Error:
            raise ValueError(f"{image[:80]!r} is neither the path of a file nor an image in base64") from None
    return _read(bytes(image))


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a path
        return False


def _read(content: bytes) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(content))
    image.load()
    return image


def _load_pyfunc(path: str, model_config: Any = None) -> Model:
    """MLflow's entry: `path` is the model's folder `data`."""
    return Model(Path(path))
