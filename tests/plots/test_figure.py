from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

import lwexp
from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet


def test_it_shows_the_rates_of_the_table(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5)
    figure = lwexp.plot(plan, "cosine", steps=40, warmup_steps=5)
    (lines,) = [each for each in figure.axes[0].collections if isinstance(each, LineCollection)]
    table = plan.lr_table("cosine", steps=40, warmup_steps=5).numpy()
    drawn = np.stack([line[:, 1] for line in lines.get_segments()], axis=1)
    np.testing.assert_allclose(drawn, table[: len(drawn)])
    assert figure.axes[0].get_ylabel() == "learning rate"


@pytest.mark.parametrize("kind", ["by_step", "by_depth", "heatmap"])
def test_a_notebook_shows_it_without_pyplot(tiny: TinyNet, kind: Any) -> None:
    from lwexp import Plan

    plan = Plan.from_json(make_plan(tiny).to_json())
    png, about = lwexp.plot(plan, steps=3, kind=kind, unfreeze_every_steps=1)._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG")
    assert about == {"width": 900}


@pytest.mark.parametrize(("arguments", "said"), [
    ({"kind": "bystep"}, "kind=bystep: no such plot; did you mean by_step"),
    ({"steps": 0}, "steps=0: must be at least 1"),
    ({"policy": "cosin"}, "policy=cosin: no such policy; did you mean cosine"),
    ({"policy": "plateau"}, "policy=plateau: is metric-driven"),
    ({"plan": "resnet18"}, "plan=str: must be a plan"),
])  # fmt: skip
def test_mistakes_are_one_line(tiny: TinyNet, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        lwexp.plot(**{"plan": make_plan(tiny), "steps": 10, **arguments})
