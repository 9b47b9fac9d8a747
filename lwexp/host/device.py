"""The torch device that `device` in the config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lwexp.errors import ConfigError
from lwexp.formatting import one_line

if TYPE_CHECKING:
    import torch


def build_device(name: str) -> torch.device:
    """The device `name`; `auto` is the first accelerator, else the CPU. Raises `ConfigError` if it cannot be used."""
    import torch

    if name == "auto":
        if torch.accelerator.is_available():
            return torch.device(torch.accelerator.current_accelerator() or "cpu")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, kind=True)
        raise ConfigError("device", name, f"cannot be used here; auto, cpu, cuda, cuda:1, mps ({reason})") from None
    if device.type == "meta":
        raise ConfigError("device", name, "has no storage to train on")
    return device
