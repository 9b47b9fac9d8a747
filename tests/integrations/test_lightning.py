"""Lightning: the callback, and what its own loop and callbacks find in a plan's optimizer and scheduler."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from lwexp import ConfigError, make_plan
from tests.helpers.wrapped_networks import bare_and_wrapped, seeded_tiny, tiny_batches, without_data

L = pytest.importorskip("lightning")

from lightning.pytorch.callbacks import BackboneFinetuning, LearningRateMonitor, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, Logger  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402

from lwexp.integrations.lightning import LayerwiseRates  # noqa: E402

STEPS = 8


class Memory(Logger):
    """Keeps what is logged."""

    name = version = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def rates(self) -> list[list[float]]:
        return [[*metrics.values()] for _, metrics in self.rows if all(name.startswith("lr/") for name in metrics)]


class Module(L.LightningModule):  # type: ignore[misc, name-defined]
    """As users write it: the network inside, no forward of its own."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.loss = network or seeded_tiny(), nn.CrossEntropyLoss()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.loss(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", 1.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class OwnPlan(Module):
    """Without the callback: plan, optimizer and scheduler in the usual place."""

    def __init__(self, optimizer: str = "adamw", policy: str = "cosine", **plan: Any) -> None:
        super().__init__()
        self.plan = make_plan(self.model, **{"grouping": "depth_index", "lr": 0.01, "mult": 0.5, **plan})
        self.optimizer, self.policy = optimizer, policy

    def configure_optimizers(self) -> Any:
        optimizer = self.plan.optimizer(self.optimizer)
        scheduler = self.plan.scheduler(optimizer, self.policy, steps=STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def trainer(folder: Path, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    defaults = {**quiet, "logger": False, "accelerator": "cpu", "max_epochs": 1, "log_every_n_steps": 1}
    return L.Trainer(default_root_dir=folder, **{**defaults, **options})


def layerwise(**options: Any) -> LayerwiseRates:
    defaults = {"grouping": "depth_index", "lr": 0.01, "mult": 0.5, "optimizer": "adamw", "policy": "cosine"}
    return LayerwiseRates(**{**defaults, **options})


def test_a_network_inside_a_module_has_the_groups_of_the_bare_one() -> None:
    """Row 1: VGG16 inside `self.model` has 16 groups."""
    bare, inside = (without_data(torchvision.models.vgg16, num_classes=3) for _ in range(2))
    plan, wrapped = bare_and_wrapped(bare, Module(inside), "model.")
    assert len(plan.groups) == len(wrapped.groups) == 16
    assert wrapped.notes[0] == "depth from execution"


def test_the_callback_trains_as_a_plain_loop_does_and_logs_every_rate(tmp_path: Path) -> None:
    network, memory, callback = seeded_tiny(), Memory(), layerwise(policy_options={"warmup_steps": 2})
    plan = make_plan(network, grouping="depth_index", lr=0.01, mult=0.5)
    optimizer = plan.optimizer("adamw")
    scheduler = plan.scheduler(optimizer, "cosine", steps=STEPS, warmup_steps=2)
    for images, labels in tiny_batches(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        scheduler.step()
    module = Module()
    trainer(tmp_path, callbacks=[callback], logger=memory).fit(module, tiny_batches(STEPS))
    for ours, theirs in zip(network.parameters(), module.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert memory.rates() == plan.lr_table("cosine", steps=STEPS, warmup_steps=2).tolist()
    assert [*memory.rows[0][1]] == [f"lr/{label}" for label in callback.plan.labels]
    assert isinstance(module.configure_optimizers(), torch.optim.SGD)  # its own again


def test_the_policy_counts_optimizer_steps_under_accumulation(tmp_path: Path) -> None:
    memory, callback = Memory(), layerwise(policy="constant", policy_options={"warmup_epochs": 1})
    options = {"max_epochs": 2, "accumulate_grad_batches": 2, "callbacks": [callback], "logger": memory}
    trainer(tmp_path, **options).fit(Module(), tiny_batches(STEPS))
    assert [row[0] for row in memory.rates()] == pytest.approx([0.0025, 0.005, 0.0075, *[0.01] * 5])


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "16-scaled"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_mixed_precision_with_clipped_gradients(tmp_path: Path, optimizer: str, precision: str) -> None:
    """Row 3: Lightning makes bf16 of 16-mixed on a CPU, so its plugin has a scaler of the CPU as well."""
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-scaled":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=1000)  # the first steps overflow
        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    module, start = Module(), seeded_tiny()
    callback = layerwise(optimizer=optimizer)
    runner = trainer(tmp_path, gradient_clip_val=0.5, callbacks=[callback], **options)
    runner.fit(module, tiny_batches(STEPS))
    skipped = 0
    if precision == "16-scaled":
        skipped = 20 - round(math.log2(scaler.get_scale()))
        assert 0 < skipped < STEPS
    assert callback.scheduler.last_epoch == STEPS - skipped
    assert all(p.isfinite().all() for p in module.model.parameters())
    assert not any(torch.equal(p, q) for p, q in zip(module.model.parameters(), start.parameters(), strict=True))


def test_a_fused_optimizer_that_is_asked_for_is_refused_by_lightning_when_it_clips(tmp_path: Path) -> None:
    """As torch's own: `fused=True` unscales gradients itself."""
    callback = layerwise(optimizer_options={"fused": True})
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        trainer(tmp_path, precision="bf16-mixed", gradient_clip_val=0.5, callbacks=[callback]).fit(
            Module(), tiny_batches(1)
        )


@pytest.mark.parametrize("no_weight_decay", [False, True])
def test_learning_rate_monitor_has_a_name_for_every_group(tmp_path: Path, no_weight_decay: bool) -> None:
    """Row 8: `no_weight_decay` makes two groups of one."""
    memory, module = Memory(), OwnPlan(no_weight_decay=no_weight_decay)
    monitor = LearningRateMonitor("step")
    trainer(tmp_path, callbacks=[monitor], logger=memory).fit(module, tiny_batches(STEPS))
    seen = [metrics for _, metrics in memory.rows if any(name.startswith("lr-") for name in metrics)]
    assert len(seen) == STEPS
    names = [group["name"] for group in module.trainer.optimizers[0].param_groups]
    assert {f"lr-FusedAdamW/{name}" for name in names} <= {*seen[0]}
    assert len(names) == len({*names}) == (12 if no_weight_decay else 6)


def test_a_plateau_falls_by_the_callback_and_by_reduce_on_plateau(tmp_path: Path) -> None:
    """Row 10, with the steps counted all the while."""
    options = {"metric": "val_loss", "patience": 1, "factor": 0.5, "warmup_steps": 4}
    memory, callback = Memory(), layerwise(policy="plateau", policy_options=options)
    runner = trainer(tmp_path, max_epochs=6, callbacks=[callback], logger=memory)
    runner.fit(Module(), tiny_batches(4), tiny_batches(1))
    head = [row[0] for row in memory.rates()]
    assert head == pytest.approx([0.0025, 0.005, 0.0075, 0.01, *[0.01] * 8, *[0.005] * 8, *[0.0025] * 4])
    assert callback.scheduler.last_epoch == 24

    class Reduced(OwnPlan):
        def configure_optimizers(self) -> Any:
            optimizer = self.plan.optimizer("adamw")
            self.scheduler = self.plan.scheduler(optimizer, "plateau", metric="val_loss", patience=1, factor=0.5)
            when = {"interval": "epoch", "reduce_on_plateau": True, "monitor": "val_loss"}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, **when}}

    module = Reduced()
    trainer(tmp_path, max_epochs=6).fit(module, tiny_batches(4), tiny_batches(1))
    assert module.scheduler.rates()[0] == pytest.approx(0.0025)
    assert module.scheduler.last_epoch == 0


def test_a_metric_that_the_module_does_not_log_is_refused(tmp_path: Path) -> None:
    callback = layerwise(policy="plateau", policy_options={"metric": "val_los"})
    with pytest.raises(ConfigError, match=r"policy.metric=val_los: no such metric; did you mean val_loss\?"):
        trainer(tmp_path, callbacks=[callback]).fit(Module(), tiny_batches(1), tiny_batches(1))


def test_backbone_finetuning_adds_its_groups(tmp_path: Path) -> None:
    """They keep the rate that Lightning's callback moves; the plan's groups follow the plan."""

    class Transfer(Module):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.backbone = seeded_tiny()
            self.heads = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.loss(self.heads(self.backbone(batch[0])), batch[1])

    module, callback = Transfer(), layerwise()
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_ratio_lr=0.1)
    before = {name: p.clone() for name, p in module.named_parameters()}
    runner = trainer(tmp_path, max_epochs=4, callbacks=[finetuning, callback])
    runner.fit(module, tiny_batches(2))
    (optimizer,) = runner.optimizers
    plan = callback.plan
    assert callback.scheduler.rates() == plan.lr_table("cosine", steps=9).tolist()[8]
    trained = sum(bool(g.optimizer_names) for g in plan.groups)
    assert len(optimizer.param_groups) == trained + 1
    assert optimizer.param_groups[-1]["lr"] > 0
    assert not any(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_a_resumed_training_has_the_numbers_of_one_that_never_stopped(tmp_path: Path) -> None:
    def run(epochs: int, **options: Any) -> tuple[Module, Any]:
        module = Module()
        checkpoint = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        callbacks = [layerwise(policy_options={"steps": 16}), checkpoint]
        runner = trainer(tmp_path, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True)
        runner.fit(module, tiny_batches(8), **options)
        return module, callbacks[0]

    whole, callback = run(2)
    resumed, again = run(2, ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert callback.scheduler.rates() == again.scheduler.rates()
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_csv_logger_and_no_logger_and_barebones(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    trainer(tmp_path, callbacks=[layerwise()], logger=logger).fit(Module(), tiny_batches(2))
    header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert "lr/00_model.head" in header
    L.Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=[layerwise()]).fit(Module(), tiny_batches(2))
