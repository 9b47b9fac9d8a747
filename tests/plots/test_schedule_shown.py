"""Pictures and the plan's text name the schedule, count groups as the plan does, and show events as steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from lwexp import make_plan
from lwexp.core.plan_text import LONG
from lwexp.core.schedule_text import line_of, schedule_hash, summary
from lwexp.plots.axes import NAMED_LIMIT, blocks_of
from lwexp.plots.html import page_data
from lwexp.plots.plan import scheduled_rates
from lwexp.plots.rates import draw_heatmap, draw_rates_by_depth, draw_rates_by_step
from tests.helpers.commands import RunHere
from tests.helpers.networks import TinyNet
from tests.helpers.rate_tables import constant, table
from tests.plots.test_rates import legend, texts


@pytest.mark.parametrize(("options", "said"), [
    ({}, ""),
    ({"policy": "cosine"}, "policy=cosine"),
    ({"policy": "cosine", "warmup_steps": 10, "min_lr": 1e-4}, "policy=cosine warmup_steps=10 min_lr=0.0001"),
    ({"policy": "constant", "warmup_steps": 2}, "policy=constant warmup_steps=2"),
    ({"lr_events": [{"step": 3, "group": 0, "lr": 0.1}]}, "1 event"),
    ({"policy": "linear", "unfreeze_every_steps": 5}, "policy=linear, unfreezing every 5 steps"),
    ({"unfreeze_at": {"head": 0, "*": 7}}, "unfreezing at step 7"),
    ({"phases": [{"steps": 4, "policy": "cosine"}, {"policy": "linear"}]}, "2 policies in 2 phases"),
    ({"policy": "torch", "name": "StepLR", "options": {"step_size": 3}}, "policy=StepLR options={'step_size': 3}"),
])  # fmt: skip
def test_a_schedule_is_named_in_a_few_words(options: dict[str, Any], said: str, tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.01)
    policy = options.pop("policy", "constant")
    assert summary(plan.schedule(policy, steps=40, **options)) == said


def test_the_hash_of_a_schedule_covers_all_that_moves_rates_and_the_plans_stays(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.01)
    event = {"step": 3, "group": 0, "lr": 0.1}
    schedules = [
        plan.schedule("constant", steps=40), plan.schedule("cosine", steps=40), plan.schedule("cosine", steps=41),
        plan.schedule("cosine", steps=40, warmup_steps=2), plan.schedule("constant", steps=40, lr_events=[event]),
        plan.schedule("constant", steps=40, lr_events=[{**event, "step": 4}]),
        plan.schedule("constant", steps=40, unfreeze_every_steps=3), make_plan(tiny, lr=0.02).schedule(steps=40),
    ]  # fmt: skip
    assert len({*map(schedule_hash, schedules)}) == len(schedules)
    assert schedule_hash(plan.schedule("cosine", steps=40)) == schedule_hash(schedules[1])
    assert len({schedule.plan.hash for schedule in schedules[:-1]}) == 1
    assert line_of(schedules[1]) == f"policy=cosine; rates {schedule_hash(schedules[1])}"


def test_text_and_pictures_of_a_preview_name_the_schedule(lwexp_here: RunHere) -> None:
    options = ["model=lstm", "data.image_size=8", "policy=cosine", "lr_events=[{step: 3, group: 0, lr: 0.1}]"]
    outcome = lwexp_here("preview", *options)
    assert outcome.code == 0, outcome.err
    assert "\n\npolicy=cosine, 1 event; rates " in outcome.out
    assert "; rates " not in lwexp_here("preview", *options[:2]).out


def test_pictures_count_groups_as_the_plan_does(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.01, lr_overrides={"head.bias": 0.1})
    shown = scheduled_rates(plan, plan.schedule("cosine", steps=20), 20)
    count = len({g.index for g in plan.groups})
    assert count < len(plan.groups)
    for draw in (draw_heatmap, draw_rates_by_depth, draw_rates_by_step):
        about = next(text for text in texts(draw(shown)) if "steps 0 to 19" in text)
        assert f"{count} groups in {len(plan.groups)} rows, steps 0 to 19; policy=cosine" in about
    assert page_data(shown)["count"] == count


@pytest.mark.parametrize("groups", [9, 19, 40, NAMED_LIMIT])
def test_every_group_is_named_in_every_picture(groups: int) -> None:
    rates = table(constant(groups))
    assert legend(draw_rates_by_step(rates)) == list(rates.names)
    for draw in (draw_heatmap, draw_rates_by_depth):
        figure = draw(rates)
        figure.canvas.draw()
        shown = " ".join(texts(figure))
        assert all(name in shown for name in rates.names), draw


def test_the_rows_of_many_groups_are_labeled_by_block() -> None:
    names = [f"{i:03d}_blocks.{11 - i // 12}.part{i % 12}.weight" for i in range(144)]
    names = [f"{i:03d}_{name}" for i, name in enumerate(["head.weight", "head.bias"])] + names
    names = [f"{i:03d}_{name.partition('_')[2]}" for i, name in enumerate(names)]
    assert blocks_of(names)[1] == (2, 13, "blocks.11")
    figure = draw_heatmap(table(constant(len(names)), names=names))
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label.partition(" ")[0] for label in labels][-12:] == [f"blocks.{i}" for i in range(11, -1, -1)]
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in pairwise(boxes))


def test_an_event_is_a_step_on_top_of_other_lines_and_no_step_is_lost(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.01)
    schedule = plan.schedule("constant", steps=9000, lr_events=[{"step": 4444, "group": 1, "lr": 0.002}])
    shown = scheduled_rates(plan, schedule, 9000)
    assert {4443, 4444} <= {*shown.steps.tolist()}
    axes = draw_rates_by_step(shown).axes[0]
    below, above = (each for each in axes.collections if isinstance(each, LineCollection))
    assert above.get_zorder() > below.get_zorder()
    (path,) = above.get_paths()
    at_event = path.vertices[path.vertices[:, 0] == 4444]
    np.testing.assert_allclose(at_event[:, 1], [plan.groups[1].lr, 0.002])
    data = page_data(shown)
    assert [data["steps"][row] for _, row in data["jumps"]] == [4444]


def test_notes_of_a_long_table_come_below_it() -> None:
    from torch import nn

    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(LONG)), nn.Linear(2, 2000))
    for layers, below in ((model, True), (model[-3:], False)):
        lines = str(make_plan(layers, grouping="per_parameter" if below else "top_module", mult=1.1)).splitlines()
        (note,) = (i for i, line in enumerate(lines) if line.startswith("note: mult=1.1 is above 1"))
        table_at = next(i for i, line in enumerate(lines) if line.startswith("index"))
        assert (note > table_at) is below
