"""Muon for hidden matrices and AdamW for the rest, as one optimizer of one plan."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from lwexp import ConfigError, Plan, make_plan

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 brings Muon")


class Net(nn.Module):
    """Convolutions, an embedding, a norm, hidden matrices and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3)
        self.conv = nn.Conv2d(4, 6, 3)
        self.words = nn.Embedding(7, 6)
        self.body = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)


HIDDEN = {"conv.weight", "body.0.weight", "body.1.weight"}


def pair(**options: Any) -> tuple[Net, Plan, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    plan = make_plan(model, lr=0.02, mult=0.5).for_muon(adamw_lr=0.001)
    return model, plan, plan.optimizer("muon", **options)


def gradients(model: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=random)


def test_both_have_their_base_rate_under_the_plans_scales_and_one_policy() -> None:
    model, plan, optimizer = pair()
    uniform = make_plan(model, lr=0.02, mult=0.5)
    scales = {name: g.scale for g in uniform for name in g.parameter_names}
    names = {id(p): name for name, p in model.named_parameters()}
    scheduler = plan.scheduler(optimizer, "cosine", steps=10)
    for step in range(4):
        factor = uniform.lr_table("cosine", steps=10)[step, 0].item() / 0.02
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = names[id(p)]
                assert group["use_muon"] == (name in HIDDEN)
                assert group["lr"] == pytest.approx((0.02 if name in HIDDEN else 0.001) * scales[name] * factor)
        gradients(model, step)
        optimizer.step()
        scheduler.step()
    assert len({group["name"] for group in optimizer.param_groups}) == len(optimizer.param_groups)
    assert plan.uniform == uniform.uniform is False
    assert make_plan(model, mult=1.0).for_muon(adamw_lr=3e-4).uniform
    assert Plan.from_json(plan.to_json()).hash == plan.hash


def test_steps_are_those_of_torchs_muon_and_adamw() -> None:
    """Filters as matrices; `original` is the adjustment of torch's default."""
    model, plan, optimizer = pair(adjust_lr_fn="original", weight_decay=0.1)
    twin = copy.deepcopy(model)
    rates = {name: g.lr for g in plan for name in g.parameter_names}
    flat = {name: nn.Parameter(p.detach().flatten(1).clone()) for name, p in twin.named_parameters() if name in HIDDEN}
    others = {name: p for name, p in twin.named_parameters() if name not in HIDDEN}
    muon = torch.optim.Muon([{"params": [p], "lr": rates[name]} for name, p in flat.items()], weight_decay=0.1)
    adamw = torch.optim.AdamW(
        [{"params": [p], "lr": rates[name]} for name, p in others.items()],
        weight_decay=0.1, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    for step in range(20):
        gradients(model, step)
        gradients(twin, step)
        for name, p in twin.named_parameters():
            if name in flat:
                assert p.grad is not None
                flat[name].grad = p.grad.flatten(1)
        for each in (optimizer, muon, adamw):
            each.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, flat[name].view_as(p) if name in flat else others[name]), name


def test_filters_in_another_order_in_memory_get_the_same_numbers() -> None:
    ends = []
    for when in (None, 0, 2):
        model, _, optimizer = pair()
        for step in range(5):
            if step == when:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            gradients(model, step)
            optimizer.step()
        ends.append([p.detach().contiguous() for p in model.parameters()])
    for end in ends[1:]:
        assert all(torch.equal(p, q) for p, q in zip(ends[0], end, strict=True))


@pytest.mark.parametrize("way", ["state_dict", "by name", "pickle", "deepcopy"])
def test_a_saved_pair_goes_on_bit_for_bit(way: str) -> None:
    model, plan, optimizer = pair()
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    scheduler = plan.scheduler(optimizer, "cosine", steps=20)
    optimizer.step()
    scheduler.step()
    if way in ("pickle", "deepcopy"):
        both = (model, scheduler)
        other, scheduler2 = pickle.loads(pickle.dumps(both)) if way == "pickle" else copy.deepcopy(both)
        second = scheduler2.optimizer
    else:
        other = copy.deepcopy(model)
        bound = plan.bind(other)
        second = bound.optimizer("muon")
        if way == "state_dict":
            second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        else:
            assert not any(bound.load_optimizer_state(second, copy.deepcopy(plan.optimizer_state(optimizer))))
        scheduler2 = bound.scheduler(second, "cosine", steps=20)
        scheduler2.load_state_dict(scheduler.state_dict())
    for step in range(3, 8):
        for each, stepped, rates in ((model, optimizer, scheduler), (other, second, scheduler2)):
            gradients(each, step)
            stepped.step()
            rates.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert scheduler.rates() == scheduler2.rates()


def test_a_scaler_skips_the_steps_of_both() -> None:
    model, _, optimizer = pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for bad in (True, False):
        before = [p.detach().clone() for p in model.parameters()]
        gradients(model, 0)
        scaler.scale(torch.ones(()))
        if bad:
            model.conv.weight.grad[0, 0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(p, q) == bad for p, q in zip(model.parameters(), before, strict=True))


def test_hooks_run_once_and_closures_return_their_loss() -> None:
    model, _, optimizer = pair()
    seen: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: seen.append(1))
    try:
        gradients(model, 0)
        assert optimizer.step(lambda: 3.0) == 3.0
    finally:
        handle.remove()
    assert seen == [1]
    optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(2))], "name": "extra", "lr": 0.1})
    extra.grad = torch.ones(2)
    optimizer.step()
    assert (extra < 1).all()


