"""Fast comparison of nested lists and dicts by the identity of the tensors in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class _OtherTensorError(Exception):
    """Two tensors were compared, so they are not one and the same."""


class _Identity(TorchFunctionMode):
    """Within it, `==` of nested lists and dicts holds where their tensors are the same objects.

    Python compares elements of containers by identity first; `==` of tensors is called for others only. That is the
    fastest comparison of many tensors: three times as fast as `all(map(is_, …))`.
    """

    def __torch_function__(self, *_: Any, **__: Any) -> Any:
        raise _OtherTensorError


_IDENTITY = _Identity()


def are_same(lists: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether both hold equal values and the very same tensors, at any nesting."""
    try:
        with _IDENTITY:
            return lists == others
    except _OtherTensorError:
        return False
