"""The depth of every parameter of any network: 0 for the stem, one more for each block, the head last.

Three sources, best first: the model's own description (timm's `group_matcher`), the order in which one forward pass
first uses the parameters, and, as a last resort, the order in which the modules were registered. The last two order
*units* (blocks of repeated containers, kept whole), never raw parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from .description import completed, described_depths
from .errors import ConfigError, UnknownNameError
from .execution import ANOTHER_INPUT, ForwardError, trace
from .flow import depths_of_units
from .parameters import Names, shown_names, unwrapped
from .structure import Structure

SOURCES = ("auto", "timm", "execution", "registration")


@dataclass(frozen=True)
class Depths:
    """`by_name`: the depth of every name of `model.named_parameters()`; 0 = stem, no gaps, the head last.

    `source` is what the depths come from: "timm", "execution" or "registration". `notes` are lines for a reader:
    parameters that the model's own description misses and where they were put, why a source was not the first choice,
    parameters that are never used.
    """

    by_name: Mapping[str, int]
    source: str
    notes: tuple[str, ...]


def find_depths(model: nn.Module, source: str = "auto", example_input: object | None = None) -> Depths:
    """The depth of every parameter of `model`, which stays as it is; works on the CPU, on CUDA and on the meta device.

    `source`: "timm" (the model's `group_matcher`), "execution", "registration", or "auto": the model's own description
    where it has one, else execution, else registration. `example_input`: what the forward pass is tried with, a
    tensor, a tuple of positional or a mapping of keyword arguments; null: guessed.

    Raises `UnknownNameError` for another source, `ConfigError` where the source cannot tell.
    """
    if source not in SOURCES:
        raise UnknownNameError("grouping.source", source, SOURCES, "no such source of depths")
    inner, prefix = unwrapped(model)
    notes: list[str] = []
    names = Names.of(inner)
    if source in ("auto", "timm"):
        described, why = described_depths(inner, names)
        if described is not None:
            by_name, missed = completed(inner, names, described, example_input)
            return _renamed(Depths(by_name, "timm", missed), prefix, model)
        if source == "timm":
            raise ConfigError("grouping.source", source, f"{why}; take auto, execution or registration")
        notes = [why] if hasattr(inner, "group_matcher") else []
    traced = None
    if source in ("auto", "execution"):
        try:
            traced = trace(inner, names.first, example_input)
        except ForwardError as error:
            if source == "execution":
                why = f"no forward pass, {error}; {ANOTHER_INPUT}"
                raise ConfigError("grouping.source", source, why) from None
            notes.append(f"no forward pass got through, {error}; {ANOTHER_INPUT}")
    by_name, unused = depths_of_units(Structure(inner), names, traced)
    for depth in sorted({by_name[name] for name in unused}):
        shown = shown_names(name for name in unused if by_name[name] == depth)
        notes.append(f"never used in the forward pass, so with its like or its neighbour: {shown} (depth {depth})")
    if traced is None:
        notes.append("depth is the order in which modules were registered, which may not be the order of their use")
    return _renamed(Depths(by_name, "registration" if traced is None else "execution", tuple(notes)), prefix, model)


def _renamed(depths: Depths, prefix: str, model: nn.Module) -> Depths:
    """`depths` under the names that `model` itself uses, in its order."""
    by_name = {name: depths.by_name[name.removeprefix(prefix)] for name, _ in model.named_parameters()}
    return Depths(by_name, depths.source, depths.notes)
