"""How long a plan takes by the number of parameters, and a step's rates by the number of groups.

    python tests/benchmarks/planning.py [--sizes 100 1000 10000] [--groups 62 500 10000] [--repeats 5] [--timm resnet18]

Networks on the meta device: "flat", a Sequential of linear layers, "blocks", a transformer of small blocks, and models
of timm. Every grouping but by_name looks at one forward pass (for depths, or to tell where registration is not the
order of use). Columns, in CPU seconds of one thread, the fastest of the repeats: "whole": `make_plan`; "its pass": the
call of the recorded copy of the network within it; "without": whole - its pass, so with the making of the copy;
"growth": "without" over that of the network before it, of a tenth of the parameters; "plain pass": a forward pass of
the network itself, that nobody records. The other tables: what else is done with a plan of the largest size, and the
microseconds in which the scheduler sets all rates of a step (`advance`) and reads them back (`rates`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from report import interleave, machine, table
from torch import Tensor, nn

from lwexp import Event, make_plan
from lwexp.core.depth import execution

GROUPINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("per_parameter", {}),
    ("top_module", {}),
    ("depth_index", {"source": "auto"}),
    ("depth_index", {"source": "execution"}),
    ("depth_index", {"source": "registration"}),
    ("by_name", {"patterns": {"biases": "*.bias", "rest": "*"}}),
)
POLICIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cosine, warm-up", "cosine", {"warmup_steps": 10}),
    ("absolute floor", "cosine", {"min_lr": 1e-4, "floor": "absolute"}),
    ("unfreezing", "cosine", {"unfreeze_every_steps": 10_000}),
    ("20 events", "cosine", {"lr_events": ...}),
    ("a scheduler of torch", "torch", {"name": "CosineAnnealingLR"}),
    ("plateau", "plateau", {}),
)


class Block(nn.Module):
    """A transformer's block of width 8, with 12 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8)})
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        x = x + self.attn["proj"](nn.functional.scaled_dot_product_attention(query, key, value))
        return x + self.mlp(self.norm2(x))


