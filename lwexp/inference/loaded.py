"""`lwexp.load(run)`: the network of a run with its weights, the way to its input, and its classes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lwexp.config.schema import ModelConfig
from lwexp.config.validation import validate
from lwexp.data import Inputs, Preprocessing, Tokens, call
from lwexp.errors import ConfigError
from lwexp.experiment.model_record import TOKENIZER, ModelRecord, code_of, model_record
from lwexp.host.device import build_device
from lwexp.models.adapters import Adapters, add_adapters, merge_adapters
from lwexp.models.rebuild import rebuild_model
from lwexp.tracking import run_status
from lwexp.training.checkpoint.weights import load_weights, read_weights

from .finding import find
from .inputs import ImageInput, TensorInput, TextInput, Transform

Weights = Literal["best", "last", "wise_ft"]
log = logging.getLogger(__name__)
WEIGHTS = {"best": "best.safetensors", "last": "model.safetensors", "wise_ft": "wise_ft.safetensors"}


@dataclass(frozen=True)
class LoadedRun:
    """A run in use. `model, transform, classes = load(run)` works as well.

    `model`: in evaluation mode, without gradients. `transform`: a PIL image or a file's path to float32 [C, H, W], or a
    text to int64 [tokens]. `classes`: names of the outputs, which `task` ("classification", "multilabel", "regression")
    makes classes, labels or numbers.
    """

    folder: Path
    model: nn.Module
    transform: Transform
    classes: tuple[str, ...]
    record: ModelRecord
    weights: Path
    device: torch.device
    notes: tuple[str, ...] = ()  # what a user should know, such as that the run is not finished

    def __iter__(self) -> Iterator[Any]:
        """Model, transform and classes."""
        return iter((self.model, self.transform, self.classes))

    @property
    def task(self) -> str:
        """What the network was trained for."""
        return self.record.task

    @property
    def kind(self) -> str:
        """Kind of the inputs: "image" or "text"."""
        return self.record.kind

    @property
    def image_size(self) -> int | None:
        """Side of the images in pixels; None for texts."""
        return self.record.image_size or None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image's tensor. Raises `ConfigError` where it is not known."""
        if isinstance(self.transform, ImageInput):
            to = self.transform.preprocessing
            return to.channels, to.image_size, to.image_size
        raise ConfigError("run", self.folder, f"the shape of its {self.kind}s is not known")

    def collate(self, inputs: Sequence[Tensor]) -> Inputs:
        """Several results of `transform` as one batch; a DataLoader's `collate_fn` for inputs alone."""
        return self.transform.collate(inputs)

    def outputs(self, inputs: Inputs) -> Tensor:
        """The model's output for a batch, on the model's device: logits, float [N, classes]."""
        with torch.inference_mode():
            if isinstance(inputs, dict):
                found = call(self.model, {name: tensor.to(self.device) for name, tensor in inputs.items()})
            else:
                found = call(self.model, inputs.to(self.device))
        assert isinstance(found, Tensor)
        return found.float()

    def predict(self, items: Iterable[Any], batch_size: int = 32) -> Tensor:
        """Probabilities of the classes for images (PIL, or paths) or texts, float32 [N, classes], on the CPU.

        Of several labels each has its own probability; a regression gives its numbers, in their own unit.
        """
        inputs = [self.transform(item) for item in items]
        if not inputs:
            return torch.zeros(0, len(self.classes))
        chunks = [inputs[first : first + batch_size] for first in range(0, len(inputs), batch_size)]
        return torch.cat([self.scores(self.outputs(self.collate(chunk))).cpu() for chunk in chunks])

    def scores(self, outputs: Tensor) -> Tensor:
        """The model's `outputs` [N, outputs] as probabilities; of a regression as numbers in their own unit."""
        if self.task == "regression":
            if self.record.scale is None:
                return outputs
            mean, std = (torch.tensor(self.record.scale[key], device=outputs.device) for key in ("mean", "std"))
            return outputs * std + mean
        return outputs.sigmoid() if self.task == "multilabel" else outputs.softmax(dim=1)


