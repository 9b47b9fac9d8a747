"""The parameters of a network: their names, ties and sizes, and the network inside a wrapper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter


@dataclass(frozen=True)
class Names:
    """`first`: id of a parameter -> its first name; `every`: first name -> all names; `order`: first name -> index."""

    first: Mapping[int, str]
    every: Mapping[str, list[str]]
    order: Mapping[str, int]
    tensors: Mapping[str, nn.Parameter]

    @classmethod
    def of(cls, model: nn.Module) -> Names:
        """Of all parameters of `model`."""
        first: dict[int, str] = {}
        every: dict[str, list[str]] = {}
        tensors: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            own = first.setdefault(id(parameter), name)
            every.setdefault(own, []).append(name)
            tensors.setdefault(own, parameter)
        return cls(first, every, {name: i for i, name in enumerate(every)}, tensors)


def unwrap(model: nn.Module) -> tuple[nn.Module, str]:
    """The network inside `torch.compile`, `DataParallel`, DDP and `AveragedModel`, and the prefix of its names.

    Classes are compared by name, to avoid importing `torch._dynamo`.
    """
    prefix = ""
    while True:
        children = dict(model.named_children())
        kind = type(model).__name__
        if kind == "OptimizedModule" and "_orig_mod" in children:
            model, prefix = children["_orig_mod"], f"{prefix}_orig_mod."
        elif kind in ("DataParallel", "DistributedDataParallel", "AveragedModel") and "module" in children:
            model, prefix = children["module"], f"{prefix}module."
        else:
            return model, prefix


def only_child(wrapper: nn.Module) -> tuple[nn.Module, str]:
    """The one child that has all parameters, below wrappers without a forward, and its path; '' if there is none."""
    inner, path = wrapper, ""
    while next(inner.parameters(recurse=False), None) is None:
        children = {n: child for n, child in inner.named_children() if next(child.parameters(), None) is not None}
        if len(children) != 1 or (path and type(inner).forward is not nn.Module.forward):
            break
        ((name, inner),) = children.items()
        path = f"{path}.{name}".strip(".")
    return inner, path


def wrapper_prefix(model: nn.Module) -> str:
    """What `torch.compile`, `DataParallel` and the like put before the names of a network's parameters, or ''."""
    return unwrap(model)[1]


def format_names(names: Iterable[str], limit: int = 6) -> str:
    """`names` for a note: parameters of one module together, at most `limit` modules."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module, _, last = name.rpartition(".")
        modules.setdefault(module, []).append(last)
    texts = []
    for module, lasts in modules.items():
        dotted = f"{module}." if module else ""
        texts.append(f"{dotted}{lasts[0]}" if len(lasts) == 1 else f"{dotted}{{{','.join(lasts)}}}")
    return ", ".join(texts[:limit]) + (f", … ({len(texts)} in all)" if len(texts) > limit else "")


def renumber(depths: Mapping[str, float]) -> dict[str, int]:
    """`depths` without gaps, from 0."""
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths.values())))}
    return {name: ranks[depth] for name, depth in depths.items()}


def is_lazy(parameter: torch.Tensor) -> bool:
    """Whether it is uninitialized, without a shape."""
    # The type first: `isinstance` with a parameter class runs Python code in torch.
    return type(parameter) is not nn.Parameter and isinstance(parameter, UninitializedParameter)


def _has_no_shape(parameter: torch.Tensor) -> bool:
    """Whether its shape says nothing: lazy, or in FullyShardedDataParallel, a part of its elements in one dimension."""
    return getattr(parameter, "_fsdp_flattened", False) or is_lazy(parameter)


def size_of(parameter: nn.Parameter) -> int:
    """Number of weights; 1 for a parameter without a shape."""
    return 1 if _has_no_shape(parameter) else parameter.numel()


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it has two or more dimensions; parameters without a shape count as matrices."""
    return _has_no_shape(parameter) or parameter.dim() >= 2


def shape_of(parameter: nn.Parameter) -> tuple[int, ...] | None:
    """Its shape; None for a parameter without one."""
    return None if _has_no_shape(parameter) else tuple(parameter.shape)
