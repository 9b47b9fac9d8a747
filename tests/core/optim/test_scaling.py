"""Gradient scalers and the frameworks around them find torch's default optimizer in that of a plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lwexp import make_plan
from tests.helpers.optimizer_pairs import CONFIGS, SGD, Net, Twins


@pytest.fixture(autouse=True)
def _quiet_sparse() -> Iterator[None]:
    """torch 2.14 warns unless someone has said whether sparse tensors are checked."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


@pytest.mark.parametrize("ask", [{}, {"fused": True}], ids=["chosen", "asked"])
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize(("name", "options"), CONFIGS[:4])
def test_momentum_starts_at_the_first_step_that_is_taken(
    name: str, options: dict[str, Any], unscale: bool, ask: dict[str, Any]
) -> None:
    """The GradScaler's first steps overflow, as is usual in fp16; so does one later."""
    twins = Twins(name, options)
    if ask:
        twins.optimizers[0] = make_plan(twins.models[0], grouping="per_parameter", lr=0.5, mult=0.5).optimizer(
            name, **options, **ask
        )
    junk = [torch.full_like(p, 1e30) for p in twins.models[0].parameters() for _ in range(20)]
    del junk  # what uninitialized memory will hold
    for seed, overflow in enumerate([True, True, False, True, False, False]):
        twins.scaled_step(seed, overflow, unscale)
    twins.check()


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("ask", [{}, {"fused": True}], ids=["chosen", "asked"])
def test_a_parameter_whose_first_gradient_comes_late_starts_then(unscale: bool, ask: dict[str, Any]) -> None:
    twins = Twins("sgd", SGD)
    plan = make_plan(twins.models[0], lr=0.5, mult=1.0)  # two parameters in one group
    twins.optimizers = [
        plan.optimizer("sgd", **SGD, **ask),
        torch.optim.SGD(twins.models[1].parameters(), lr=0.5, **SGD),
    ]
    late = ["body.bias", "embed.weight"]
    for seed, (overflow, missing) in enumerate([(True, late), (False, late), (True, []), (False, []), (False, [])]):
        twins.scaled_step(seed, overflow, unscale, missing)
    for ours, theirs in zip(*(model.parameters() for model in twins.models), strict=True):
        assert torch.equal(ours, theirs)


class Precision:
    """As Lightning's plugin for mixed precision and Accelerate's optimizer use a GradScaler."""

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self.scaler = scaler
        self.skipped = False

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, clip: float) -> None:
        handles_unscaling = getattr(optimizer, "_step_supports_amp_scaling", False)
        if handles_unscaling:
            raise RuntimeError(f"{type(optimizer).__name__} does not allow for gradient clipping")
        if self.scaler is None:
            nn.utils.clip_grad_value_(model.parameters(), clip)
            optimizer.step()
            return
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_value_(model.parameters(), clip)
        called = []
        handle = optimizer.register_step_pre_hook(lambda *_: called.append(1))
        self.scaler.step(optimizer)
        handle.remove()
        self.scaler.update(8.0)
        self.skipped = not called


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_frameworks_clip_and_skip_as_with_torchs_default(name: str, options: dict[str, Any], precision: str) -> None:
    twins = Twins(name, options)
    plugins = [Precision(scaler if precision == "16-mixed" else None) for scaler in twins.scalers]
    for seed, overflow in enumerate([precision == "16-mixed", False, precision == "16-mixed", False]):
        twins.gradients(seed, 8.0)
        for model, optimizer, plugin in zip(twins.models, twins.optimizers, plugins, strict=True):
            if plugin.scaler is not None:
                plugin.scaler.scale(torch.ones(()))
            if overflow:
                model.body.weight.grad[0, 0] = torch.inf  # type: ignore[index, union-attr]
            plugin.step(model, optimizer, clip=0.5)
            assert plugin.skipped == overflow
    twins.check_close_or_equal()


def test_an_optimizer_that_did_not_ask_for_fused_is_treated_as_torchs_default() -> None:
    """A scaler must not call its step where gradients overflow: Lightning refuses to clip otherwise, Accelerate looks
    whether it was called."""
    for name in ("sgd", "adam", "adamw"):
        twins = Twins(name, {})
        calls: list[int] = []
        twins.optimizers[0].register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        for seed, overflow in enumerate([True, False, True]):
            twins.scaled_step(seed, overflow)
        assert len(calls) == 1
        assert not getattr(twins.optimizers[0], "_step_supports_amp_scaling", False)
        asked = make_plan(Net()).optimizer(name, fused=True)
        assert asked._step_supports_amp_scaling  # type: ignore[attr-defined]


def test_sparse_gradients_with_a_scaler_where_fused_was_asked_for() -> None:
    twins = Twins("sgd", {}, sparse=True)
    twins.optimizers[0] = make_plan(twins.models[0], grouping="per_parameter", lr=0.5, mult=0.5).optimizer(
        "sgd", fused=True
    )
    for overflow in (False, True, False):
        twins.gradients(1, 8.0)
        for model, optimizer, scaler in zip(twins.models, twins.optimizers, twins.scalers, strict=True):
            model.embed.weight.grad = None
            scaler.scale(model.embed(torch.tensor([1, 2])).sum()).backward()  # type: ignore[operator]
            if overflow:
                model.body.weight.grad[0, 0] = torch.inf  # type: ignore[index, union-attr]
            scaler.step(optimizer)
            scaler.update(8.0)
    twins.check()
