"""Training mode of a model of which parts are frozen: whose running statistics stay as they are."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


def train_mode(model: nn.Module, frozen_names: Collection[str]) -> None:
    """`model.train()`, except `frozen_norms`: their running statistics stay, and they normalize by these."""
    model.train()
    for norm in frozen_norms(model, frozen_names):
        norm.training = False  # not `eval()`: what is in it, as an activation or dropout, trains on


def frozen_norms(model: nn.Module, frozen_names: Collection[str]) -> list[nn.Module]:
    """The modules with running statistics whose parameters are all in `frozen_names`.

    One without parameters (`affine=False`) belongs to those beside it: all of the closest module around it that has
    any, or where only some of these are frozen, those registered right before it, else right after it.
    """
    frozen = set(frozen_names)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    order = [path for path, _ in model.named_modules(remove_duplicate=False)]
    return [
        module
        for path, module in model.named_modules()
        if frozen and _has_running_statistics(module) and _is_frozen(path, names, order, frozen)
    ]


def _has_running_statistics(module: nn.Module) -> bool:
    """Whether it keeps statistics of its inputs: batch norms of any library, instance norms that track them, …"""
    return any(name.startswith("running_") and buffer is not None for name, buffer in module._buffers.items())


def _is_frozen(path: str, names: list[str], order: list[str], frozen: set[str]) -> bool:
    """Whether the norm at `path` is; `names`: all parameters, `order`: all modules, as they are registered."""
    around, own = path, _below(path, names)
    while not own and around:
        around = around.rpartition(".")[0]
        own = _below(around, names)
    if around == path or frozen.isdisjoint(own):
        return bool(own) and frozen.issuperset(own)
    place = order.index(path)
    for beside in (*reversed(order[:place]), *order[place + 1 :]):
        found = [name for name in own if name.rpartition(".")[0] == beside]
        if found:
            return frozen.issuperset(found)
    return False


def _below(path: str, names: list[str]) -> list[str]:
    """The parameters in the module at `path`."""
    return [name for name in names if name.startswith(f"{path}.")] if path else names
