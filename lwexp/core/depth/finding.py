"""The depth of every parameter of any network: 0 for the stem, one more for each block, the head last.

Three sources, best first: the model's own description (timm's `group_matcher`), the order in which one forward pass
first uses the parameters, and, as a last resort, the order in which the modules were registered. The last two order
*units* (whole blocks of repeated containers), never single parameters.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from lwexp.errors import ConfigError, UnknownNameError

from .confidence import doubt_note
from .description import complete_depths, described_depths, described_parts
from .execution import ForwardError, check_timeout, trace
from .parameters import Names, format_names, only_child, unwrap
from .placing import Placed, depths_of_units
from .structure import Structure
from .thresholds import TIMEOUT

SOURCES = ("auto", "timm", "execution", "registration")


@dataclass(frozen=True)
class Depths:
    """`by_name`: the depth of every name of `model.named_parameters()`; 0 = stem, no gaps, the head last.

    `source` is "timm", "execution" or "registration". `notes` are lines for the plan's header: parameters that the
    model's own description misses and where they were put, why a source was skipped, parameters that are never used.
    """

    by_name: Mapping[str, int]
    source: str
    notes: tuple[str, ...]


def find_depths(
    model: nn.Module, source: str = "auto", example_input: object | None = None, timeout: float = TIMEOUT
) -> Depths:
    """The depth of every parameter of `model`, which is not changed; on the CPU, on CUDA or on the meta device.

    `source`: "timm" (the model's `group_matcher`), "execution", "registration", or "auto": the first of these that is
    available. `example_input`: the input of the forward pass, a tensor, a tuple of positional or a mapping of keyword
    arguments; None: guessed. `timeout`: seconds for the forward passes; "auto" then takes the order of registration.

    Raises `UnknownNameError` for an unknown source, `ConfigError` where the source is not available or
    `timeout` is no positive number.
    """
    check_timeout(timeout)
    started = time.monotonic()
    if source not in SOURCES:
        raise UnknownNameError("grouping.source", source, SOURCES, "no such source of depths")
    inner, prefix = unwrap(model)
    notes: list[str] = []
    names = Names.of(inner)
    if source in ("auto", "timm"):
        described, why = described_depths(inner, names)
        if described is not None:
            completed_depths, missed = complete_depths(inner, names, described, example_input, timeout)
            return _rename(Depths(completed_depths, "timm", missed), prefix, names)
        if source == "timm":
            raise ConfigError("grouping.source", source, f"{why}; use auto, execution or registration")
        notes = [why] if hasattr(inner, "group_matcher") else []
    parts = described_parts(inner, names) if source == "auto" else {}
    notes += [f"{path} by its own description, the rest around it" for path in parts]
    placed: Placed | None = None
    if source in ("auto", "execution"):
        try:
            placed = _execute(inner, names, example_input, parts=parts, timeout=timeout)
        except ForwardError as error:
            inside = _depths_of_only_child(inner, source, example_input, started + timeout - time.monotonic())
            if inside is not None:
                return _rename(inside, prefix, names)
            if source == "execution":
                why = f"no forward pass, {error}"
                raise ConfigError("grouping.source", source, why) from None
            notes.append(f"no forward pass got through, {error}")
    if placed is None:
        by_name = depths_of_units(Structure(inner, parts), names, None).by_name
        notes.append("depth is the order in which modules were registered, which may not be the order of their use")
        return _rename(Depths(by_name, "registration", tuple(notes)), prefix, names)
    by_name, unused, doubts = placed
    if doubts:
        notes.insert(0, doubt_note(doubts, guessed=example_input is None))
    for depth in sorted({by_name[name] for name in unused}):
        shown = format_names(name for name in unused if by_name[name] == depth)
        notes.append(f"never used in the forward pass, so with its like or its neighbor: {shown} (depth {depth})")
    return _rename(Depths(by_name, "execution", tuple(notes)), prefix, names)


def _depths_of_only_child(wrapper: nn.Module, source: str, example_input: object | None, left: float) -> Depths | None:
    """Those of the one child with parameters, by another source than registration, within `left` seconds; else None.

    So a LightningModule, whose training step calls `self.model`, has the depths of its network.
    """
    child, path = only_child(wrapper)
    if not path or left <= 0:
        return None
    try:
        found = find_depths(child, source, example_input, left)
    except ConfigError:
        return None
    if found.source == "registration":
        return None
    by_name = {f"{path}.{name}": depth for name, depth in found.by_name.items()}
    return Depths(by_name, found.source, (f"depths of {path}, which has all parameters", *found.notes))


def execution_depths(
    model: nn.Module, example_input: object | None = None, *, quick: bool = False, timeout: float = TIMEOUT
) -> tuple[dict[str, int], set[str]]:
    """Depth of every parameter by execution, and those that the forward pass never uses; raises `ForwardError`.

    `quick` and `timeout`: as for `trace`.
    """
    inner, prefix = unwrap(model)
    by_name, unused, _ = _execute(inner, Names.of(inner), example_input, quick=quick, timeout=timeout)
    return {f"{prefix}{name}": depth for name, depth in by_name.items()}, {f"{prefix}{name}" for name in unused}


def _execute(
    inner: nn.Module,
    names: Names,
    example_input: object | None,
    *,
    quick: bool = False,
    parts: Mapping[str, Mapping[str, int]] | None = None,
    timeout: float,
) -> Placed:
    traced = trace(inner, names.first, example_input, quick=quick, timeout=timeout)
    return depths_of_units(Structure(inner, parts), names, traced)


def _rename(depths: Depths, prefix: str, names: Names) -> Depths:
    """`depths` with the names in the wrapper, in the order of registration."""
    return Depths({f"{prefix}{name}": depths.by_name[name] for name in names.every}, depths.source, depths.notes)
