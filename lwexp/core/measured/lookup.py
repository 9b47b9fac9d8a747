"""From the name and options of a measured decay to its rule, and what a plan says of it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lwexp.core.kinds import Kinds
from lwexp.core.options import check_options
from lwexp.core.patterns import first_matches
from lwexp.core.plan_table import PlanGroup
from lwexp.errors import UnknownOptionError
from lwexp.formatting import few

from . import RULES
from .base import MeasuredDecay


def is_measured(decay: object) -> bool:
    """Whether the decay, a name or an object, is a measured one."""
    return isinstance(decay, MeasuredDecay) or (isinstance(decay, str) and decay in RULES)


def takes_mult(decay: object) -> bool:
    """Whether it is a measured decay with the option `mult`."""
    return isinstance(decay, str) and decay in RULES and "mult" in inspect.signature(RULES[decay]).parameters


def make_rule(decay: object, options: Mapping[str, Any]) -> MeasuredDecay | None:
    """The rule of a measured decay, None for another decay. Raises `ConfigError` for its options."""
    if isinstance(decay, MeasuredDecay):
        if options:
            raise UnknownOptionError(f"decay.{next(iter(options))}", next(iter(options.values())), ())
        return decay
    if not isinstance(decay, str) or decay not in RULES:
        return None
    return RULES[decay](**check_options(RULES[decay], options, "decay"))


def with_new_head(decay: Any, options: Mapping[str, Any], new: Collection[str]) -> tuple[Any, dict[str, Any]]:
    """A decay and its options; a measured one that names no new head has the parameters `new` as such."""
    if not new or not is_measured(decay):
        return decay, dict(options)
    if isinstance(decay, MeasuredDecay):
        return (replace(decay, new=sorted(new)) if decay.new is None else decay), dict(options)
    return decay, {**options, "new": sorted(new)} if options.get("new") is None else dict(options)


def new_head(rule: MeasuredDecay, names: Sequence[str], kinds: Kinds) -> set[str]:
    """The parameters among `names` that stand apart since they are new."""
    if rule.include_new or not rule.new:
        return set()
    return {*first_matches(kinds.named(rule.new, "decay.new"), names, "decay.new")}


def measured_notes(rule: MeasuredDecay, groups: Sequence[PlanGroup]) -> Iterator[str]:
    """Lines for the plan's header: what it cannot know yet, and which groups are not compared."""
    needs = f" from {rule.needs}" if rule.needs else ""
    yield f"the scales are measured{needs} {rule.when()}; lr is that of scale 1"
    apart = [g.name for g in groups if not g.measured and g.optimizer_names and not g.frozen]
    if apart:
        yield f"not compared, at the planned rate: {few(apart, 6)} (new, or with a rate of its own)"
