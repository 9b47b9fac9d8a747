"""`lr_mults`, `split_groups`, the decay by its ends (`stem_lr`), and other names of decays."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet


def rates(plan: Any) -> dict[str, float]:
    return {name: g.lr for g in plan.groups for name in g.parameter_names}


def test_factors_come_on_top_of_the_decay_and_split_groups(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, mult=0.5, lr_mults={"head": 10, "blocks.3": 2, "*.bias": 4})
    assert [(g.index, g.name, g.scale, g.lr) for g in plan.groups] == [
        (0, "head", 10, 0.1 * 10),
        (1, "blocks", 0.5, 0.1 * 0.5),
        (1, "blocks.3", 0.5 * 2, 0.1 * 0.5 * 2),
        (1, "blocks:*.bias", 0.5 * 4, 0.1 * 0.5 * 4),
        (2, "stem", 0.25, 0.1 * 0.25),
        (2, "stem:*.bias", 0.25 * 4, 0.1 * 0.25 * 4),
    ]


class Adapter(nn.Module):
    """A frozen layer with a LoRA pair, as PEFT names them."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


def test_lora_plus() -> None:
    """LoRA+ (arXiv:2402.12354): the B matrices learn 16 times as fast as the A matrices, in every layer."""
    model = nn.Sequential(Adapter(), Adapter(), Adapter())
    found = rates(make_plan(model, lr=2e-4, mult=0.9, lr_mults={"*.lora_B.*": 16}))
    for index, layer in enumerate((2, 1, 0)):
        assert found[f"{layer}.lora_A.weight"] == 2e-4 * 0.9**index
        assert found[f"{layer}.lora_B.weight"] == 2e-4 * 0.9**index * 16


def test_factors_multiply_the_rates_of_an_explicit_decay(tiny: TinyNet) -> None:
    options = {"rates": {"head": 0.5, "stem": 0.25}}
    plan = make_plan(tiny, decay="explicit", decay_options=options, lr=0.1, lr_mults={"head.bias": 2, "stem": 4})
    found = rates(plan)
    assert [found[n] for n in ("head.bias", "head.weight", "stem.bias", "blocks.0.conv.weight")] == [1.0, 0.5, 1.0, 0.1]
    assert [g.name for g in plan.groups] == ["head.bias", "head", "blocks", "stem"]


def test_split_groups_names_parts_and_changes_no_number(tiny: TinyNet) -> None:
    bare = make_plan(tiny, lr=0.1, mult=0.7)
    plan = make_plan(tiny, lr=0.1, mult=0.7, split_groups=["head.bias", "blocks.1", "stem"])
    assert [(g.index, g.name) for g in plan.groups] == [
        (0, "head"), (0, "head.bias"), (1, "blocks"), (1, "blocks.1"), (2, "stem"),
    ]  # fmt: skip
    assert rates(plan) == rates(bare)
    assert [g.scale for g in plan.groups] == [1, 1, 0.7, 0.7, 0.7**2]
    scheduler = plan.scheduler(plan.optimizer("sgd"))
    scheduler.set_lr("blocks.1", 0.25)
    assert scheduler.rates() == [0.1, 0.1, bare.groups[1].lr, 0.25, bare.groups[2].lr]
    assert make_plan(tiny, split_groups="head.bias").hash == make_plan(tiny, split_groups=["head.bias"]).hash


def test_a_part_of_a_part_has_a_name_that_tells_them_apart(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr_mults={"head": 10, "blocks.3": 2}, split_groups=["*.bias"])
    assert [g.name for g in plan.groups] == [
        "head:*.bias", "head", "blocks", "blocks.3:*.bias", "blocks.3", "blocks:*.bias", "stem", "stem:*.bias",
    ]  # fmt: skip
    assert plan.groups[0].lr == plan.groups[1].lr == 10 * plan.lr


