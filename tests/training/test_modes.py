"""Which running statistics `freeze_stats` keeps."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations

from lwexp.training.modes import frozen_norms
from tests.helpers.commands import RunHere


class OneMoment(nn.Module):
    """As timm's EvoNorm: a variance only."""

    running_var: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.running_var.lerp_(x.detach().var((0, 2, 3)), 0.1)
        return x * self.weight.view(1, -1, 1, 1) / self.running_var.sqrt().view(1, -1, 1, 1)


class Norms(nn.Module):
    """A frozen and a trained half with every kind of norm, and dropout within one."""

    def __init__(self, in_chans: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.whiten = nn.BatchNorm2d(in_chans, affine=False)  # before the first layer, and belongs to it
        self.body, self.top = half(in_chans), half(4)
        self.between = nn.BatchNorm2d(4, affine=False)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.top(self.body(self.whiten(x)))
        return self.head(self.between(x).mean((2, 3)))


def half(channels: int) -> nn.Sequential:
    from timm.layers import BatchNormAct2d

    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, 4, 3),
            bare=nn.BatchNorm2d(4, affine=False),
            instance=nn.InstanceNorm2d(4, track_running_stats=True),
            timm=BatchNormAct2d(4, affine=False, drop_layer=nn.Dropout),
            wrapped=nn.Sequential(nn.BatchNorm2d(4, affine=False)),
            moment=OneMoment(4),
            usual=nn.BatchNorm2d(4),
        )
    )


@pytest.mark.parametrize("mode", ["requires_grad", "lr_zero"])
def test_every_kind_of_frozen_norm_keeps_its_statistics(mode: str, lwexp_here: RunHere, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = ["model=custom", "model._target_=tests.training.test_modes.Norms", "data.image_size=8", "tracking=none",
               "progress=false", "max_steps=2", "freeze=[body]", f"freeze_mode={mode}"]  # fmt: skip
    outcome = lwexp_here("run", *options, "freeze_stats=true", "hydra.run.dir=here")
    assert outcome.code == 0, outcome.err
    end, fresh = load_file(tmp_path / "here" / "model.safetensors"), Norms().state_dict()
    moved = {n.rpartition(".")[0] for n in fresh if "running" in n and not torch.equal(end[n], fresh[n])}
    trained = {f"top.{name}" for name in ("bare", "instance", "timm", "wrapped.0", "moment", "usual")}
    assert moved == {*trained, "between"}


def kept(model: nn.Module, *frozen: str) -> set[str]:
    names = [name for name, _ in model.named_parameters() if name.startswith(frozen)]
    found = frozen_norms(model, names)
    return {name for name, module in model.named_modules() if any(module is norm for norm in found)}


def test_a_norm_without_parameters_follows_the_layer_before_it_else_after_it() -> None:
    def block() -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                pre=nn.BatchNorm1d(3, affine=False),
                one=nn.Linear(3, 3),
                mid=nn.BatchNorm1d(3, affine=False),
                two=nn.Linear(3, 3),
                post=nn.BatchNorm1d(3, affine=False),
            )
        )

    model = nn.Sequential(OrderedDict(a=block(), b=block()))
    assert kept(model, "a.one") == {"a.pre", "a.mid"}
    assert kept(model, "a.two") == {"a.post"}
    assert kept(model, "a") == {"a.pre", "a.mid", "a.post"}
    assert kept(model, "a", "b") == {f"{name}.{part}" for name in "ab" for part in ("pre", "mid", "post")}
    assert kept(model, "nothing") == kept(nn.Sequential(nn.BatchNorm1d(3, affine=False)), "") == set()


def test_a_norm_is_frozen_by_all_of_its_own_parameters() -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(3, 3), norm=nn.BatchNorm1d(3), b=nn.Linear(3, 3)))
    assert kept(model, "a", "b") == kept(model, "a", "norm.weight") == set()
    assert kept(model, "norm") == {"norm"}
    model.norm.inner = parametrizations.weight_norm(nn.Linear(3, 3))  # its parameters lie below it
    assert kept(model, "norm") == {"norm"}
    assert kept(model, "norm.weight", "norm.bias") == set()


def test_freeze_stats_without_any_such_norm_is_noted(lwexp_here: RunHere) -> None:
    outcome = lwexp_here("preview", "model=lstm", "data.image_size=8", "freeze=[lstm]", "freeze_stats=true")
    assert outcome.code == 0, outcome.err
    assert "freeze_stats=true changes nothing: nothing frozen has running statistics" in outcome.out
