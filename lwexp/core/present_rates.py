"""The rates of an optimizer's parameter groups as they are now, and their names in a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


def rate_metric(label: str) -> str:
    """The metric that has the rate of the group `label`, `<index>_<name>`, at every step."""
    return f"lr/{label}"


def scale_metric(label: str) -> str:
    """The metric that has the measured scale of the group `label`, at the step from which it holds."""
    return f"scale/{label}"


def diagnosed_metric(measure: str, label: str) -> str:
    """The name of a measure of a diagnosed step, of the group `label`, in the journal."""
    return f"diagnostics/{measure}/{label}"


def present_rates(param_groups: Iterable[Mapping[str, Any]]) -> list[float]:
    """The rate of each group, of numbers and tensors alike; one copy from the device for all groups.

    >>> present_rates([{"lr": 0.1}, {"lr": torch.tensor(0.5)}])
    [0.1, 0.5]
    """
    present: list[Any] = [group["lr"] for group in param_groups]
    if set(map(type, present)) == {float}:
        return present
    tensors = [lr for lr in present if isinstance(lr, torch.Tensor)]
    like: Any = {"dtype": torch.float64, "device": tensors[0].device if tensors else "cpu"}
    rates: list[float] = torch.stack([torch.as_tensor(lr, **like) for lr in present]).tolist() if present else []
    return rates