@pytest.mark.parametrize("patterns", [["head", "*.bias", "blocks.1"], ["*.bias", "blocks.1", "head"]])
def test_each_part_is_inside_or_outside_of_each_pattern(tiny: TinyNet, patterns: list[str]) -> None:
    for group in make_plan(tiny, split_groups=patterns).groups:
        for pattern in patterns:
            assert len({covers(pattern, name) for name in group.parameter_names}) == 1


PATTERNS = st.sampled_from(["head", "*.bias", "blocks.1", "*", "blocks.*.weight", "stem.weight", "head.bias"])


@given(
    lr_mults=st.dictionaries(PATTERNS, st.sampled_from([0.0, 1.0, 2.0, 10.0]), max_size=3),
    split_groups=st.lists(PATTERNS, unique=True, max_size=3),
    explicit=st.one_of(st.none(), st.dictionaries(PATTERNS, st.sampled_from([0.5, 0.25]), max_size=3)),
    frozen=st.sampled_from([(), ("blocks.1",)]),
)
def test_every_parameter_is_in_one_group_of_its_own_name_at_its_rate(
    lr_mults: dict[str, float], split_groups: list[str], explicit: dict[str, float] | None, frozen: tuple[str, ...]
) -> None:
    model = TinyNet()
    decay: Any = {"decay": "explicit", "decay_options": {"rates": explicit}} if explicit is not None else {}
    if frozen and explicit is not None:
        frozen = ()
    if frozen and "blocks.1" in lr_mults:
        frozen = ()
    bare = make_plan(model, lr=0.1, freeze=frozen, **decay)
    plan = make_plan(model, lr=0.1, freeze=frozen, lr_mults=lr_mults, split_groups=split_groups, **decay)
    members = [name for g in plan.groups for name in g.parameter_names]
    assert sorted(members) == sorted(name for name, _ in model.named_parameters())
    assert all(g.parameter_names for g in plan.groups)
    names = [g.name for g in plan.groups]
    assert len({*names}) == len(names)
    before = rates(bare)
    for name, lr in rates(plan).items():
        factor = next((f for p, f in lr_mults.items() if covers(p, name)), 1.0)
        assert lr == pytest.approx(before[name] * factor, rel=1e-12)


def covers(pattern: str, name: str) -> bool:
    special: dict[str, Any] = {
        "*": True, "*.bias": name.endswith(".bias"),
        "blocks.*.weight": name.startswith("blocks.") and name.endswith(".weight"),
    }  # fmt: skip
    return bool(special.get(pattern, name == pattern or name.startswith(f"{pattern}.")))


def test_the_multiplier_follows_from_both_ends() -> None:
    """fastai's slice(1e-5, 1e-3) over three groups is 1e-5, 1e-4, 1e-3."""
    plan = make_plan(TinyNet(), lr=1e-3, decay_options={"stem_lr": 1e-5})
    assert [g.lr for g in plan.groups] == pytest.approx([1e-3, 1e-4, 1e-5], rel=1e-12)
    assert plan.mult == pytest.approx(0.1, rel=1e-12)
    assert "decay=linear lr=0.001 mult=0.1 plan" in str(plan)
    same = make_plan(TinyNet(), lr=1e-3, mult=plan.mult)
    assert same.hash == plan.hash
    assert same.to_csv() == plan.to_csv()


@given(stem=st.floats(1e-9, 10), grouping=st.sampled_from(["top_module", "per_parameter"]))
def test_the_stem_has_its_rate(stem: float, grouping: str) -> None:
    plan = make_plan(TinyNet(), lr=0.1, grouping=grouping, decay_options={"stem_lr": stem})
    assert plan.groups[0].lr == 0.1
    assert plan.groups[-1].lr == pytest.approx(stem, rel=1e-9)
    assert plan.uniform == math.isclose(stem, 0.1, rel_tol=1e-7)


