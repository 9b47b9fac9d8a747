"""The optimizer's step with a group per parameter, each at its own moving rate, against a single group of torch's.

    python tests/benchmarks/optimizer_step.py [--models resnet18] [--optimizers adam] [--repeats 300] [--device cpu]
        [--before CHECKOUT]

For each network (`flat`: 500 tensors of 1,000 values) and optimizer, microseconds a step, median and quartiles:
"stock, one group": the fastest of torch's own ways with all parameters in a single group at one rate; "stock, groups":
the same way with a group per parameter; "lwexp, groups": `plan.optimizer(…)` with those groups; "ratio": lwexp over the
single group, round by round; with `--before`, "to before": lwexp over lwexp of another checkout. The contestants take
turns in one process; all rates move at every step, before the clock starts. A step follows a forward and backward pass,
which leave the caches to their own data: here a walk over 32 MB stands for them (`--hot`: without it).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from report import cell, interleave, machine, ratio, spread, table

import lwexp

MODELS = ("resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "flat")
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
}
WAYS: tuple[dict[str, bool], ...] = ({"fused": True}, {"foreach": True}, {"foreach": False, "fused": False})


class Flat(nn.Module):
    """Many small tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(1000) for _ in range(500))


def network(name: str, device: str) -> nn.Module:
    """The network with a gradient for every parameter."""
    torch.manual_seed(0)
    model = Flat() if name == "flat" else timm.create_model(name, num_classes=10)
    for parameter in model.to(device).parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def make_optimizer_of(checkout: Path) -> Callable[..., torch.optim.Optimizer]:
    """`make_optimizer` of another checkout of lwexp, beside ours in this process; the rest of lwexp is ours."""
    folder = checkout / "lwexp/core/optim"
    spec = importlib.util.spec_from_file_location(
        "optim_before", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["optim_before"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., torch.optim.Optimizer] = importlib.import_module("optim_before.registry").make_optimizer
    return made


def timed(optimizer: torch.optim.Optimizer, device: str, junk: torch.Tensor | None) -> Callable[[], float]:
    """A function that makes one step, and returns its microseconds."""

    def step() -> float:
        for group in optimizer.param_groups:
            group["lr"] *= 0.9999
        if junk is not None:
            junk.add_(1.0)
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter_ns()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter_ns() - started) / 1000

    step()
    return step


def measure(
    name: str, kind: str, repeats: int, device: str, hot: bool, before: Callable[..., torch.optim.Optimizer] | None
) -> list[str]:
    """One row of the table."""
    stock, options = OPTIMIZERS[kind]
    junk = None if hot else torch.zeros(8_000_000, device=device)
    clock = partial(timed, device=device, junk=junk)
    ways = {str(way): clock(stock(network(name, device).parameters(), lr=1e-3, **options, **way)) for way in WAYS}
    medians = {way: spread(values).median for way, values in interleave(ways, max(repeats // 10, 5)).items()}
    way = next(way for way in WAYS if str(way) == min(medians, key=medians.__getitem__))
    plan = lwexp.make_plan(model := network(name, device), grouping="per_parameter", lr=1e-3, mult=0.99)
    groups = [{"params": [p], "lr": 1e-3 * 0.99**i} for i, p in enumerate(network(name, device).parameters())]
    lwexp_name = "sgd" if stock is torch.optim.SGD else kind
    contestants = {
        "one": clock(stock(network(name, device).parameters(), lr=1e-3, **options, **way)),
        "groups": clock(stock(groups, lr=1e-3, **options, **way)),
        "lwexp": clock(plan.optimizer(lwexp_name, **options)),
    }
    if before is not None:
        other = lwexp.make_plan(network(name, device), grouping="per_parameter", lr=1e-3, mult=0.99)
        contestants["before"] = clock(before(lwexp_name, other.param_groups(), lr=1e-3, options=options))
    found = interleave(contestants, repeats)
    del model
    shown = [cell(spread(found[each]), 0) for each in ("one", "groups", "lwexp")]
    fastest = next(iter([key for key, value in way.items() if value]), "loop")
    to_before = [] if before is None else [cell(ratio(found["lwexp"], found["before"]))]
    return [name, kind, str(len(plan.groups)), fastest, *shown, cell(ratio(found["lwexp"], found["one"])), *to_before]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--hot", action="store_true")
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args()
    before = None if arguments.before is None else make_optimizer_of(arguments.before)
    torch.set_num_threads(arguments.threads)
    print(machine())
    header = [
        "network",
        "optimizer",
        "groups",
        "fastest",
        "stock, one group",
        "stock, groups",
        "lwexp, groups",
        "ratio",
        *([] if before is None else ["to before"]),
    ]
    rows = [
        measure(name, kind, arguments.repeats, arguments.device, arguments.hot, before)
        for name in arguments.models
        for kind in arguments.optimizers
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
