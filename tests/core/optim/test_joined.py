"""Many groups move together as one by one, but for rounding: on a GPU, and on the CPU if told to do the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as searched
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lwexp import make_plan
from lwexp.core.optim import joined
from tests.core.optim.test_fused import CASES, OPERATIONS
from tests.helpers.optimizer_pairs import Pair

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
Case = tuple[type[torch.optim.Optimizer], dict[str, Any]]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups are joined everywhere, be they few, in batches of 2,000 elements: one parameter of a pair is larger."""
    monkeypatch.setattr(joined, "DEVICES", frozenset({"cpu", "cuda"}))
    monkeypatch.setattr(joined, "FEW_GROUPS", 1)
    monkeypatch.setattr(joined, "ELEMENTS", 2000)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU, id="gpu")])
def device(request: pytest.FixtureRequest, small_batches: None) -> str:
    return request.param  # type: ignore[no-any-return]


class Kernels(TorchDispatchMode):
    """Counts calls of fused kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += "_fused_" in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return self.counts.total()


def check(pair: Pair, options: dict[str, Any]) -> None:
    """State as torch's; parameters but for the rounding of a product."""
    for p, q in pair.parameters():
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    ours, theirs = pair.ours.state_dict(), pair.theirs.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    coupled = options.get("weight_decay") and not isinstance(pair.theirs, torch.optim.AdamW)
    for i, entry in ours["state"].items():
        for name, value in entry.items():
            expected = theirs["state"][i][name]
            if coupled:  # the gradient has the parameter in it
                torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
            else:
                assert torch.equal(value, expected)


@pytest.mark.parametrize(("kind", "options"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_end_with_torchs_numbers(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype, device: str
) -> None:
    pair = Pair(kind, options, dtype, device)
    pair.step(100)
    check(pair, options)


@pytest.mark.parametrize(("name", "options"), [("adam", {}), ("adamw", {}), ("sgd", {"momentum": 0.9}), ("sgd", {})])
def test_a_hundred_groups_take_a_call_for_each_batch(device: str, name: str, options: dict[str, Any]) -> None:
    model = nn.Sequential(*(nn.Linear(10, 10) for _ in range(50))).to(device)  # 100 tensors, 5,500 elements
    plan = make_plan(model, grouping="per_parameter", mult=0.9, weight_decay=0.01 if name == "adamw" else 0.0)
    optimizer = plan.optimizer(name, **options)
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with Kernels() as kernels:
            optimizer.step()
    assert kernels.total == 3


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_skipped_step_moves_nothing(kind: type[torch.optim.Optimizer], options: dict[str, Any], device: str) -> None:
    """As a GradScaler, or a training whose loss is not finite, tells the kernel on the device."""
    pair = Pair(kind, options, torch.float32, device)
    pair.step(3)
    for bad in (False, True, True, False):
        pair.set_gradients()
        if bad:
            for parameter in (p for both in pair.parameters() for p in both):
                parameter.grad.fill_(torch.inf)  # type: ignore[union-attr]
        before = [p.detach().clone() for p, _ in pair.parameters()]
        for each in pair.both:
            each.found_inf = torch.full((), float(bad), device=device)  # type: ignore[attr-defined]
            each.step()
            del each.found_inf  # type: ignore[attr-defined]
        assert all(torch.equal(p, old) == bad for (p, _), old in zip(pair.parameters(), before, strict=True))
        check(pair, options)
    pair.step(3)
    check(pair, options)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_gradient_scaler_unscales(kind: type[torch.optim.Optimizer], options: dict[str, Any], device: str) -> None:
    pair = Pair(kind, options, torch.float32, device)
    pair.step(3)
    scalers = [torch.amp.GradScaler(device, init_scale=8.0) for _ in pair.both]
    for _ in range(3):
        pair.set_gradients()
        for scaler, each in zip(scalers, pair.both, strict=True):
            scaler.scale(torch.ones((), device=device))
            for group in each.param_groups:
                for p in group["params"]:
                    p.grad *= 8.0
            scaler.step(each)
            scaler.update()
    check(pair, options)


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_tensors_in_another_order_in_memory(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], device: str
) -> None:
    pair = Pair(kind, options, torch.float32, device)
    for p, q in pair.parameters():
        if p.ndim == 4:
            for each in (p, q):
                each.data = each.data.contiguous(memory_format=torch.channels_last)
    for _ in range(5):
        pair.set_gradients()
        for p, q in pair.parameters():
            if p.ndim == 4:
                for each in (p, q):
                    each.grad = each.grad.contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
        for optimizer in pair.both:
            optimizer.step()
    check(pair, options)


@pytest.mark.usefixtures("small_batches")
@searched(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from([case for case in CASES if "momentum" not in case[1]]),
    names=st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=8),
)
def test_whatever_is_done_in_between_the_numbers_are_torchs(case: Case, names: list[str]) -> None:
    kind, options = case
    pair = Pair(kind, options, torch.float32)
    for name in names:
        OPERATIONS[name](pair)
    pair.step(2)
    for p, q in pair.parameters():
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_state_goes_from_torch_to_us_and_back(device: str) -> None:
    for kind, options in CASES:
        pair = Pair(kind, options, torch.float32, device)
        pair.step(5)
        ours, theirs = pair.ours.state_dict(), pair.theirs.state_dict()
        pair.ours.load_state_dict(theirs)
        pair.theirs.load_state_dict(ours)
        pair.step(5)
        check(pair, options)


def test_a_skipped_step_is_forgotten_when_the_decay_ends(device: str) -> None:
    """Decay needs a mask, which nothing may read later."""
    pair = Pair(torch.optim.AdamW, {}, torch.float32, device)
    pair.step(2)
    for bad in (True, False):
        pair.set_gradients()
        for each in pair.both:
            each.found_inf = torch.full((), float(bad), device=device)  # type: ignore[attr-defined]
            each.step()
            del each.found_inf  # type: ignore[attr-defined]
            for group in each.param_groups:
                group["weight_decay"] = 0.0
    check(pair, {})


def test_a_rate_of_0_leaves_every_bit(device: str) -> None:
    pair = Pair(torch.optim.AdamW, {}, torch.float32, device)
    pair.step(2)
    for group in pair.ours.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p, _ in pair.parameters()]
    pair.set_gradients()
    pair.ours.step()
    assert all(torch.equal(p, old) for (p, _), old in zip(pair.parameters(), before, strict=True))
