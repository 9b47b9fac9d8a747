"""torchvision's classification models, one of each family, on the meta device."""

from __future__ import annotations

import pytest
import torch
from torchvision import models

from lwexp import make_plan
from lwexp.core.depth import find_depths

# builder -> the module that comes first and the one that comes last
FAMILIES = {
    "alexnet": ("features.0", "classifier"),
    "convnext_tiny": ("features.0", "classifier"),
    "densenet121": ("features.conv0", "classifier"),
    "efficientnet_b0": ("features.0", "classifier"),
    "efficientnet_v2_s": ("features.0", "classifier"),
    "googlenet": ("conv1", "fc"),
    "inception_v3": ("Conv2d_1a_3x3", "fc"),
    "maxvit_t": ("stem", "classifier"),
    "mnasnet0_5": ("layers.0", "classifier"),
    "mobilenet_v2": ("features.0", "classifier"),
    "mobilenet_v3_small": ("features.0", "classifier"),
    "regnet_y_400mf": ("stem", "fc"),
    "resnet18": ("conv1", "fc"),
    "resnext50_32x4d": ("conv1", "fc"),
    "shufflenet_v2_x0_5": ("conv1", "fc"),
    "squeezenet1_0": ("features.0", "classifier"),
    "swin_t": ("features.0", "head"),
    "swin_v2_t": ("features.0", "head"),
    "vgg11_bn": ("features.0", "classifier"),
    "vit_b_16": ("conv_proj", "heads"),
    "wide_resnet50_2": ("conv1", "fc"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_model_is_planned_in_every_grouping_with_its_stem_first_and_its_head_last(name: str) -> None:
    first, last = FAMILIES[name]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # torchvision computes regnet's widths with tensors, which the meta device cannot
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = models.get_model(name, weights=None, **options)
    names = [n for n, _ in model.named_parameters()]
    for grouping in ("per_parameter", "top_module", "depth_index"):
        members = [n for g in make_plan(model, grouping=grouping).groups for n in g.parameter_names]
        assert sorted(members) == sorted(names)
    depths = find_depths(model)
    assert depths.source == "execution"
    values = set(depths.by_name.values())
    assert values == set(range(max(values) + 1))
    assert len(values) >= 5
    assert {depths.by_name[n] for n in names if n.startswith(f"{first}.")} == {0}
    assert depths.by_name[[n for n in names if n.startswith(f"{last}.")][-1]] == max(values)
