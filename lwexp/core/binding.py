"""Whether a model has the parameters that a plan was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from lwexp.formatting import few

from .plan_table import PlanTable

_Parameters = Mapping[str, nn.Parameter]


def misfit(plan: PlanTable, own: _Parameters, others: _Parameters) -> str:
    """How `others` differ from the plan's `own` parameters, or from its table if it has none; empty if they fit.

    Names, shapes, `requires_grad` and, between parameters, the order.
    """
    names = {name: None for g in plan.groups for name in g.parameter_names}
    lacking, unknown = [n for n in names if n not in others], [n for n in others if n not in names]
    if lacking or unknown:
        return "; ".join([
            *([f"lacks {few(lacking)}"] if lacking else []),
            *([f"has {few(unknown)} besides"] if unknown else []),
        ])  # fmt: skip
    found = [*(_differences(own, others) if own else _differences_to_table(plan, others))]
    if not found and own and [*own] != [*others]:
        return "their order"
    return few(found, separator="; ")


def _differences(own: _Parameters, others: _Parameters) -> Iterator[str]:
    for name, p in own.items():
        other = others[name]
        if p.shape != other.shape:
            yield f"{name} is {_shape(other)}, was {_shape(p)}"
        elif p.requires_grad != other.requires_grad:
            yield f"{name} {'requires' if other.requires_grad else 'does not require'} a gradient"


def _differences_to_table(plan: PlanTable, others: _Parameters) -> Iterator[str]:
    for g in plan.groups:
        weights = sum(others[name].numel() for name in g.parameter_names)
        if weights != g.weights:
            yield f"group {g.name} has {weights:,} weights, had {g.weights:,}"
        frozen = {*g.frozen_names}
        for name in g.optimizer_names:
            if name not in frozen and not others[name].requires_grad:
                yield f"{name} does not require a gradient"


def _shape(p: nn.Parameter) -> str:
    return "x".join(map(str, p.shape)) or "a number"
