"""One training with a plan in two processes, by the wrapper that is named; prints what rank 0 has seen as JSON.

usage: python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.helpers.sharded_plans <wrapper> ...
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torchvision
from torch import nn

from lwexp import make_plan
from lwexp.core.plan import Plan
from tests.helpers.networks import TinyNet

STEPS, SETTINGS = 6, {"grouping": "depth_index", "lr": 0.05, "mult": 0.5}


def network() -> TinyNet:
    torch.manual_seed(0)
    model = TinyNet()
    for block in model.blocks:
        block.norm = nn.GroupNorm(2, 4)  # the same on any number of processes
    return model


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 1, 8, 8, generator=random), torch.arange(8) % 3) for _ in range(STEPS)]


def wrapped(kind: str) -> tuple[nn.Module, Plan, torch.optim.Optimizer]:
    """The model, its plan and its optimizer, each made where a user of that wrapper makes it."""
    model: Any = network()
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel, wrap

        policy = wrap.ModuleWrapPolicy({type(model.blocks[0])})
        model = FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
        plan = make_plan(model, **SETTINGS)
    elif kind == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for block in model.blocks:
            fully_shard(block, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
        plan = make_plan(model, **SETTINGS)
    elif kind in ("ddp", "zero1"):
        model = nn.parallel.DistributedDataParallel(model)
        plan = make_plan(model, **SETTINGS)
    else:
        plan = make_plan(model, **SETTINGS)
    if kind == "zero1":
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return model, plan, ZeroRedundancyOptimizer(plan.param_groups(), torch.optim.SGD, lr=1.0, momentum=0.9)
    return model, plan, plan.optimizer("sgd", momentum=0.9)


def train(kind: str) -> dict[str, Any]:
    """Losses of the global batch, rates, notes and groups of one training."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if kind != "none" else (0, 1)
    model, plan, optimizer = wrapped(kind)
    scheduler = plan.scheduler(optimizer, "cosine", steps=STEPS, warmup_steps=2)
    losses, rates = [], []
    for images, labels in batches():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[rank::size]), labels[rank::size])
        loss.backward()
        rates.append(scheduler.rates())
        optimizer.step()
        scheduler.step()
        mean = loss.detach() / size
        if kind != "none":
            dist.all_reduce(mean)
        losses.append(mean.item())
    groups = [len(group.parameter_names) for group in plan.groups]
    return {"losses": losses, "rates": rates, "notes": plan.notes, "lr": [g.lr for g in plan.groups], "groups": groups}


def vgg16_in_fsdp1() -> dict[str, Any]:
    """The sizes of its groups."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    bare = make_plan(torchvision.models.vgg16(num_classes=3), **SETTINGS)
    network = torchvision.models.vgg16(num_classes=3)
    network.classifier = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model = FullyShardedDataParallel(network, use_orig_params=True, device_id=torch.device("cpu"))
    plan = make_plan(model, **SETTINGS)
    return {
        "bare": [len(g.parameter_names) for g in bare.groups],
        "groups": [len(g.parameter_names) for g in plan.groups],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # FSDP's, without a GPU
    dist.init_process_group("gloo")
    seen = {kind: train(kind) for kind in sys.argv[1:]}
    seen["vgg16 in fsdp1"] = vgg16_in_fsdp1()
    if dist.get_rank() == 0:
        print("SEEN " + json.dumps(seen))
    dist.destroy_process_group()
