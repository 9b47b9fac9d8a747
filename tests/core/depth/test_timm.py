"""Depths of timm's models against timm's own descriptions: a sample here, all of them under the marker `slow`."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import timm
from timm.models._manipulate import group_with_matcher

from lwexp.core.depth import find_depths
from tests.helpers.commands import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import depth_of_timm

# One model of each of 75 families, by what `execution` makes of it without the description (see depth_of_timm.py).
SAMPLE = {
    "same": """
        beit_base_patch16_224 convit_small convmixer_1024_20_ks9_p14 darknet17 davit_tiny
        deit_base_distilled_patch16_384 dpn48b eca_botnext26ts_256 efficientvit_b0 hardcorenas_a hgnet_tiny
        hiera_tiny_224 lcnetv2_small legacy_seresnet18 levit_512_s8 mixer_s16_224 mobilenetv5_base
        mobilevitv2_050 naflexvit_base_patch16_gap nest_tiny_jx regnetx_002 res2net50_48w_2s resnest14d resnet14t
        resnet32ts resnetv2_18 sam2_hiera_tiny shvit_s2 skresnet18 swiftformer_l1 swin_s3_tiny_224
        swinv2_cr_tiny_384 swinv2_tiny_window16_256 test_convnext3 test_efficientnet test_mambaout test_nfnet
        tf_mobilenetv3_large_minimal_100 tiny_vit_11m_224 tresnet_m visformer_small vit_pwee_patch16_reg1_gap_256
        vit_relpos_base_patch16_rpn_224 vit_small_plus_patch16_dinov3 vit_tiny_r_s16_p8_224 vitamin_base_224
        vovnet39a xception41 xcit_nano_12_p8_224
    """,
    "finer": """
        coat_lite_mini cpubone_nano crossvit_9_dagger_240 cspnext_tiny efficientformer_l1 gcvit_xtiny
        legacy_xception mvitv2_tiny pvt_v2_b0 qwen3_vit_88m_enc test_coatnet vgg11
    """,
    "coarser": """
        rexnet_130 selecsls42 starnet_s050 volo_d1_384
    """,
    "ordered": """
        densenetblur121d dla34 fasternet_t1 ghostnet_050 hrnet_w18_small lowformer_e1 rdnet_tiny repghostnet_050
        samvit_base_patch16_224 twins_svt_small
    """,
}

BY_STAGE = {"efficientformer_l1", "gcvit_xtiny", "mvitv2_tiny", "pvt_v2_b0", "rdnet_tiny", "test_coatnet"}


@pytest.mark.parametrize(("name", "verdict"), [(name, v) for v, names in SAMPLE.items() for name in names.split()])
def test_depth_agrees_with_timms_own_description(name: str, verdict: str) -> None:
    model = depth_of_timm.build(name)
    described = group_with_matcher(model.named_parameters(), model.group_matcher(coarse=False), reverse=True)
    auto = find_depths(model)
    assert auto.source == "timm"
    assert auto.by_name == described
    found = find_depths(model, "execution", timeout=depth_of_timm.LIMIT).by_name
    assert depth_of_timm.compare(found, described) == verdict
    assert max(found.values()) + 1 <= 2 * (max(described.values()) + 1) or name in BY_STAGE


def test_the_verdicts_of_the_comparison() -> None:
    described = {"a": 0, "b": 1, "c": 1, "d": 2}
    assert depth_of_timm.compare({"a": 0, "b": 1, "c": 1, "d": 2}, described) == "same"
    assert depth_of_timm.compare({"a": 0, "b": 1, "c": 2, "d": 3}, described) == "finer"
    assert depth_of_timm.compare({"a": 0, "b": 0, "c": 0, "d": 1}, described) == "coarser"
    assert depth_of_timm.compare({"a": 0, "b": 0, "c": 1, "d": 2}, described) == "ordered"
    assert depth_of_timm.compare({"a": 1, "b": 0, "c": 1, "d": 2}, described) == "opposite"


@pytest.mark.slow
def test_every_structure_of_timm_meets_the_targets(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=200) as pool:
        rows = pool.map(partial(depth_of_timm.look, claims=tmp_path), timm.list_models(), chunksize=4)
    assert [row for row in rows if "error" in row] == []
    planned = [row for row in rows if "planned" in row]
    assert len(planned) == len({row["structure"] for row in rows}) > 700
    for row in planned:
        assert len(row["planned"]) == len(row["law"]) == len(depth_of_timm.GROUPINGS), row["model"]
    described = [row for row in planned if "execution" in row]
    moved = {name.split()[0] for row in described if row["auto"] != "same" for name in row["auto moved"]}
    assert all(name.startswith(("rope.freqs", "shared_rel_pos")) for name in moved)
    verdicts = Counter(row["execution"] for row in described)
    assert verdicts["opposite"] <= 0.02 * len(described)
    assert verdicts["same"] >= 0.65 * len(described)
