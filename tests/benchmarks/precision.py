"""What `precision`, `channels_last` and `compile` do to the time of a training step, by model and image size.

    python tests/benchmarks/precision.py [--models resnet18 convnext_atto] [--sizes 32 128] [--batch 32] [--repeats 5]

One row for each model and size. "fp32": milliseconds of a step (forward, backward, fused Adam), median and quartiles;
the other columns: their time over that of fp32, round by round, below 1 is faster. "compile" is the default mode of
torch.compile, without the time it takes to compile; --no-compile leaves it out. On CUDA where there is one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import report
import timm
import torch
from torch import nn

from lwexp.experiment.on_device import put_channels_last

WAYS: dict[str, tuple[str, bool, bool]] = {  # precision, channels_last, compile
    "fp32": ("fp32", False, False),
    "channels_last": ("fp32", True, False),
    "bf16": ("bf16", False, False),
    "bf16 channels_last": ("bf16", True, False),
    "compile": ("fp32", False, True),
    "compile bf16 channels_last": ("bf16", True, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true")
    given = parser.parse_args()
    ways = {name: way for name, way in WAYS.items() if not (given.no_compile and way[2])}
    print(f"{report.machine()}; batch {given.batch}\n")
    rows = []
    for model in given.models:
        for size in given.sizes:
            measured = report.interleave(
                {name: stepper(model, size, given.batch, *way) for name, way in ways.items()}, given.repeats
            )
            plain = measured["fp32"]
            first = report.cell(report.spread([1000 * value for value in plain]), 1)
            others = [report.cell(report.ratio(values, plain)) for name, values in measured.items() if name != "fp32"]
            rows.append([f"{model} {size}x{size}", first, *others])
    print(report.table(["model", "fp32, ms", *list(ways)[1:]], rows))


def stepper(name: str, size: int, batch: int, precision: str, turned: bool, compiled: bool) -> Callable[[], float]:
    """A training step that returns its seconds; it has been made three times."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sized = {"img_size": size} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=10, **sized).to(device)
    images, labels = torch.randn(batch, 3, size, size, device=device), torch.zeros(batch, dtype=torch.int64).to(device)
    if turned:
        put_channels_last(model)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            scores = forward(images)
        nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(3):
        step()
    return step


if __name__ == "__main__":
    main()
