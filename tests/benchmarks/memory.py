"""Peak memory of a run against the plainest loop that trains the same network on the same data.

    python tests/benchmarks/memory.py [--repeats 5] [--epochs 2] [overrides of lwexp.run, such as decay=none]

The run is `python -m lwexp.run`: resnet18 on digits at 32×32, batches of 64, one group for each parameter, cosine
policy, Adam, every rate and loss tracked into SQLite. The loop has one group, no tracking, torch's fused Adam and as
many steps; "slim", it reads the images from scikit-learn's file without importing scikit-learn. Each is a process of
its own, in turns. "peak": most memory resident in the training process, in MiB; "of imports": as much as is there once
the modules are imported that the process has at its end, before any of them is used; "its own": peak - of imports;
"delivery": peak of the largest process that it starts. "GPU": most memory allocated there, where the training runs
there. Then what each import adds, in the order given.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from report import cell, interleave, machine, ratio, spread, table

RUN = ["model=resnet18", "grouping=per_parameter", "policy=cosine", "batch_size=64", "progress=false"]
IMPORTS = (
    "torch",
    "timm",
    "sklearn.datasets",
    "sklearn.metrics",
    "hydra",
    "pydantic",
    "matplotlib.figure",
    "lwexp.experiment.job",
)
BATCH = 64


def peak(pid: int | str = "self") -> float:
    """Most memory that a process had resident so far, MiB."""
    # Not `ru_maxrss`, in which a new process begins with the peak of the one that started it.
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def load_digits(slim: bool) -> Any:
    """scikit-learn's images, [1797, 8, 8] from 0 to 16, and their labels; `slim`: without importing it."""
    if not slim:
        from sklearn import datasets

        digits = datasets.load_digits()
        return digits.images, digits.target
    import numpy as np

    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)


def bare(epochs: int, slim: bool) -> None:
    """The plainest loop: no groups, no policy, no tracking, no files."""
    import timm
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels, targets_of = load_digits(slim)
    images = torch.from_numpy(pixels * (255 / 16)).float()[:, None]
    images = functional.interpolate(images, (32, 32), mode="bilinear", antialias=True).round().to(torch.uint8)
    labels = torch.from_numpy(targets_of)
    train, val = torch.arange(1257), torch.arange(1257, 1527)
    model = timm.create_model("resnet18", num_classes=10).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def batch(chosen: Any) -> Any:
        inputs = images[chosen].float().expand(-1, 3, -1, -1).div(255).sub(0.3).div(0.35)
        return inputs.to(device), labels[chosen].to(device)

    for _ in range(epochs):
        model.train()
        for chosen in train[torch.randperm(len(train))].split(BATCH)[: len(train) // BATCH]:
            inputs, targets = batch(chosen)
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        model.eval()
        with torch.no_grad():
            for chosen in val.split(BATCH):
                model(batch(chosen)[0]).argmax(1).tolist()


def child(kind: str, arguments: list[str]) -> None:
    """Do one thing in this process, and say at the end what it took."""
    found: dict[str, Any] = {}
    if kind == "imports":
        for name in arguments:
            __import__(name)
            found[name] = peak()
    elif kind in ("bare", "slim"):
        bare(int(arguments[0]), slim=kind == "slim")
    else:
        sys.argv = ["lwexp.run", *arguments]
        runpy.run_module("lwexp.run", run_name="__main__", alter_sys=True)
    import torch

    found |= {"peak": peak(), "modules": sorted(sys.modules), "gpu": torch.cuda.max_memory_allocated() / 2**20}
    Path(os.environ["MEMORY_REPORT"]).write_text(json.dumps(found), encoding="utf-8")


def measured(kind: str, *arguments: str) -> dict[str, Any]:
    """What a child process of this `kind` reports, and the peak of the processes that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--child", kind, *arguments]
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "MEMORY_REPORT": str(report)}, stdout=subprocess.DEVNULL
        )
        others: dict[str, float] = {}
        while process.poll() is None:
            for pid in descendants(process.pid):
                try:
                    others[pid] = peak(pid)
                except (OSError, IndexError):  # has just ended
                    continue
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
        return {**json.loads(report.read_text(encoding="utf-8")), "delivery": max(others.values(), default=0.0)}


def descendants(pid: int | str) -> list[str]:
    """Process ids of what `pid` has started, and what these have."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return children + [other for child in children for other in descendants(child)]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    print(machine(), flush=True)
    seen: dict[str, list[dict[str, Any]]] = {"bare loop": [], "slim": [], "lwexp": []}

    def once(name: str, *command: str) -> float:
        seen[name].append(measured(*command))
        return float(seen[name][-1]["peak"])

    peaks = interleave(
        {
            "bare loop": lambda: once("bare loop", "bare", str(options.epochs)),
            "slim": lambda: once("slim", "slim", str(options.epochs)),
            "lwexp": lambda: once("lwexp", "run", *RUN, f"epochs={options.epochs}", *options.overrides),
        },
        options.repeats,
    )
    rows = []
    for name, found in peaks.items():
        last = seen[name][-1]
        imports = measured("imports", *[module for module in last["modules"] if importable(module)])["peak"]
        rows.append(
            [
                name,
                cell(spread(found), 0),
                cell(ratio(found, peaks["bare loop"]), 3),
                f"{imports:.0f}",
                f"{spread(found).median - imports:.0f}",
                f"{last['delivery']:.0f}",
                f"{last['gpu']:.0f}",
            ]
        )
    print(table(["process", "peak (quartiles)", "ratio", "of imports", "its own", "delivery", "GPU"], rows))
    steps = measured("imports", *IMPORTS)
    before = 0.0
    rows = []
    for name in IMPORTS:
        rows.append([name, f"{steps[name] - before:.0f}", f"{steps[name]:.0f}"])
        before = steps[name]
    print()
    print(table(["import", "adds", "in all"], rows))


def importable(module: str) -> bool:
    """Whether a module can be imported by its name alone: top-level packages, and those of ours and of the data."""
    return module.partition(".")[0] in {name.partition(".")[0] for name in IMPORTS} and "._" not in module


if __name__ == "__main__":
    main()
