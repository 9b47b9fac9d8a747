"""A plan with one group only, where rates were to fall with depth, says so before all else; a run refuses it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from torch import Tensor, nn

from lwexp import NoLayerwiseRatesWarning, make_plan
from tests.helpers.commands import RunHere


class Wrapped(nn.Module):
    """All layers below one name: one top-level module."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.net(images)
        return result


def test_the_first_line_says_it_and_names_the_ways_out() -> None:
    with pytest.warns(NoLayerwiseRatesWarning, match="no layer-wise rates: all 2 layers are in the only group, net"):
        plan = make_plan(Wrapped())
    first = str(plan).splitlines()[0]
    assert first.startswith("WARNING: no layer-wise rates: ")
    assert "grouping=depth_index" in first
    assert "decay=none" in first
    assert plan.to_markdown().startswith("WARNING: no layer-wise rates")
    assert json.loads(plan.to_json())["no_layerwise_rates"] == plan.no_layerwise_rates


@pytest.mark.parametrize("options", [{"decay": "none"}, {"mult": 1.0}, {"grouping": "per_parameter"},
                                     {"lr_overrides": {"net.1": 0.1}}])  # fmt: skip
def test_rates_that_are_uniform_by_wish_or_not_uniform_are_no_fault(options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = make_plan(Wrapped(), **options)  # type: ignore[arg-type]
    assert not plan.no_layerwise_rates


def test_one_layer_to_train_is_said_without_a_warning() -> None:
    for plan in (make_plan(nn.Sequential(nn.Linear(2, 2))), make_plan(Wrapped(), freeze=["net.1"])):
        assert "has one layer to train" in str(plan).splitlines()[0]


@pytest.fixture
def wrapped() -> list[str]:
    return ["model=custom", f"model._target_={__name__}.Wrapped", "data.image_size=8", "tracking=none",
            "progress=false", "max_steps=1"]  # fmt: skip


def test_a_run_refuses_and_each_way_out_is_taken(lwexp_here: RunHere, wrapped: list[str], tmp_path: Path) -> None:
    outcome = lwexp_here("run", *wrapped)
    assert outcome.code == 2
    assert "grouping=top_module: no layer-wise rates: all 2 layers are in the only group, net" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not list((tmp_path / "outputs").glob("runs/*"))
    for way_out in ("decay=none", "grouping=depth_index", "mult=1"):
        assert lwexp_here("run", *wrapped, way_out).code == 0


def test_a_preview_shows_the_plan_with_the_warning_first(lwexp_here: RunHere, wrapped: list[str]) -> None:
    outcome = lwexp_here("preview", *wrapped)
    assert outcome.code == 0
    assert outcome.out.startswith("WARNING: no layer-wise rates")
    assert outcome.err == ""
