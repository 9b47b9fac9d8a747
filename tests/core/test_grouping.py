from __future__ import annotations

from unittest import mock

import pytest
import timm
import torch
from hypothesis import given
from torch import nn

from lwexp.core.grouping import GROUPINGS, NamedGroup, group
from lwexp.errors import ConfigError
from tests.helpers.networks import TinyNet
from tests.helpers.strategies import models


@pytest.mark.parametrize("grouping", ["per_parameter", "top_module", "depth_index"])
@given(model=models())
def test_every_parameter_is_in_exactly_one_group(grouping: str, model: nn.Module) -> None:
    options = {"source": "registration"} if grouping == "depth_index" else {}
    grouped = group(model, grouping, options).groups
    members = [name for g in grouped for name in g.parameter_names]
    assert sorted(members) == sorted(name for name, _ in model.named_parameters())
    assert all(g.parameter_names for g in grouped)
    assert len({g.name for g in grouped}) == len(grouped)


@pytest.mark.parametrize("grouping", ["per_parameter", "top_module"])
@given(model=models())
def test_groups_stand_from_the_last_registered_parameter_to_the_first(grouping: str, model: nn.Module) -> None:
    order = [name for name, _ in model.named_parameters()][::-1]
    heads = [order.index(g.parameter_names[0]) for g in group(model, grouping, {}).groups]
    assert heads == sorted(heads)


def test_resnet18_has_the_tutorials_groups() -> None:
    model = timm.create_model("resnet18", num_classes=2)
    assert len(group(model, "per_parameter", {}).groups) == 62
    assert [g.name for g in group(model, "top_module", {}).groups] == [
        "fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1",
    ]  # fmt: skip
    assert [g.name for g in group(model, "depth_index", {}).groups] == [
        "fc", "layer4.1", "layer4.0", "layer3.1", "layer3.0", "layer2.1", "layer2.0", "layer1.1", "layer1.0", "stem",
    ]  # fmt: skip


def test_a_module_that_reappears_joins_its_first_appearance() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.body = nn.Linear(2, 2)
            self.body.extra = self.scale
            self.head = nn.Linear(2, 2)

    grouped = group(Mixed(), "top_module", {}).groups
    assert [g.name for g in grouped] == ["head", "body", "scale"]


def test_by_name_takes_patterns_in_order_and_star_takes_the_rest(tiny: TinyNet) -> None:
    options = {"patterns": {"top": ["head", "blocks.3"], "norms": "*.norm.*", "rest": "*"}}
    grouped = group(tiny, "by_name", options).groups
    assert [g.name for g in grouped] == ["top", "norms", "rest"]
    assert "blocks.3.norm.weight" in grouped[0].parameter_names
    assert set(grouped[1].parameter_names) == {f"blocks.{i}.norm.{k}" for i in range(3) for k in ("weight", "bias")}


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"top": "head"}, r"no pattern matches 14 parameters: blocks\.3\.norm\.bias.*add '\*'"),
        ({"top": "haed", "rest": "*"}, r"grouping\.patterns\.top=haed: .*did you mean head"),
        ({"all": "*", "top": "head"}, r"grouping\.patterns\.top=head: groups before it match all of its parameters"),
        ({}, "needs at least one group"),
    ],
)
def test_by_name_refuses_patterns_that_make_no_partition(tiny: TinyNet, patterns: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        group(tiny, "by_name", {"patterns": patterns})


def test_own_function_is_a_grouping(tiny: TinyNet) -> None:
    def halves(model: nn.Module, first: int) -> list[tuple[str, list[str]]]:
        names = [name for name, _ in model.named_parameters()][::-1]
        return [("late", names[:first]), ("early", names[first:])]

    assert [len(g.parameter_names) for g in group(tiny, halves, {"first": 5}).groups] == [5, 11]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([("a", ["head.weight"])], r"=.*: 15 parameters are in no group"),
        ([("a", ["head.weight"]), ("b", ["head.weight"])], r"head\.weight: the parameter is in two groups, a and b"),
        ([("a", ["haed.weight"])], r"haed\.weight: .*lacks; did you mean head\.weight"),
        ([("a", [])], "the group is empty"),
    ],
)
def test_own_function_that_is_no_partition_is_refused_by_name(
    tiny: TinyNet, groups: list[NamedGroup], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        group(tiny, lambda model: groups, {})


def test_unknown_grouping_and_option_are_refused_with_the_nearest(tiny: TinyNet) -> None:
    with pytest.raises(ConfigError, match=r"grouping=top_modul: .*did you mean top_module"):
        group(tiny, "top_modul", {})
    with pytest.raises(ConfigError, match=r"grouping\.sorce=timm: unknown option; did you mean source"):
        group(tiny, "depth_index", {"sorce": "timm"})
    with pytest.raises(ConfigError, match="model=ReLU: has no parameters"):
        group(nn.ReLU(), "top_module", {})


def test_names_of_the_groupings_are_those_of_the_design() -> None:
    assert set(GROUPINGS) == {"per_parameter", "top_module", "depth_index", "by_name"}


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.stem = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(x)))


