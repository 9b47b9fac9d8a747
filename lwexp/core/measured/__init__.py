"""Measured decays: the scale of each group from what the training shows: its weights, gradients or steps.

`RULES` has them by the name that `decay=` takes. A new one is a subclass of `MeasuredDecay` and an entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from .base import MeasuredDecay


class _Rules(Mapping[str, type[MeasuredDecay]]):
    """Rules by name; a module is imported, with torch, when one of its rules is looked up, so that `--help` is fast."""

    def __init__(self, places: Mapping[str, tuple[str, str]]) -> None:
        """`places`: module and class of each name."""
        self._places = places

    def __getitem__(self, name: str) -> type[MeasuredDecay]:
        module, kind = self._places[name]
        found: type[MeasuredDecay] = getattr(import_module(f"{__name__}.{module}"), kind)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


RULES: Mapping[str, type[MeasuredDecay]] = _Rules(
    {
        "auto_rgn": ("gradients", "AutoRGN"),
        "auto_snr": ("gradients", "AutoSNR"),
        "temp_balance": ("heavy_tails", "TempBalance"),
        "heavy_tail": ("heavy_tails", "HeavyTail"),
        "hypergradient": ("hypergradient", "Hypergradient"),
        "update_ratio": ("update_ratio", "UpdateRatio"),
        "auto_lr": ("auto_lr", "AutoLR"),
        "finder": ("finder", "Finder"),
    }
)
