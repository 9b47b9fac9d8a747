"""Every threshold of the depth rules is in the table, and each decides about a network."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from lwexp.core.depth import find_depths, placing, structure, thresholds, units
from tests.helpers.user_networks import NETWORKS

NEVER = 10**9
CASES: list[tuple[str, float, str, int, int]] = [  # threshold, another value, network, depths, depths then
    ("COMPOSITE_MATRICES", 1, "convnext_atto", 14, 17),
    ("COMPOSITE_MATRICES", 3, "resnet18", 10, 8),
    ("REPEATED_CHILDREN", NEVER, "regnety_008", 16, 6),
    ("IDENTICAL_SIBLINGS", NEVER, "efficientvit_m0", 8, 32),
    ("LIST_WEIGHT_SHARE", 0.9, "torchvision/mobilenet_v2", 19, 20),
    ("LIST_CHILD_SHARE", 0.0, "torchvision/mobilenet_v3_small", 13, 6),
    ("LIST_CHILD_SHARE", 1.0, "starnet_s1", 17, 6),
    ("STAGE_WEIGHT_SHARE", 0.1, "hgnetv2_b2", 8, 20),
    ("STAGE_WEIGHT_SHARE", 0.95, "cs3sedarknet_x", 26, 6),
    ("BULK_WEIGHT_SHARE", 1.0, "two_towers", 3, 1),
    ("FEW_LEVELS", -1, "torchvision/alexnet", 8, 2),
    ("FEW_BLOCK_SHARE", -1, "torchvision/alexnet", 8, 2),
    ("PARALLEL_SHARE", 1.0, "convnext_atto", 14, 6),
    ("STEM_BLOCK_SHARE", 0.0, "efficientvit_b3", 29, 30),
    ("STEM_WEIGHT_RATIO", NEVER, "efficientvit_b3", 29, 30),
]
POOLED = [("mobilenetv3_small_050", "conv_head.weight"), ("beit_base_patch16_224", "fc_norm.weight")]


def network(name: str) -> nn.Module:
    if name in NETWORKS:
        return NETWORKS[name][0]()
    with torch.device("meta"):
        if name.startswith("torchvision/"):
            return torchvision.models.get_model(name.partition("/")[2], weights=None)
        return timm.create_model(name)


def change(monkeypatch: pytest.MonkeyPatch, threshold: str, value: float) -> None:
    """In the modules that import it."""
    users = [module for module in (structure, units, placing) if hasattr(module, threshold)]
    assert users
    for module in users:
        monkeypatch.setattr(module, threshold, value)


@pytest.mark.parametrize(("threshold", "value", "name", "depths", "changed"), CASES)
def test_without_a_threshold_a_network_has_other_depths(
    monkeypatch: pytest.MonkeyPatch, threshold: str, value: float, name: str, depths: int, changed: int
) -> None:
    def count() -> int:
        example = NETWORKS[name][1] if name in NETWORKS else None
        return max(find_depths(network(name), "execution", example).by_name.values()) + 1

    assert count() == depths
    change(monkeypatch, threshold, value)
    assert count() == changed


@pytest.mark.parametrize(("name", "parameter"), POOLED)
def test_without_its_ratio_what_follows_the_pooling_joins_the_last_block(
    monkeypatch: pytest.MonkeyPatch, name: str, parameter: str
) -> None:
    before = find_depths(network(name), "execution").by_name
    assert before[parameter] == max(before.values())
    change(monkeypatch, "POOLING_RATIO", NEVER)
    assert find_depths(network(name), "execution").by_name[parameter] == max(before.values()) - 1


def test_without_its_ratio_down_sampling_at_the_end_of_a_stage_joins_the_block_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def depth() -> int:
        _, example, _ = NETWORKS["merging_stages"]
        return find_depths(network("merging_stages"), "execution", example).by_name["stages.0.downsample.weight"]

    assert depth() == 3
    change(monkeypatch, "SHRINKING_RATIO", NEVER)
    assert depth() == 2


def test_the_table_has_every_threshold_with_its_value() -> None:
    text = thresholds.__doc__ or ""
    constants: dict[str, Any] = {name: value for name, value in vars(thresholds).items() if name.isupper()}
    listed = dict(re.findall(r"^([A-Z_]+) +([\d.,]+) ", text, flags=re.MULTILINE))
    assert {name: float(value.replace(",", "")) for name, value in listed.items()} == {
        name: constants[name] for name in listed
    }
    assert set(re.findall(r"[A-Z]+_[A-Z_]+|BATCH|SEQUENCE|TIMEOUT", text)) == constants.keys()
    assert {case[0] for case in CASES} | {"POOLING_RATIO", "SHRINKING_RATIO"} == set(list(listed)[:-5])