@pytest.mark.parametrize("decay", ["arithmetic", "polynomial", "cosine"])
def test_other_decays_end_at_the_stems_rate(tiny: TinyNet, decay: str) -> None:
    plan = make_plan(tiny, decay=decay, lr=0.1, decay_options={"stem_lr": 0.02})
    assert plan.groups[-1].lr == pytest.approx(0.02, rel=1e-12)
    assert plan.hash == make_plan(tiny, decay=decay, lr=0.1, decay_options={"min_scale": 0.02 / 0.1}).hash


def test_the_ends_are_those_of_the_groups_that_the_decay_counts(tiny: TinyNet) -> None:
    plan = make_plan(tiny, lr=0.1, freeze="head", index_from="trained", decay_options={"stem_lr": 0.05})
    assert [g.lr for g in plan.groups[1:]] == [0.1, pytest.approx(0.05)]


@pytest.mark.parametrize("name", ["layer_decay", "geometric"])
def test_other_names_of_the_linear_decay(tiny: TinyNet, name: str) -> None:
    plan = make_plan(tiny, decay=name, mult=0.7)
    assert plan.decay == "linear"
    assert str(plan) == str(make_plan(tiny, decay="linear", mult=0.7))
    assert make_plan(tiny, decay=name, decay_options={"mult": 0.7}).hash == plan.hash


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_mults": {"head": 2}, "lr_overrides": {"head.bias": 0.1}},
         "lr_mults.head=2: multiplies the rate of head.bias, which lr_overrides.head.bias sets to 0.1; drop one"),
        ({"lr_mults": {"blocks.1": 2}, "freeze": ["blocks"]}, "lr_mults.blocks.1=2: all .* are frozen"),
        ({"lr_mults": {"hed": 2}}, "lr_mults=hed: the pattern matches no parameter; did you mean head"),
        ({"lr_mults": {"head": -2}}, "lr_mults.head=-2: must be at least 0"),
        ({"lr_mults": {"head": "x"}}, "lr_mults.head=x: must be a number"),
        ({"lr_mults": 3}, "lr_mults=3: must map patterns to factors"),
        ({"split_groups": ["hed"]}, "split_groups=hed: the pattern matches no parameter; did you mean head"),
        ({"split_groups": 3}, "split_groups=3: must be a pattern or a list"),
        ({"decay_options": {"stem_lr": 1e-5}, "mult": 0.5}, "decay.stem_lr=1e-05: .*mult=0.1, but mult=0.5 is"),
        ({"decay_options": {"stem_lr": 1e-5, "mult": 0.5}}, "decay.stem_lr=1e-05: lr=0.001 and 3 groups make mult=0.1"),
        ({"decay_options": {"stem_lr": 0}}, "decay.stem_lr=0: must be above 0"),
        ({"decay": "cosine", "decay_options": {"stem_lr": 0.1}}, "decay.stem_lr=0.1: must be at most lr=0.001"),
        ({"decay": "cosine", "decay_options": {"stem_lr": 1e-4, "min_scale": 0.2}}, "decay.stem_lr=.*min_scale=0.1"),
        ({"decay": "none", "decay_options": {"stem_lr": 1e-4}}, "decay.stem_lr=0.0001: unknown option"),
        ({"decay_options": {"stem_rl": 1e-4}}, "decay.stem_rl=0.0001: unknown option; did you mean stem_lr"),
        ({"decay": "layer_decy"}, "decay=layer_decy: no such decay; did you mean layer_decay"),
        ({"grouping": lambda m: [("all", [n for n, _ in m.named_parameters()])], "decay_options": {"stem_lr": 1e-4}},
         "decay.stem_lr=0.0001: there is one group"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_what_to_do(tiny: TinyNet, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny, **settings)


def test_the_same_multiplier_may_be_given_beside_the_ends(tiny: TinyNet) -> None:
    assert make_plan(tiny, mult=0.1, decay_options={"stem_lr": 1e-5}).mult == pytest.approx(0.1)
