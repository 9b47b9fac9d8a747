from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwexp.core.group_names import common_path, group_names


def test_a_group_is_named_by_the_longest_module_path_that_is_its_own() -> None:
    groups = [["fc.weight"], ["layer4.1.conv1.weight", "layer4.1.bn1.bias"], ["layer4.0.conv1.weight"]]
    assert group_names(groups) == ["fc", "layer4.1", "layer4.0.conv1"]


def test_the_ends_are_stem_and_head_where_several_modules_meet() -> None:
    groups = [["norm.weight", "fc.weight"], ["blocks.0.a"], ["conv.weight", "pos_embed"]]
    assert group_names(groups) == ["head", "blocks.0", "stem"]


def test_a_group_of_several_modules_is_named_by_the_largest() -> None:
    block = [f"blocks.1.{part}.weight" for part in ("norm", "up", "down")]
    assert group_names([["fc.weight"], ["norm.weight", *block], ["blocks.0.up.weight"]])[1] == "blocks.1"


def test_a_last_group_that_is_a_block_is_named_like_one() -> None:
    groups = [["norm.weight", "h.2.a", "h.2.b"], ["h.1.a", "h.1.b"], ["h.0.a", "h.0.b"], ["wte.weight", "wpe.weight"]]
    assert group_names(groups) == ["h.2", "h.1", "h.0", "stem"]


def test_layers_of_an_rnn_are_named_by_number() -> None:
    groups = [["head.weight"]]
    groups += [
        [f"lstm.{kind}_l{i}{way}" for kind in ("weight_ih", "bias_hh") for way in ("", "_reverse")] for i in (1, 0)
    ]
    assert group_names([*groups, ["embedding.weight"]]) == ["head", "lstm.layer1", "lstm.layer0", "embedding"]
    assert group_names([["head.weight"], ["lstm.weight_ih_l0", "lstm.bias_ih_l0"]]) == ["head", "lstm"]


def test_what_a_wrapper_puts_before_names_is_left_out() -> None:
    groups = [["_orig_mod.fc.weight"], ["_orig_mod.layer1._orig_mod.0.weight"], ["_orig_mod.conv.weight"]]
    assert group_names(groups, "_orig_mod.") == ["fc", "layer1.0", "conv"]


def test_a_module_that_is_called_head_elsewhere_is_not_confused_with_the_head() -> None:
    names = group_names([["fc.weight", "norm.weight"], ["head.0.weight", "head.1.weight"], ["stem.weight"]])
    assert len(set(names)) == 3


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, min_size=1), st.data()
)
def test_names_are_never_alike_and_never_empty(names: list[str], data: st.DataObject) -> None:
    depth = data.draw(st.lists(st.integers(0, 3), min_size=len(names), max_size=len(names)))
    groups = [[n for n, d in zip(names, depth, strict=True) if d == k] for k in sorted(set(depth), reverse=True)]
    found = group_names(groups)
    assert len(set(found)) == len(groups)
    assert all(found)


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (["a.b.weight", "a.b.bias"], "a.b"),
        (["a.b.weight", "a.bc.bias"], "a"),
        (["a.weight", "b.weight"], ""),
        (["token"], "token"),
    ],
)
def test_common_path_is_the_longest_shared_module(names: list[str], path: str) -> None:
    assert common_path(names) == path
