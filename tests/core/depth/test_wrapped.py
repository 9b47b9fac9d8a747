"""Networks inside wrappers: compiled, data parallel, a backbone inside another network."""

from __future__ import annotations

import torch
from torch import nn

from lwexp.core.depth import find_depths
from tests.helpers.depth_networks import HeadFirst, timm_depths, timm_model


def test_a_compiled_model_has_the_depths_of_the_original() -> None:
    model = timm_model("resnet18")
    expected = {f"_orig_mod.{name}": depth for name, depth in find_depths(model).by_name.items()}
    assert find_depths(torch.compile(model)).by_name == expected
    model.layer1 = torch.compile(model.layer1)
    assert list(find_depths(model).by_name.values()) == list(expected.values())


def test_a_timm_backbone_inside_another_class_keeps_its_depths() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 2)
            self.backbone = timm_model("vit_tiny_patch16_224", num_classes=0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    depths = find_depths(Wrapper())
    assert depths.source == "execution"
    inner = timm_depths(timm_model("vit_tiny_patch16_224", num_classes=0))
    assert depths.by_name == {f"backbone.{n}": d for n, d in inner.items()} | {"head.weight": 13, "head.bias": 13}


def test_a_backbone_that_describes_itself_keeps_its_own_depths_inside_another_network() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = nn.Linear(512, 2)
            self.encode = timm_model("mvitv2_tiny", num_classes=0)
            self.project = nn.Linear(768, 512)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classify(self.project(self.encode(x)).relu())

    inner = timm_model("mvitv2_tiny", num_classes=0)
    depths = find_depths(Wrapper())
    expected = timm_depths(inner)
    last = max(expected.values())
    for name, depth in expected.items():
        assert depths.by_name[f"encode.{name}"] == depth
    assert depths.by_name["classify.weight"] == last + 1
    assert "encode by its own description, the rest around it" in depths.notes
    own = find_depths(Wrapper(), "execution")
    assert max(own.by_name.values()) > last + 1
    assert own.notes == ()


def test_distributed_and_data_parallel_networks_have_the_depths_of_the_network() -> None:
    model = HeadFirst()
    expected = {f"module.{name}": depth for name, depth in find_depths(model).by_name.items()}
    assert find_depths(nn.DataParallel(model)).by_name == expected
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        assert find_depths(parallel).by_name == expected
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapper_whose_own_forward_cannot_run_has_the_depths_of_its_only_network() -> None:
    """As a LightningModule, whose training step calls `self.model`, or a class whose forward takes a whole batch."""

    class NoForward(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.loss = nn.CrossEntropyLoss()
            self.model = network

    class TakesBatch(NoForward):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.model(batch["images"])

    for network in (HeadFirst(), timm_model("resnet18")):
        expected = find_depths(network)
        for wrapper in (NoForward(network), TakesBatch(network), NoForward(NoForward(network))):
            depths = find_depths(wrapper)
            prefix = "model.model." if isinstance(wrapper.model, NoForward) else "model."
            assert depths.by_name == {f"{prefix}{name}": depth for name, depth in expected.by_name.items()}
            assert depths.source == expected.source
            assert depths.notes == (f"depths of {prefix[:-1]}, which has all parameters", *expected.notes)
    two = NoForward(HeadFirst())
    two.other = nn.Linear(2, 2)
    assert find_depths(two).source == "registration"