def test_one_rate_for_both_without_a_second_one() -> None:
    model = Net()
    plan = make_plan(model, lr=0.02, mult=0.5)
    optimizer = plan.optimizer("muon")
    rates = {id(p): g["lr"] for g in plan.param_groups() for p in g["params"]}
    assert all(group["lr"] == rates[id(p)] for group in optimizer.param_groups for p in group["params"])
    scheduler = plan.scheduler(optimizer, "linear", steps=5)
    assert scheduler.rates() == plan.lr_table("linear", steps=5)[0].tolist()


def test_patterns_give_more_to_adamw_and_keep_absolute_rates() -> None:
    model = Net()
    plan = make_plan(model, lr=0.02, lr_overrides={"head": 0.5}).for_muon(0.001, "body.0", keep=["head"])
    assert plan["head"].lr == 0.5
    groups = plan.optimizer("muon").param_groups
    muon = {id(p) for group in groups for p in group["params"] if group["use_muon"]}
    assert {name for name, p in model.named_parameters() if id(p) in muon} == HIDDEN - {"body.0.weight"}


def test_mistakes() -> None:
    model = Net()
    plan = make_plan(model)
    with pytest.raises(ConfigError, match=r"^optimizer.adamw_lr=0.1: the plan needs both rates: plan = plan.for_muon"):
        plan.optimizer("muon", adamw_lr=0.1)
    with pytest.raises(ConfigError, match=r"^optimizer.adamw_lr=0.0: must be above 0"):
        plan.for_muon(0)
    with pytest.raises(ConfigError, match=r"^optimizer.adamw=bdy: the pattern matches no parameter; did you mean body"):
        plan.for_muon(adamw="bdy")
    wrong: tuple[Any, ...] = ([[{"a": 1}]], True, False, 0, 1.5, {"stem": True})
    for adamw in wrong:
        with pytest.raises(ConfigError, match=r"^optimizer.adamw=.*: must be a pattern or a list of them"):
            plan.for_muon(adamw=adamw)
    with pytest.raises(ConfigError, match=r"^optimizer=muon: the network has no hidden matrix .*timm_muon"):
        make_plan(nn.Sequential(nn.Linear(2, 2))).for_muon()
    with pytest.raises(ConfigError, match=r"^optimizer.ns_step=3: muon has no such option; did you mean ns_steps"):
        plan.optimizer("muon", ns_step=3)
    with pytest.raises(ConfigError, match=r"^optimizer.adjust_lr_fn=x: muon refuses"):
        plan.optimizer("muon", adjust_lr_fn="x")


def test_the_muons_of_both_libraries_are_reachable() -> None:
    plan = make_plan(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)))
    assert type(plan.optimizer("torch_muon")) is torch.optim.Muon  # type: ignore[call-overload]
    assert type(plan.optimizer("timm_muon")).__module__ == "timm.optim.muon"  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="optimizer=torch_lamb: no such optimizer"):
        plan.optimizer("torch_lamb")  # type: ignore[call-overload]
