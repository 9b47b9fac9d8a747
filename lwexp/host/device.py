"""The torch device that `device` in the config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwexp.errors import ConfigError, nearest
from lwexp.formatting import one_line

if TYPE_CHECKING:
    import torch


_KNOWN = ("auto", "cpu", "cuda", "mps", "xpu")
_OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "rocm": "cuda", "amd": "cuda", "metal": "mps", "apple": "mps"}


def build_device(name: str) -> torch.device:
    """The device `name`; `auto` is the first accelerator, else the CPU. Raises `ConfigError` if it cannot be used."""
    import torch

    if name == "auto":
        if torch.accelerator.is_available():
            return torch.device(torch.accelerator.current_accelerator() or "cpu")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError("device", name, f"no such device; {_nearest(name)}") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, kind=True)
        raise ConfigError("device", name, f"cannot be used here; {_usable()} ({reason})") from None
    if device.type == "meta":
        raise ConfigError("device", name, "has no storage to train on")
    return device


def _nearest(name: str) -> str:
    kind, colon, number = name.lower().partition(":")
    meant = _OTHER_NAMES.get(kind)
    near = nearest(name, _KNOWN) if meant is None else f"did you mean {meant}{colon}{number}?"
    return f"{near} {_usable()}" if near.endswith("?") else f"{near}; {_usable()}"


def _usable() -> str:
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return f"here there are auto, cpu{f', {found.type}' if found is not None else ''}"
