"""Plan, optimizer and scheduler in an environment where torch and its dependencies are all that is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import ROOT

SCRIPT = r"""
import importlib.metadata as metadata, pickle, re, sys

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

def depends(name, found):
    if name not in found:
        found.add(name)
        for line in installed[name].requires or ():
            wanted = canonical(re.match(r"[\w.-]+", line)[0])
            if "extra ==" not in line and wanted in installed:
                depends(wanted, found)
    return found

installed = {canonical(each.metadata["Name"]): each for each in metadata.distributions()}
names = depends("torch", set())
owners = {module: {*map(canonical, owners)} for module, owners in metadata.packages_distributions().items()}
blocked = {module for module, own in owners.items() if not own & (names | {"lwexp"})}

class OnlyTorch:  # torch itself asks whether some packages are there: they are not found, and nothing is raised
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        found = () if name.partition(".")[0] in blocked else self.finders
        return next(filter(None, (finder.find_spec(name, path, target) for finder in found)), None)

assert blocked >= {"numpy", "timm", "hydra", "mlflow", "matplotlib", "pydantic"}, blocked
sys.meta_path[:] = [OnlyTorch([*sys.meta_path])]
sys.path.insert(0, ROOT)

import lwexp
from pathlib import Path
assert Path(lwexp.__file__).is_relative_to(ROOT), lwexp.__file__
import torch
from torch import nn

layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)]
model = nn.Sequential(*layers)
for settings in (
    {"grouping": "per_parameter"}, {"grouping": "depth_index"}, {"decay": "cosine", "freeze": ["0"]},
    {"grouping": "by_name", "grouping_options": {"patterns": {"head": "4", "rest": "*"}}},
):
    plan = lwexp.make_plan(model, lr=0.1, **settings)
    print(plan, repr(plan), plan.rows(), plan.to_csv(), plan.to_markdown(), file=sys.stderr)
    assert lwexp.Plan.from_json(plan.to_json()).bind(model).diff(plan) == ""
    assert "<table>" in plan._repr_html_()
    for name in ("adam", "adamw", "sgd", "rmsprop"):
        optimizer = plan.optimizer(name)
        scheduler = plan.scheduler(optimizer, "cosine", steps=3, warmup_steps=1)
        table = plan.lr_table("cosine", steps=3, warmup_steps=1)
        for step in range(3):
            assert scheduler.rates() == table[step].tolist()
            model(torch.randn(2, 1, 8, 8)).square().mean().backward()
            optimizer.step()
            scheduler.step()
        repr(pickle.loads(pickle.dumps(scheduler)))
try:
    plan.optimizer("lamb")
except lwexp.ConfigError as error:
    print(error)
try:
    lwexp.plot
except ImportError as error:
    print(error)
"""


def test_plan_optimizer_and_scheduler_need_torch_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", f"ROOT = {str(ROOT)!r}\n{SCRIPT}"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    optimizer, plot = done.stdout.splitlines()
    assert optimizer.startswith(
        "optimizer=lamb: no such optimizer of torch, and timm, which has more, is not installed"
    )
    assert plot == "lwexp.plot needs matplotlib, which is not installed; pip install lwexp brings it"
