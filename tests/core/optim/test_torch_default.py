"""What torch's default optimizer does where its fused kernel fails or is wrong, the plan's optimizer does too.

Over 1,000 steps the reference is torch's own optimizer, fused in the groups where the kernel is right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lwexp import make_plan
from tests.helpers.optimizer_pairs import CONFIGS, SGD, Net, Pair, Twins


@pytest.fixture(autouse=True)
def _quiet_sparse() -> Iterator[None]:
    """torch 2.14 warns unless someone has said whether sparse tensors are checked."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def hand_set(twins: Twins, change: Callable[[Tensor], Tensor]) -> None:
    """Each gradient replaced by an equal one in another order in memory."""
    for model in twins.models:
        for p in model.parameters():
            if p.grad is not None:
                p.grad = change(p.grad)


def transposed(t: Tensor) -> Tensor:
    return t.t().contiguous().t() if t.ndim == 2 else t


def with_gaps(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, 7.0)], -1)[..., 0]


def repeated(t: Tensor) -> Tensor:
    return t.reshape(-1)[:1].clone().expand(t.shape) if t.ndim == 1 else t


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


@pytest.mark.parametrize("change", [channels_last, transposed, with_gaps, repeated])
@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_gradients_set_by_hand_may_be_in_any_order_in_memory(
    name: str, options: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> None:
    twins = Twins(name, options)
    for seed in range(6):
        twins.gradients(seed)
        if seed in (2, 3, 5):
            hand_set(twins, change)
        for optimizer in twins.optimizers:
            optimizer.step()
    twins.check_close_or_equal()


@pytest.mark.parametrize("change", [channels_last, transposed, with_gaps])
@pytest.mark.parametrize("what", ["model", "state", "model and state"])
@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_model_and_state_may_change_their_order_in_memory_between_steps(
    name: str, options: dict[str, Any], what: str, change: Callable[[Tensor], Tensor]
) -> None:
    twins = Twins(name, options)
    for seed in range(6):
        if seed in (2, 4):
            back = (lambda t: t.contiguous()) if seed == 4 else change
            for model, optimizer in zip(twins.models, twins.optimizers, strict=True):
                for p in model.parameters():
                    if "model" in what:
                        p.data = back(p.data)
                    for value in optimizer.state[p].values() if "state" in what else ():
                        value.data = back(value.data) if value.ndim > 1 else value
        twins.step(seed)
    twins.check_close_or_equal()


def exchange(optimizer: torch.optim.Optimizer, change: Callable[[Tensor], Tensor]) -> None:
    for entry in optimizer.state.values():
        for key, value in entry.items():
            entry[key] = change(value)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.to("meta").new_empty(0).new_tensor(t.tolist(), device="cpu") if t.ndim else t.clone(),  # moved
        torch.zeros_like,
        lambda t: t * 2 if t.ndim else t,
        lambda t: t.clone() + 3 if not t.ndim else t,  # the counters
    ],
    ids=["moved", "reset", "scaled", "counted"],
)
@pytest.mark.parametrize(("name", "options"), CONFIGS[1:])
def test_tensors_exchanged_inside_the_state_count(
    name: str, options: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> None:
    twins = Twins(name, options)
    for seed in range(8):
        if seed in (2, 5):
            for optimizer in twins.optimizers:
                exchange(optimizer, change)
        twins.step(seed)
    twins.check_close_or_equal()
    for p in twins.models[0].parameters():  # what the state holds is what moves
        before = {key: value.clone() for key, value in twins.optimizers[0].state[p].items()}
        twins.step(9)
        assert all(not torch.equal(value, before[key]) for key, value in twins.optimizers[0].state[p].items())
        break


@pytest.mark.parametrize("key", ["step", "exp_avg"])
def test_a_single_equal_number_exchanged_in_the_state_counts(key: str) -> None:
    """Equal by value to what it replaces, so that only its identity tells."""
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = make_plan(torch.nn.ParameterList([p])).optimizer("adam")
    p.grad = torch.ones(1)
    for _ in range(3):
        optimizer.step()
    before = optimizer.state[p][key].clone()
    optimizer.state[p][key] = before.clone()
    optimizer.step()
    assert not torch.equal(optimizer.state[p][key], before)


def test_a_parameter_of_one_number_exchanged_in_its_group_counts() -> None:
    made = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = make_plan(torch.nn.ParameterList(made[:1])).optimizer("sgd")
    for p in made:
        p.grad = torch.ones(1)
    optimizer.step()
    before = made[0].item()
    made[1].data.fill_(before)
    optimizer.param_groups[0]["params"][0] = made[1]
    optimizer.step()
    assert made[0].item() == before
    assert made[1].item() < before


@pytest.mark.parametrize(
    ("option", "values"), [("weight_decay", (0.1, 0.3, 0.0)), ("betas", ((0.5, 0.9), (0.8, 0.99)))]
)
def test_options_may_change_at_any_step(option: str, values: tuple[Any, ...]) -> None:
    pair = Pair(torch.optim.AdamW, {}, torch.float32)
    for step in range(9):
        for each in pair.both:
            each.param_groups[step % 4][option] = values[step % len(values)]
        pair.step()
    pair.check()


@pytest.mark.parametrize(("key", "value"), [("momentum_buffer", None), ("momentum_buffer", "deleted")])
def test_momentum_that_is_taken_away_starts_again(key: str, value: str | None) -> None:
    twins = Twins("sgd", SGD)
    for seed in range(6):
        if seed == 3:
            for model, optimizer in zip(twins.models, twins.optimizers, strict=True):
                entry = optimizer.state[model.body.weight]
                if value is None:
                    entry[key] = None
                else:
                    del entry[key]
        twins.step(seed)
    twins.check()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("name", "options"), [CONFIGS[0], CONFIGS[1], CONFIGS[3], ("adagrad", {})])