def test_registration_that_contradicts_use_is_noted_with_the_modules_and_the_option() -> None:
    (note,) = group(HeadFirst(), "top_module", {}).notes
    assert note == (
        "registration is not the order of use: though registered earlier, head after body, head after stem in the "
        "forward pass; grouping.order=execution follows use"
    )
    (note,) = group(HeadFirst(), "per_parameter", {}).notes
    assert "head after body" in note


def test_order_by_execution_follows_use_and_has_no_such_note() -> None:
    grouped = group(HeadFirst(), "top_module", {"order": "execution"})
    assert [g.name for g in grouped.groups] == ["unused", "head", "body", "stem"]
    assert grouped.notes == ()
    assert grouped.groups[2].parameter_names == ("body.2.bias", "body.2.weight", "body.0.bias", "body.0.weight")
    names = [g.name for g in group(HeadFirst(), "per_parameter", {"order": "execution"}).groups]
    assert [names[0], names[2], names[-1]] == ["unused.bias", "head.bias", "stem.weight"]


@pytest.mark.parametrize("grouping", ["per_parameter", "top_module"])
def test_a_network_of_many_parameters_is_not_run_for_a_note_and_the_note_says_so(grouping: str) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a forward pass")

    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(2501)))
    with mock.patch.object(nn.Linear, "forward", fail):
        (note,) = group(model, grouping, {}).notes
    assert note.startswith("registration was not compared with the order of use (5,002 parameters); grouping.order=")


@pytest.mark.parametrize("grouping", ["per_parameter", "top_module"])
def test_a_network_registered_as_it_is_used_has_no_note_and_one_order(grouping: str) -> None:
    model = timm.create_model("resnet18", num_classes=2)
    assert group(model, grouping, {}) == group(model, grouping, {"order": "execution"})
    assert group(model, grouping, {}).notes == ()
    with torch.device("meta"):
        vit = timm.create_model("vit_tiny_patch16_224")  # tokens and the patch embedding are one depth
    assert group(vit, grouping, {}).notes == ()


@pytest.mark.parametrize(
    ("name", "before", "after"), [("volo_d1_224", "aux_head", "norm"), ("coat_tiny", "cls_token4", "patch_embed1")]
)
def test_timm_models_registered_out_of_order_are_noted(name: str, before: str, after: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    (note,) = group(model, "top_module", {}).notes
    assert f"{before} after {after}" in note


def test_where_no_input_works_registration_stays_silent_and_execution_says_what_was_tried() -> None:
    class Choosy(HeadFirst):
        def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
            return super().forward(x * scale)

    assert group(Choosy(), "top_module", {}).notes == ()
    with pytest.raises(ConfigError, match=r"grouping\.order=execution: no forward pass, tried .*example_input"):
        group(Choosy(), "top_module", {"order": "execution"})
    example = {"x": torch.zeros(2, 6), "scale": 2.0}
    grouped = group(Choosy(), "top_module", {"order": "execution", "example_input": example})
    assert [g.name for g in grouped.groups][-1] == "stem"


def test_an_unknown_order_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"grouping\.order=exection: .*did you mean execution"):
        group(HeadFirst(), "top_module", {"order": "exection"})


@pytest.mark.parametrize("grouping", sorted({"per_parameter", "top_module", "depth_index"}))
def test_a_wrapped_network_has_the_groups_of_the_network(grouping: str) -> None:
    model = timm.create_model("resnet18", num_classes=2)
    expected = group(model, grouping, {})
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        found = group(wrapped, grouping, {})
        assert [g.name for g in found.groups] == [g.name for g in expected.groups]
        assert found.notes == expected.notes