def load(
    run: str | Path,
    *,
    weights: Weights = "best",
    device: str = "cpu",
    allow_targets: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> LoadedRun:
    """The network of `run`, ready for use: `model, transform, classes = load("outputs/runs/…")`.

    `run`: a run's or a sweep's folder, an MLflow run id or the first six or more of its digits, or "latest"; of a sweep
    the run with the best validation is taken. `weights`: those of the best validation, of the last step, or the average
    of `wise_ft`. The data
    are not needed. A network of the user's own is built only if `allow_targets` names it, because a folder may come
    from somebody else. `options`: such as {"tracking.uri": …}, for an id of another store. Raises `ConfigError`,
    `RunError`.
    """
    if weights not in WEIGHTS:
        raise ConfigError("weights", weights, f"must be {', '.join(WEIGHTS)}")
    loaded = from_folder(find(str(run), options), weights, device, allow_targets)
    for note in loaded.notes:
        log.warning("%s", note)
    return loaded


def from_folder(
    folder: Path, weights: Weights = "best", device: str = "cpu", allow_targets: Sequence[str] = ()
) -> LoadedRun:
    """The network of the run in `folder`, as `load` makes it; nothing is logged."""
    check_code(folder, allow_targets)
    record = model_record(folder)
    path = folder / WEIGHTS[weights]
    if not path.is_file():
        raise ConfigError("weights", weights, f"the run in {folder} has no {path.name}{_instead(folder, weights)}")
    tokens = _tokens(folder, record)
    module = rebuild_model(
        validate(ModelConfig, record.model, "model."), record.network, channels=record.channels,
        outputs=len(record.classes), image_size=record.image_size, tokens=tokens,
    )  # fmt: skip
    if record.adapters is not None:
        add_adapters(module, Adapters.of(record.adapters))
    load_weights(module, read_weights(path), path)
    if record.adapters is not None:
        merge_adapters(module)
    place = build_device(device)
    module.to(place).eval().requires_grad_(requires_grad=False)
    transform = TextInput(tokens) if tokens is not None else _image_input(record, folder)
    return LoadedRun(folder, module, transform, record.classes, record, path, place, _notes(folder, path))


def check_code(folder: Path, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` if rebuilding the network of the run in `folder` would execute code that is not `allowed`."""
    refused = [name for name in code_of(folder) if name not in allowed]
    if refused:
        names = ", ".join(refused)
        why = (
            f"the run in {folder} would execute {names}; where you trust it: allow_targets, --allow-target {refused[0]}"
        )
        raise ConfigError("allow_targets", f"[{','.join(allowed)}]", why)


def _instead(folder: Path, weights: str) -> str:
    other = next((name for name, file in WEIGHTS.items() if name != weights and (folder / file).is_file()), None)
    if other is not None:
        return f"; it has those of weights={other}"
    return "; it was stopped before its first evaluation" if weights == "best" else "; it is not finished"


def _notes(folder: Path, path: Path) -> tuple[str, ...]:
    if run_status(folder) == "FINISHED" or not (folder / "journal.lwexp").is_file():
        return ()
    return (f"the run in {folder} is not finished; these are its weights so far ({path.name})",)


def _image_input(record: ModelRecord, folder: Path) -> ImageInput | TensorInput:
    if record.preprocessing is None:
        return TensorInput()
    try:
        values: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in (record.preprocessing or {}).items()
        }
        return ImageInput(Preprocessing(**values), record.style, record.channels)
    except (TypeError, ValueError) as error:
        raise ConfigError("run", folder, f"its preprocessing cannot be used: {error}") from None


def _tokens(folder: Path, record: ModelRecord) -> Tokens | None:
    """The tokenizer in the run's folder; none of its own code runs."""
    if record.max_length is None:
        return None
    path = folder / TOKENIZER
    if not path.is_dir():
        raise ConfigError("run", folder, f"its folder {TOKENIZER} is missing")
    try:
        from lwexp.data.tokens import find_tokenizer

        return find_tokenizer(str(path), "run", record.max_length)
    except ImportError:
        why = "reads texts, which needs transformers: pip install 'lwexp[huggingface]'"
        raise ConfigError("run", folder, why) from None
