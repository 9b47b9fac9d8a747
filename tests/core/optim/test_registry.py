from __future__ import annotations

from typing import Any

import pytest
import torch

from lwexp import ConfigError, make_plan
from tests.helpers.networks import TinyNet


@pytest.mark.parametrize("name", ["adam", "AdamW", "sgd", "rmsprop", "radam", "lion", "lamb"])
def test_torch_and_timm_optimizers_by_name_train_every_group(tiny: TinyNet, name: str) -> None:
    plan = make_plan(tiny, lr=0.01)
    optimizer = plan.optimizer(name)
    before = [p.detach().clone() for p in tiny.parameters()]
    tiny(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    assert [g["name"] for g in optimizer.param_groups] == ["head", "blocks", "stem"]
    assert all(not torch.equal(a, b) for a, b in zip(before, tiny.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("adm", {}, "optimizer=adm: no such optimizer; did you mean adam"),
        ("adam", {"beta": 1}, "optimizer.beta=1: adam has no such option; did you mean betas"),
        ("adam", {"lr": 1}, "optimizer.lr=1: adam has no such option"),
        ("adam", {"betas": [2, 3]}, "optimizer.betas=.2, 3.: adam refuses: .*beta"),
        ("lbfgs", {}, "optimizer=lbfgs: needs a closure"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_choice(
    tiny: TinyNet, name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        make_plan(tiny).optimizer(name, **options)


@pytest.mark.parametrize(("name", "fused"), [("adam", True), ("adamw", True), ("sgd", True), ("rmsprop", None)])
def test_fused_kernel_is_taken_where_there_is_one(tiny: TinyNet, name: str, fused: bool | None) -> None:
    assert make_plan(tiny).optimizer(name).param_groups[0].get("fused") is fused
    if fused:
        assert not make_plan(tiny).optimizer(name, foreach=False).param_groups[0]["fused"]
