"""What a call of a fused kernel takes: of its optimizer class, and of the parameters that it moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .kernel_fit import Group


@dataclass(frozen=True)
class KernelSpec:
    """How torch calls the fused kernel of an optimizer class; each function takes one of its param groups."""

    settings: tuple[str, ...]  # the group's options that the kernel takes
    kernel: Callable[[Group], Callable[..., None]]
    buffers: Callable[[Group], Sequence[str | None]]  # state tensors in the kernel's order; None: an empty list
    options: Callable[[Group], dict[str, Any]]  # the settings under the kernel's names
    decoupled: Callable[[Group], bool]  # weight decay moves the parameter beside its gradient
    is_joinable: Callable[[Group], bool] = lambda group: False  # a step is `parameter -= lr * buffer`

    def is_batchable(self, group: Group) -> bool:
        """Whether a `JoinedBatch` can make its step."""
        return not group["weight_decay"] or self.decoupled(group) or self.is_joinable(group)


@dataclass
class KernelCall:
    """One kernel call: parameters of one dtype, of one group, or of groups that differ in lr.

    The latter `joined` on the CPU, where they are small and move by `lr * buffer`, or `batched` on a GPU, by a
    `JoinedBatch`.
    """

    kernel: Callable[..., None]
    options: dict[str, Any]
    buffers: Sequence[str | None]
    decoupled: bool
    joined: bool
    batched: bool
    parameters: list[Tensor] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # of each parameter