def test_sparse_gradients_go_torchs_way(name: str, options: dict[str, Any], scaled: bool) -> None:
    """Also where they come late, and with a scaler."""
    twins = Twins(name, options, sparse=True)
    for seed in range(5):
        twins.gradients(seed, 8.0 if scaled else 1.0)
        for model, optimizer, scaler in zip(twins.models, twins.optimizers, twins.scalers, strict=True):
            model.embed.weight.grad = None
            if seed:
                scores = model.embed(torch.tensor([1, seed % 4, 1])).sum()  # type: ignore[operator]
                (scaler.scale(scores) if scaled else scores).backward()
            if scaled:
                scaler.scale(torch.ones(()))
                scaler.step(optimizer)
                scaler.update(8.0)
            else:
                optimizer.step()
    twins.check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_half_precision_on_the_cpu(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """torch 2.6 to 2.13: torch's own fused SGD kernel is wrong there."""
    if name != "sgd":
        options = {**options, "eps": 2**-8}  # the default rounds to 0 in float16
    twins = Twins(name, options, dtype=dtype)
    for seed in range(3):
        twins.step(seed)
    for ours, theirs in zip(*(model.parameters() for model in twins.models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)  # torch's default rounds more often


THOUSAND: dict[str, Callable[[Pair, int], None]] = {}


def every(name: str) -> Callable[[Callable[[Pair, int], None]], Callable[[Pair, int], None]]:
    def add(function: Callable[[Pair, int], None]) -> Callable[[Pair, int], None]:
        THOUSAND[name] = function
        return function

    return add


@every("overflow first")
def _overflow(pair: Pair, step: int) -> None:
    """Ours steps where the scaler finds infinity, torch's is not even called."""
    if step < 2 or step % 100 == 50:
        pair.set_gradients()
        pair.ours.found_inf = torch.ones(())  # type: ignore[attr-defined]
        pair.ours.step()
        del pair.ours.found_inf  # type: ignore[attr-defined]


@every("order in memory")
def _order(pair: Pair, step: int) -> None:
    if step == 500:
        for p, q in pair.parameters():
            p.data, q.data = channels_last(p.data), channels_last(q.data)
        for group in pair.theirs.param_groups:
            if any(p.ndim == 4 for p in group["params"]):
                group["fused"] = None


@every("state exchanged")
def _exchange(pair: Pair, step: int) -> None:
    if step % 90 == 89:
        for optimizer in pair.both:
            exchange(optimizer, lambda t: copy.deepcopy(t) if t.ndim else t.clone())
    if step % 200 == 199:
        for optimizer in pair.both:
            exchange(optimizer, torch.zeros_like)


@pytest.mark.parametrize("case", THOUSAND)
@pytest.mark.parametrize(("kind", "options"), [
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"amsgrad": True}),
])  # fmt: skip
def test_a_thousand_steps_end_with_torchs_numbers(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], case: str
) -> None:
    pair = Pair(kind, options, torch.float32)
    for step in range(1000):
        THOUSAND[case](pair, step)
        pair.step()
    for group in pair.theirs.param_groups:
        group["fused"] = True
    pair.check()


def test_a_thousand_steps_with_sparse_gradients_end_with_torchs_numbers() -> None:
    """torch's fused step in the groups that are dense, its default in the one that is not."""
    models = [Net(sparse=True) for _ in range(2)]
    plans = [make_plan(model, lr=0.01, mult=0.9) for model in models]
    groups = [{**group, "fused": group["name"] != "embed" or None} for group in plans[1].param_groups()]
    optimizers = [plans[0].optimizer("sgd", momentum=0.9), torch.optim.SGD(groups, momentum=0.9)]
    random = torch.Generator().manual_seed(0)
    for _ in range(1000):
        gradients = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in models[0].parameters()]
        for model, optimizer in zip(models, optimizers, strict=True):
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            model.embed.weight.grad = gradients[0].to_sparse(1)
            optimizer.step()
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(ours, theirs)
