"""A plan in Python's own terms: a sequence of groups that are found by name, rows, a dictionary of rates, a repr."""

from __future__ import annotations

import json
import pickle
from importlib import import_module

import pandas
import pytest
from torch import nn

import lwexp
from lwexp import ConfigError, Plan, make_plan
from tests.helpers.networks import TinyNet


@pytest.fixture
def plan(tiny: TinyNet) -> Plan:
    return make_plan(tiny, lr=0.1, mult=0.5, lr_overrides={"blocks.3": 0.7}, freeze=["stem"])


def test_it_is_a_sequence_of_its_groups(plan: Plan) -> None:
    assert len(plan) == 4
    assert [g.name for g in plan] == ["head", "blocks", "blocks.3", "stem"]
    assert [plan[i] for i in range(len(plan))] == list(plan) == list(plan.groups)
    assert plan[-1] is plan.groups[3]
    assert plan[1:3] == plan.groups[1:3]
    assert plan


def test_groups_are_found_by_name_and_label(plan: Plan) -> None:
    assert plan["blocks.3"] is plan.groups[2] is plan["01_blocks.3"]
    assert "stem" in plan
    assert "02_stem" in plan
    assert plan.groups[0] in plan
    assert "layer4" not in plan
    assert 0 not in plan


def test_the_name_of_a_module_may_be_a_number() -> None:
    plan = make_plan(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    assert plan["0"].name == "0"
    assert plan[0].name == "2"


def test_a_wrong_name_is_a_key_error_and_a_wrong_position_an_index_error(plan: Plan) -> None:
    with pytest.raises(KeyError) as caught:
        plan["block"]
    assert str(caught.value) == "group=block: no such group in the plan; did you mean blocks, blocks.3?"
    assert isinstance(caught.value, ConfigError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(IndexError, match=r"^plan\[4\]: the plan has 4 groups$"):
        plan[4]
    with pytest.raises(TypeError):
        plan[1.5]  # type: ignore[call-overload]


def test_an_index_that_is_written_as_a_name_is_explained(plan: Plan) -> None:
    scheduler = plan.scheduler(plan.optimizer("sgd"))
    with pytest.raises(
        KeyError, match=r"^set_lr.group=0: no group has this name, and an index is a number; choices: b"
    ):
        scheduler.set_lr("0", 0.1)


def test_rates_by_name(plan: Plan) -> None:
    assert plan.rates == {"head": 0.1, "blocks": 0.05, "blocks.3": 0.7, "stem": 0.025}


def test_rows_have_the_values_of_the_table(plan: Plan) -> None:
    frame = pandas.DataFrame(plan.rows()).set_index("name")
    assert frame["lr"].to_dict() == plan.rates
    assert frame["index"].to_list() == [0, 1, 1, 2]
    assert frame["share"].sum() == pytest.approx(1)
    assert frame["frozen"].to_dict() == {"head": False, "blocks": False, "blocks.3": False, "stem": True}
    assert frame.loc["stem", "parameters"] == frame.loc["stem", "frozen_parameters"] == ["stem.bias", "stem.weight"]
    assert (frame.loc["stem", "weights"], frame.loc["stem", "trainable_weights"], frame.loc["stem", "tensors"]) == (
        40, 0, 2,
    )  # fmt: skip
    json.dumps(plan.rows())  # plain values
    titles = next(line for line in str(plan).splitlines() if line.startswith("index")).split()
    assert {*titles} <= {*plan.rows()[0]}


def test_repr_is_one_line_that_identifies_the_plan(plan: Plan) -> None:
    assert repr(plan) == f"<Plan {plan.hash} of TinyNet: 4 groups, grouping=top_module decay=linear lr=0.1 mult=0.5>"
    uniform = make_plan(nn.Sequential(nn.Linear(2, 1)), decay="none")
    assert repr(uniform) == f"<Plan {uniform.hash} of Sequential: 1 group, grouping=top_module decay=none lr=0.001>"


def test_the_package_lists_its_names() -> None:
    shown = dir(lwexp)
    assert {*lwexp.__all__, "__version__", "__doc__"} <= {*shown}
    assert not [name for name in shown if name.startswith("_") and not name.startswith("__")]
    for name in lwexp.__all__:
        assert getattr(lwexp, name) is vars(import_module(f"lwexp.{lwexp._HOMES[name]}"))[name]
    assert lwexp.__version__[0].isdigit()


def test_every_exception_is_exported() -> None:
    from lwexp import errors

    own = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert own <= {*lwexp.__all__}
