"""A model on several processes: copies whose gradients are averaged (DDP), or one that is shared out (FSDP2).

Either way its parameters keep their names, and the plan its groups.
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

from .batch_norm import synchronise_batch_norms
from .world import Processes

Parallel = Literal["ddp", "fsdp"]


def spread(
    model: nn.Module,
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    processes: Processes,
    parallel: Parallel,
    sync_batchnorm: bool,
) -> tuple[Wrapped, Plan]:
    """Give all processes the first one's `model`, wrapped for `parallel`, and the plan over its parameters.

    `optimizer` goes on with them. Raises `ConfigError` for a model that cannot be shared out.
    """
    same_everywhere((*model.parameters(), *model.buffers()))
    if sync_batchnorm:
        synchronise_batch_norms(model)
    if parallel == "ddp":
        return Replicated(model, device), plan
    before = dict(model.named_parameters())
    wrapped = processes.together(lambda: Sharded(model, device))
    after = dict(model.named_parameters())
    shard_optimizer(optimizer, [*before.values()], [after[name] for name in before])
    return wrapped, plan.bind(model)


def same_everywhere(tensors: Iterable[Tensor]) -> None:
    """Give all processes the values of the first."""
    from torch.distributed import broadcast

    for tensor in tensors:
        values = tensor.detach().contiguous().reshape(-1)
        if len(values):
            broadcast(values.view(torch.uint8), src=0)  # not every backend sends every type
            tensor.detach().copy_(values.view_as(tensor))


class Wrapped:
    """How the training calls a model; this class itself: a model of one process, called as it is."""

    def __init__(self, model: nn.Module) -> None:
        """`forward` is what to call in place of `model`."""
        self.forward: Any = model

    def reducing(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward: gradients are averaged over the processes in the `last` of a step alone."""
        return nullcontext()

    def norms(self, norms: Tensor) -> Tensor:
        """The norms of whole gradients, from those of this process's parts."""
        return norms


class Replicated(Wrapped):
    """Whole in every process, by `DistributedDataParallel`."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """With a static graph, DDP finds in the first step which parameters a forward pass does not use."""
        from torch.nn.parallel import DistributedDataParallel

        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        options: dict[str, Any] = {buffers: False, "init_sync": False, "static_graph": True}
        self._passed = False
        self.forward = DistributedDataParallel(model, [device] if device.type == "cuda" else None, **options)

    def reducing(self, last: bool) -> AbstractContextManager[Any]:
        """By DDP's `no_sync`, which a static graph does not allow in its first pass; averaging twice does no harm."""
        if last or not self._passed:
            self._passed = True
            return nullcontext()
        return self.forward.no_sync()  # type: ignore[no-any-return]


class Sharded(Wrapped):
    """In parts, by FSDP2's `fully_shard`: the blocks one by one, what is left in one piece."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Exchanges the parameters of `model`. Raises `ConfigError` for those that cannot be shared out."""
        from torch.distributed import get_world_size
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                raise ConfigError("parallel", "fsdp", f"{name} is a single number, which cannot be shared out; use ddp")
        mesh = init_device_mesh(device.type, (get_world_size(),))
        for unit in (*_blocks(model), model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        self.forward = model

    def reducing(self, last: bool) -> AbstractContextManager[Any]:
        """By FSDP's own switch."""
        self.forward.set_requires_gradient_sync(last)
        return nullcontext()

    def norms(self, norms: Tensor) -> Tensor:
        """Squares of the parts' norms add up."""
        from torch.distributed import all_reduce

        squares = norms.square()
        all_reduce(squares)
        return squares.sqrt()


def shard_optimizer(optimizer: torch.optim.Optimizer, before: Sequence[Tensor], after: Sequence[nn.Parameter]) -> None:
    """Let `optimizer` go on with the parameters `after` in place of `before`, its state shared out as they are."""
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
            group["fused"] = False  # torch's fused kernels of most optimizers take no DTensors
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # which only those do
    optimizer.state.clear()
    optimizer.state.update(state)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists and sequences, but for those that share a parameter with what is outside.

    Each is gathered when it is called, and freed after.
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
