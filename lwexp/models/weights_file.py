"""Reads a file of weights without executing code from it, and finds the state dicts in it.

safetensors holds no code. `torch.load` is used with `weights_only=True`; objects of other classes that lie beside the
weights, as the options of the training that made them, become `Inert`: nothing of them is imported or called.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lwexp.errors import ConfigError, nearest
from lwexp.formatting import one_line

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NESTS = ("state_dict", "model", "model_state_dict", "state_dict_ema")  # where checkpoints keep the weights, in order
_DEPTH = 4  # of mappings in mappings
# Of the standard library, types that hold data; a file that names anything else of it is refused
_DATA_TYPES = {
    "argparse": {"Namespace"},
    "builtins": {"bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
                 "slice", "str", "tuple"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "types": {"SimpleNamespace"},
    "typing": {"Any"},
    "uuid": {"UUID"},
}  # fmt: skip
_MOST = 200  # different classes in a file


class Inert:
    """Stands for an object of any class in a file: keeps nothing, does nothing."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Keep none."""

    def __setstate__(self, state: object) -> None:
        """Keep none."""

    def __setitem__(self, key: object, value: object) -> None:
        """Keep none."""


def read_file(path: Path, key: str) -> object:
    """The content of the file at `path`. Raises `ConfigError` under `key`."""
    if path.is_dir():
        raise ConfigError(key, path, "is a folder, not a file")
    if not path.is_file():
        raise ConfigError(key, path, "there is no such file")
    if path.suffix not in (".safetensors", *PICKLED):
        raise ConfigError(key, path, f"must end in .safetensors, {', '.join(PICKLED)}")
    try:
        if path.stat().st_size == 0:
            raise ConfigError(key, path, "the file is empty")
        return load_file(path) if path.suffix == ".safetensors" else _unpickled(path, key)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file makes unpickling fail in any way
        found = str(error).rpartition("WeightsUnpickler error:")[2]
        if re.search(r"GLOBAL|[Uu]nsupported class|unrecognized function|Can only (build|create)|TorchScript", found):
            raise executes_code(path, key) from error
        raise ConfigError(key, path, f"cannot be read, the file may be damaged: {one_line(error)}") from error


def _unpickled(path: Path, key: str) -> object:
    """What `torch.load` reads, with `Inert` for each class that it does not know."""
    inert: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in inert.items()]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            names = [name for name in _unknown(path, error) if name not in inert]
            if not names or len(inert) > _MOST:
                raise
            for name in names:
                if not _holds_data(name):
                    raise executes_code(path, key, name) from error
            inert |= {name: _CONTAINERS.get(name, Inert) for name in names}
            continue
        if isinstance(content, Inert):
            raise executes_code(path, key)
        return content


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


def _empty_list(*_: object) -> list[Any]:
    return []


_CONTAINERS: dict[str, Any] = {"collections.defaultdict": _empty_dict, "collections.deque": _empty_list}


def _unknown(path: Path, error: Exception) -> list[str]:
    """Dotted names of classes and functions in the file that torch does not know."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # the format of old versions of torch: one after the other
        found = []
    if not found:
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    return [name if "." in name else f"builtins.{name}" for name in found]


def _holds_data(name: str) -> bool:
    """Whether what is called `name` may lie beside weights: no function of Python's own or of torch's."""
    module, _, what = name.rpartition(".")
    package = module.partition(".")[0]
    if package == "torch":
        return what[:1].isupper()  # a class
    return what in _DATA_TYPES.get(module, ()) or package not in {*sys.stdlib_module_names, "__builtin__", "copy_reg"}


def executes_code(path: Path, key: str, name: str | None = None) -> ConfigError:
    """The error for a file that names what would run, as the function `name`."""
    how = "torch.save(model.state_dict(), 'weights.pt') where it was made gives one that does not"
    what = f" ({name})" if name else ""
    return ConfigError(key, path, f"holds more than tensors{what}, so loading it would execute code; {how}")


def state_dicts(content: object) -> dict[str, dict[str, Tensor]]:
    """All mappings in `content` that hold named tensors, by their dotted place in it; the usual places come first."""
    found = dict(_mappings(content, "", _DEPTH))
    return {place: found[place] for place in sorted(found, key=lambda place: _usual(place, list(found)))}


def _mappings(content: object, place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items() if depth else ():
        yield from _mappings(value, f"{place}.{name}".lstrip("."), depth - 1)


def _usual(place: str, places: list[str]) -> tuple[int, int]:
    first = place.partition(".")[0]
    return (NESTS.index(first) if first in NESTS else len(NESTS)), places.index(place)


def state_dict_at(content: object, place: str, path: Path) -> dict[str, Tensor]:
    """The tensors under `weights.key=place`, whose parts are keys in one another. Raises `ConfigError`."""
    here, left = content, place
    while left:
        keys = {str(key): key for key in here} if isinstance(here, Mapping) else {}
        # a key may have dots itself
        name = next((name for name in sorted(keys, key=len, reverse=True) if f"{left}.".startswith(f"{name}.")), None)
        if name is None:
            choices = [*state_dicts(content)] or ["none"]
            why = f"{path.name} has no such place; {nearest(place, choices)}"
            raise ConfigError("weights.key", place, why)
        here, left = here[keys[name]], left[len(name) + 1 :]  # type: ignore[index]  # keys came from it
    tensors = state_dicts(here).get("")
    if tensors is None:
        below = ", ".join(f"{place}.{name}" for name in state_dicts(here))
        raise ConfigError("weights.key", place, f"holds no named tensors in {path.name}{below and f'; {below} does'}")
    return tensors
