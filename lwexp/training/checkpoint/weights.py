"""A run's own weights in a safetensors file: saved atomically, loaded exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lwexp.errors import RunError
from lwexp.formatting import one_line
from lwexp.host.files import replacing


def save_weights(state: Mapping[str, object], path: str | Path) -> None:
    """Write the state dict `state` to `path` atomically; `read_weights` is the inverse.

    Tied tensors are written under each of their names, as `load_state_dict` expects them. Raises `RunError`.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise RunError(f"cannot save {path.name}: {name} is a {type(value).__name__}, not a tensor")
        if value.is_meta:
            raise RunError(f"cannot save {path.name}: {name} has no values, it is on the meta device")
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()  # safetensors refuses memory that two tensors share
        seen.add(storage.data_ptr())
        tensors[name] = tensor
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            save_file(tensors, temporary, metadata={"format": "pt"})
            temporary.chmod(mode)  # safetensors makes files that only their owner can read
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot save {path}: {one_line(error)}") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict that `save_weights` wrote. Raises `RunError`."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot load {path}: {one_line(error)}") from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy `state`, read from `path`, into a model with the same names and shapes. Raises `RunError`."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise RunError(f"cannot load {path}: {one_line(error)}") from error
