"""The order in which a network uses its parameters, and where the order of registration contradicts it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lwexp.errors import ConfigError

from .execution import ForwardError, trace
from .finding import execution_depths
from .parameters import Names, unwrap
from .thresholds import TIMEOUT

_SHOWN = 3


def stem_to_head(model: nn.Module, example_input: object | None = None, timeout: float = TIMEOUT) -> list[str]:
    """Names of the parameters in the order of their first use in a forward pass.

    An unused parameter follows the one registered before it; ties are in the order of registration.
    Raises `ConfigError` where the forward pass fails for every input.
    """
    inner, prefix = unwrap(model)
    names = Names.of(inner)
    try:
        first_use = trace(inner, names.first, example_input, timeout=timeout).first_use
    except ForwardError as error:
        raise ConfigError("grouping.order", "execution", f"no forward pass, {error}") from None
    place, places = -1, {}
    for name in names.every:
        place = places[name] = first_use.get(name, place)
    return [f"{prefix}{name}" for name in sorted(places, key=lambda name: places[name])]


def contradictions(
    model: nn.Module,
    groups: Sequence[Sequence[str]],
    example_input: object | None = None,
    timeout: float = TIMEOUT,
) -> list[tuple[str, str]]:
    """Pairs of modules (a, b): a is registered before b, yet used at a greater depth.

    `groups` are names of parameters in the order of registration; a group has the depth of its parameter used first.
    Empty where the forward pass fails; nothing runs with real numbers.
    """
    try:
        by_name, unused = execution_depths(model, example_input, quick=True, timeout=timeout)
    except ForwardError:
        return []
    found: dict[tuple[str, str], None] = {}
    deepest, owner = -1, ""
    for members in groups:
        used = [(by_name[name], name) for name in members if name not in unused]
        if not used:
            continue
        depth, name = min(used)
        if depth < deepest:
            found.setdefault(_differing(owner, name))
        else:
            deepest, owner = depth, name
    return list(found)


def contradiction_note(pairs: Sequence[tuple[str, str]]) -> str:
    """The `pairs` of `contradictions` as a line for the plan's header, with the option that follows use."""
    texts = [f"{before} after {after}" for before, after in pairs[:_SHOWN]]
    more = f", … ({len(pairs)} in all)" if len(pairs) > _SHOWN else ""
    return (
        f"registration is not the order of use: though registered earlier, {', '.join(texts)}{more} "
        "in the forward pass; grouping.order=execution follows use"
    )


def _differing(a: str, b: str) -> tuple[str, str]:
    """The shortest module paths that distinguish the parameters `a` and `b`."""
    first, second = a.split("."), b.split(".")
    same = 0
    while same < min(len(first), len(second)) - 1 and first[same] == second[same]:
        same += 1
    return ".".join(first[: same + 1]), ".".join(second[: same + 1])
