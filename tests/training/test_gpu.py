"""The same promises on a GPU; skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lwexp import make_plan
from tests.helpers.commands import Outcome
from tests.helpers.networks import TinyNet
from tests.helpers.tiny_training import WatchedStep, make_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_run_trains_on_the_gpu(lwexp_here: Callable[..., Outcome], precision: str) -> None:
    options = ["model=lstm", "device=cuda", f"precision={precision}", "max_steps=3", "tracking=none", "progress=false"]
    outcome = lwexp_here("run", *options)
    assert outcome.code == 0, outcome.err
    assert "best validation accuracy" in outcome.out


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_plan_follows_the_model_to_the_gpu(tiny: TinyNet, name: str) -> None:
    plan = make_plan(tiny, grouping="per_parameter", mult=0.9)
    tiny.to("cuda")
    optimizer = plan.optimizer(name)
    scheduler = plan.scheduler(optimizer, "cosine", steps=5)
    before = [p.detach().clone() for p in tiny.parameters()]
    for step in range(4):
        assert scheduler.rates() == plan.lr_table("cosine", steps=5)[step].tolist()
        tiny(torch.randn(4, 1, 8, 8, device="cuda")).square().sum().backward()
        optimizer.step()
        scheduler.step()
    assert all(p.is_cuda and not torch.equal(p, old) for p, old in zip(tiny.parameters(), before, strict=True))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_a_step_waits_for_the_gpu_nowhere(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, device="cuda", every_steps=None)
    trainer.step = WatchedStep(
        trainer.step,
        before=lambda number: torch.cuda.set_sync_debug_mode("error"),
        after=lambda number: torch.cuda.set_sync_debug_mode("default"),
    )
    trainer.fit()
    assert trainer.progress.step == trainer.progress.steps
