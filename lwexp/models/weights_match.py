"""Matches the names in a file of weights with a model's: other prefixes, and position embeddings of another size."""

from __future__ import annotations

import logging
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_POSITIONS = re.compile(r"(^|[._])pos(ition)?(al)?_?(emb\w*|enc\w*)(\.|$)", re.IGNORECASE)
_MOST_ALIKE = 64  # names with the same last parts that are compared
_CANDIDATES = 30
_MOST_PREFIX_TOKENS = 8  # class and register tokens before the positions of the patches


@dataclass(frozen=True)
class Renaming:
    """Names of a file that begin with `old` begin with `new` in the model; those that do not belong to another part."""

    old: str = ""
    new: str = ""

    def apply(self, file: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by the model's names; those of other parts keep theirs."""
        renamed = {self.new + name[len(self.old) :]: t for name, t in file.items() if name.startswith(self.old)}
        others = {name: t for name, t in file.items() if not name.startswith(self.old)}
        return renamed | {name: t for name, t in others.items() if name not in renamed}


AS_IT_IS = Renaming()


class NameIndex:
    """A model's names and shapes, and the names by their last parts."""

    def __init__(self, own: Mapping[str, Any]) -> None:
        """`own` is the model's state dict."""
        self._shapes = {name: tuple(value.shape) for name, value in own.items() if isinstance(value, Tensor)}
        self._by_tail: dict[str, list[str]] = {}
        for name in self._shapes:
            for tail in _tails(name):
                self._by_tail.setdefault(tail, []).append(name)

    def fitting(self, file: Mapping[str, Tensor]) -> int:
        """How many tensors of `file` have a name and shape of the model's."""
        return sum(self._shapes.get(name) == tuple(tensor.shape) for name, tensor in file.items())

    def best_renamings(self, file: Mapping[str, Tensor]) -> list[Renaming]:
        """What fits the most tensors; several where different parts of the file fit equally well."""
        votes: Counter[Renaming] = Counter()
        for name, tensor in file.items():
            votes.update(self._votes(name, tuple(tensor.shape)))
        candidates = [AS_IT_IS, *(renaming for renaming, _ in votes.most_common(_CANDIDATES))]
        counts = {renaming: self._count(renaming, file) for renaming in candidates}
        most = max(counts.values())
        best = [renaming for renaming in candidates if counts[renaming] == most]
        if AS_IT_IS in best:
            return [AS_IT_IS]
        shortest = min(best, key=lambda renaming: len(renaming.new)).new
        return [renaming for renaming in best if renaming.new == shortest]

    def _votes(self, name: str, shape: tuple[int, ...]) -> Iterator[Renaming]:
        for tail in _tails(name):
            alike = self._by_tail.get(tail, [])
            if len(alike) > _MOST_ALIKE and tail != name:
                continue
            for own in alike:
                old, new = name[: len(name) - len(tail)], own[: len(own) - len(tail)]
                longer = old and new and old.split(".")[-2] == new.split(".")[-2]
                if not longer and self._shapes[own] == shape:
                    yield Renaming(old, new)

    def _count(self, renaming: Renaming, file: Mapping[str, Tensor]) -> int:
        start = len(renaming.old)
        return sum(
            self._shapes.get(renaming.new + name[start:]) == tuple(tensor.shape)
            for name, tensor in file.items()
            if name.startswith(renaming.old)
        )


def _tails(name: str) -> list[str]:
    """The last two parts of a dotted name, the last three, …, all; of a name without dots that."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(max(len(parts) - 2, 0), -1, -1)]


def resized(file: dict[str, Tensor], model: nn.Module, own: Mapping[str, Any]) -> dict[str, Tensor]:
    """`file` as it fits `model` better: by timm's own conversion for its model, and position embeddings resampled.

    The same mapping where nothing fits better.
    """
    index = NameIndex(own)
    converted = _converted_by_timm(file, model)
    if converted is not None and index.fitting(converted) > index.fitting(file):
        file = converted
    changed = {}
    for name, tensor in file.items():
        value = own.get(name)
        if isinstance(value, Tensor) and value.shape != tensor.shape and _POSITIONS.search(name):
            fitting = _resampled(tensor, value.shape)
            if fitting is not None:
                changed[name] = fitting
    return {**file, **changed} if changed else file


def _converted_by_timm(file: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """What the `checkpoint_filter_fn` beside the class of a timm model makes of `file`, as `timm.create_model` does."""
    for kind in type(model).__mro__:
        convert = getattr(sys.modules.get(kind.__module__), "checkpoint_filter_fn", None)
        if kind.__module__.startswith("timm.models.") and convert is not None:
            logger = logging.getLogger("timm")
            level = logger.level
            logger.setLevel(logging.ERROR)
            try:
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of its own use of torch
                    found = dict(convert(dict(file), model))
            except Exception:  # it is written for the files of its own model
                return None
            finally:
                logger.setLevel(level)
            return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
    return None


def _resampled(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Position embeddings [1, tokens, channels] for a square of another size, as timm resamples them; else None."""
    if tensor.ndim != 3 or len(shape) != 3 or tensor.shape[0] != 1 or tensor.shape[2] != shape[2]:
        return None
    from timm.layers.pos_embed import resample_abs_pos_embed

    for prefix in range(_MOST_PREFIX_TOKENS + 1):
        sides = [math.isqrt(max(tokens - prefix, 0)) for tokens in (tensor.shape[1], shape[1])]
        if all(side and side**2 + prefix == n for side, n in zip(sides, (tensor.shape[1], shape[1]), strict=True)):
            with torch.no_grad():
                found: Tensor = resample_abs_pos_embed(tensor, [sides[1], sides[1]], num_prefix_tokens=prefix)
            return found
    return None
