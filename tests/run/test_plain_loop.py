"""The plain loop that checks the study: it learns, and the layers that it lists by hand are those of the plan."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import lwexp

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "plain_loop.py"


@pytest.fixture
def loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_loop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resnet18() -> nn.Module:
    return timm.create_model("resnet18", num_classes=5, in_chans=1)


def mobilenet() -> nn.Module:
    return timm.create_model("mobilenetv2_100", num_classes=10, pad_type="same")


@pytest.mark.parametrize(("task", "make"), [("digits", resnet18), ("clothing", mobilenet)])
def test_its_layers_are_those_of_the_plan(task: str, make: type[nn.Module], loop: ModuleType) -> None:
    model = make()
    plan = lwexp.make_plan(model, grouping="depth_index", mult=0.7)
    names = [name for name, _ in model.named_parameters()]
    own = [
        {name for name in names if name.startswith(tuple(f"{p}." for p in prefixes))} for prefixes in loop.LAYERS[task]
    ]
    assert own == [set(group.parameter_names) for group in plan.groups]


def test_it_trains_from_weights_of_a_file(
    loop: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=3, in_chans=1).state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setitem(loop.EPOCHS, "digits", 12)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    loop.main(["digits", "--weights", str(tmp_path / "w.safetensors"), "--arm", "1e-3", "1", "--seeds", "1"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("lr=0.001 mult=1: test accuracy ")
    assert float(line.split()[4]) > 30, "five classes"