def flat(count: int) -> nn.Module:
    """A Sequential of `count` parameters."""
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(count // 2)))


def blocks(count: int) -> nn.Module:
    """A transformer of about `count` parameters."""
    inside = nn.Sequential(*(Block() for _ in range(count // 12)))
    return nn.Sequential(nn.Linear(8, 8), inside, nn.LayerNorm(8), nn.Linear(8, 2))


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def plan_seconds(model: nn.Module, grouping: str, options: dict[str, Any]) -> tuple[float, float]:
    """`make_plan`, whole and the forward pass in it."""
    passes = 0.0
    call = execution.forward_pass

    def timed(*arguments: Any) -> Any:
        nonlocal passes
        start = time.process_time()
        try:
            return call(*arguments)
        finally:
            passes += time.process_time() - start

    with mock.patch.object(execution, "forward_pass", timed):
        whole = seconds(lambda: make_plan(model, grouping=grouping, grouping_options=options))
    return whole, passes


def planning(networks: list[tuple[str, nn.Module, Tensor]], repeats: int) -> list[list[str]]:
    """The rows of the first table."""
    rows, before = [], dict[tuple[str, str], tuple[int, float]]()
    for name, model, example in networks:
        count = sum(1 for _ in model.parameters())
        plain = min(seconds(lambda m=model, x=example: m(x)) for _ in range(repeats))  # type: ignore[misc]
        for grouping, options in GROUPINGS:
            found = [plan_seconds(model, grouping, options) for _ in range(repeats)]
            without = min(whole - passes for whole, passes in found)
            label = f"{grouping} {options.get('source', '')}".strip()
            smaller, its = before.get((name, label), (0, 0.0))
            growth = f"{without / its:.1f}" if smaller * 10 <= count * 1.1 and smaller else ""
            before[name, label] = count, without
            whole, passes = (min(column) for column in zip(*found, strict=True))
            numbers = [f"{value:.3f}" for value in (whole, passes, without)]
            rows.append([f"{name}, {label}", f"{count:,}", *numbers, growth, f"{plain:.3f}"])
    return rows


def after(count: int, repeats: int) -> list[list[str]]:
    """What is done with a plan of `count` groups, seconds."""
    model = flat(count).to("meta")
    pattern = {f"{i}.weight": 0.01 for i in range(0, count // 2, 10)}
    plan = make_plan(model, grouping="per_parameter")
    start = time.process_time()
    optimizer = plan.optimizer("adam")
    build = time.process_time() - start  # once: torch compares each new group with all before it
    jobs: dict[str, Callable[[], object]] = {
        "print(plan)": lambda: str(plan),
        "plan.hash": lambda: make_hash(plan),
        "plan.param_groups()": plan.param_groups,
        "plan.scheduler(…)": lambda: plan.scheduler(optimizer, "cosine", steps=1000),
        "plan.lr_table of 1,000 steps": lambda: plan.lr_table("cosine", steps=1000),
        "make_plan by_name, decay=none": lambda: by_name(model, decay="none"),
        f"the same, {len(pattern):,} overrides": lambda: by_name(model, lr_overrides=pattern),
        "the same, freeze='*.bias'": lambda: by_name(model, freeze=["*.bias"]),
        "the same, no_weight_decay": lambda: by_name(model, no_weight_decay=True).param_groups(),
    }
    found = interleave({name: lambda job=job: seconds(job) for name, job in jobs.items()}, repeats)  # type: ignore[misc]
    return [["plan.optimizer('adam')", f"{build:.3f}"], *([name, f"{min(its):.3f}"] for name, its in found.items())]


def by_name(model: nn.Module, **settings: Any) -> Any:
    """A plan of two groups, whose grouping takes the least."""
    return make_plan(model, grouping="by_name", grouping_options={"patterns": {"a": "*.weight", "b": "*"}}, **settings)


def make_hash(plan: Any) -> str:
    """The hash of a plan that has not been asked for it yet."""
    vars(plan).pop("hash", None)
    return str(plan.hash)


def policies(count: int, repeats: int) -> list[list[str]]:
    """Microseconds for the rates of one step of `count` groups."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(count)])
    plan = make_plan(model, grouping="per_parameter", mult=0.999)
    calls = max(20_000 // count, 5)
    rows = []
    optimizer = plan.optimizer("sgd")
    events = [Event(1, i, 0.1) for i in range(0, count, max(count // 20, 1))][:20]
    for name, policy, options in POLICIES:
        given = {"lr_events": events} if "lr_events" in options else options
        scheduler = plan.scheduler(optimizer, policy, steps=10_000_000, **given)

        def mean(function: Callable[[], object]) -> float:
            return seconds(lambda: [function() for _ in range(calls)]) / calls * 1e6

        found = interleave(
            {
                "schedule": lambda s=scheduler: mean(lambda: s.schedule.rates(50)),  # type: ignore[misc]
                "advance": lambda s=scheduler: mean(s.advance),  # type: ignore[misc]
                "rates": lambda s=scheduler: mean(s.rates),  # type: ignore[misc]
            },
            repeats,
        )
        rows.append([name, f"{count:,}", *(f"{min(values):.1f}" for values in found.values())])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--groups", type=int, nargs="+", default=[62, 500, 10_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--timm", nargs="*", default=["resnet18", "vit_tiny_patch16_224", "eva_giant_patch14_224"])
    options = parser.parse_args()
    networks: list[tuple[str, nn.Module, Tensor]] = []
    for size in options.sizes:
        networks.append(("flat", flat(size).to("meta"), torch.empty(2, 4, device="meta")))
        networks.append(("blocks", blocks(size).to("meta"), torch.empty(2, 16, 8, device="meta")))
    if options.timm:
        import timm

        for name in options.timm:
            with torch.device("meta"):
                networks.append((name, timm.create_model(name), torch.empty(2, 3, 224, 224)))
    make_plan(flat(100).to("meta"), grouping="per_parameter")  # what is imported at the first plan is no plan's time
    print(machine(), flush=True)
    columns = ["network, grouping", "parameters", "whole", "its pass", "without", "growth", "plain pass"]
    print(table(columns, planning(networks, options.repeats)), flush=True)
    print()
    largest = max(options.sizes)
    print(table([f"{largest:,} groups", "seconds"], after(largest, options.repeats)), flush=True)
    print()
    rows = [row for count in options.groups for row in policies(count, options.repeats)]
    print(table(["policy", "groups", "Schedule.rates, µs", "advance, µs", "rates, µs"], rows))


if __name__ == "__main__":
    main()
