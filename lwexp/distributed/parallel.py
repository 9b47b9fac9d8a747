"""Data parallel training: replicas with averaged gradients (DDP), or sharded parameters (FSDP2).

Either way the parameters keep their names, and the plan its groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import shard_like
from lwexp.core.plan import Plan
from lwexp.errors import ConfigError

from .batch_norm import synchronize_batch_norms
from .world import World

Parallel = Literal["ddp", "fsdp"]


def parallelize(
    model: nn.Module,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    world: World,
    parallel: Parallel,
    sync_batchnorm: bool,
) -> tuple[ParallelModel, Plan]:
    """Broadcast rank 0's `model` and wrap it for `parallel`; returns it with the plan over its parameters.

    `optimizer` is changed in place to hold them. Raises `ConfigError` for a model that cannot be sharded.
    """
    broadcast_tensors((*model.parameters(), *model.buffers()))
    if sync_batchnorm:
        synchronize_batch_norms(model)
    if parallel == "ddp":
        return ReplicatedModel(model, device), plan
    before = dict(model.named_parameters())
    wrapped = world.on_all_ranks(lambda: ShardedModel(model, device))
    after = dict(model.named_parameters())
    shard_optimizer(optimizer, [*before.values()], [after[name] for name in before])
    return wrapped, plan.bind(model)


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite `tensors` on every rank with the values of rank 0."""
    from torch.distributed import broadcast

    for tensor in tensors:
        values = tensor.detach().contiguous().reshape(-1)
        if len(values):
            broadcast(values.view(torch.uint8), src=0)  # bytes, as not every backend supports every dtype
            tensor.detach().copy_(values.view_as(tensor))


class ParallelModel:
    """A model as the loop calls it. Base class: a single process, the model itself."""

    def __init__(self, model: nn.Module) -> None:
        """`forward` is what to call in place of `model`."""
        self.forward: Any = model

    def gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """Context of a forward and backward pass; only the `last` one of a step averages gradients over the ranks."""
        return nullcontext()

    def total(self, sums: Tensor) -> Tensor:
        """Sums over the full tensors from those over this rank's shards."""
        return sums

    def total_norms(self, norms: Tensor) -> Tensor:
        """Norms of the full gradients from those of this rank's shards."""
        return norms

    def no_grad(self) -> AbstractContextManager[Any]:
        """Context of an evaluation."""
        return torch.inference_mode()


class ReplicatedModel(ParallelModel):
    """A replica on every rank, by `DistributedDataParallel`."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """With a static graph, DDP finds in the first step which parameters the forward pass does not use."""
        from torch.nn.parallel import DistributedDataParallel

        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        options: dict[str, Any] = {buffers: False, "init_sync": False, "static_graph": True}
        self._first_pass_done = False
        self.forward = DistributedDataParallel(model, [device] if device.type == "cuda" else None, **options)

    def gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """DDP's `no_sync`, which a static graph forbids in its first pass; averaging there too is harmless."""
        if last or not self._first_pass_done:
            self._first_pass_done = True
            return nullcontext()
        return self.forward.no_sync()  # type: ignore[no-any-return]


class ShardedModel(ParallelModel):
    """Sharded by FSDP2's `fully_shard`: each block on its own, everything else together."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Replaces the parameters of `model` by DTensors. Raises `ConfigError` for one that cannot be sharded."""
        from torch.distributed import get_world_size
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                raise ConfigError("parallel", "fsdp", f"{name} is a scalar, which cannot be sharded; use ddp")
        mesh = init_device_mesh(device.type, (get_world_size(),))
        for unit in (*_blocks(model), model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        self.forward = model

    def no_grad(self) -> AbstractContextManager[Any]:
        """Not inference mode: FSDP reuses the parameters' buffers in training."""
        return torch.no_grad()

    def gradient_sync(self, last: bool) -> AbstractContextManager[Any]:
        """FSDP's own switch."""
        self.forward.set_requires_gradient_sync(last)
        return nullcontext()

    def total(self, sums: Tensor) -> Tensor:
        """Add up over the ranks, in place."""
        from torch.distributed import all_reduce

        all_reduce(sums)
        return sums

    def total_norms(self, norms: Tensor) -> Tensor:
        """Squares of the shards' norms add up."""
        return self.total(norms.square()).sqrt()


def shard_optimizer(optimizer: torch.optim.Optimizer, before: Sequence[Tensor], after: Sequence[nn.Parameter]) -> None:
    """Replace the parameters `before` of `optimizer` by `after` in place, and shard its state alike."""
    new = {id(old): parameter for old, parameter in zip(before, after, strict=True)}
    state: dict[Tensor, Any] = {
        new[id(old)]: {
            key: shard_like(value, new[id(old)])
            if isinstance(value, Tensor) and value.shape == old.shape and value.ndim
            else value
            for key, value in entry.items()
        }
        for old, entry in optimizer.state.items()
    }
    for group in optimizer.param_groups:
        group["params"] = [new[id(old)] for old in group["params"]]
        if group.get("fused") and not hasattr(optimizer, "stock"):
            group["fused"] = False  # most of torch's fused kernels do not support DTensors
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    optimizer.state.clear()
    optimizer.state.update(state)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Children of the outermost `ModuleList`s and `Sequential`s, except those that share a parameter with others.

    FSDP gathers each one's parameters when it is called, and frees them after.
    """
    owners: dict[int, set[str]] = {}
    found: list[tuple[str, nn.Module]] = []
    done: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path and path.startswith(done):
            continue
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1 and path:
            found += [(f"{path}.{name}.", child) for name, child in module.named_children()]
            done = (*done, f"{path}.")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        unit = next((prefix for prefix, _ in found if name.startswith(prefix)), "")
        owners.setdefault(id(parameter), set()).add(unit)
    for _, child in found:
        parameters = list(child.parameters())
        if parameters and all(len(owners[id(p)]) == 1 for p in parameters):
            yield child
