"""What a policy was made of: its name or callable, its options and the lengths of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PolicySettings:
    """Lets a policy be compared with another, and made again from a pickle."""

    policy: str | Callable[[int], float]
    options: Mapping[str, Any]
    lr: float
    steps: int | None
    steps_per_epoch: int
    key: str = "policy"  # of the policy in the config
