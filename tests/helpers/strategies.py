"""Hypothesis strategies for models and options."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

rates = st.floats(min_value=1e-6, max_value=10.0)
mults = st.floats(min_value=0.3, max_value=1.0)


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """Networks of one to six top-level modules, some nested, some frozen, some sharing a tensor."""

    def layer(depth: int) -> nn.Module:
        if depth and draw(st.booleans()):
            return nn.Sequential(*(layer(depth - 1) for _ in range(draw(st.integers(1, 3)))))
        return nn.Linear(2, 2, bias=draw(st.booleans()))

    model = nn.ModuleDict({f"m{i}": layer(2) for i in range(draw(st.integers(1, 6)))})
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if len(linears) > 1 and draw(st.booleans()):
        linears[-1].weight = linears[0].weight
    for linear in linears[1:]:
        if draw(st.integers(0, 4)) == 0:
            linear.requires_grad_(False)
    linears[0].requires_grad_(True)
    return model
