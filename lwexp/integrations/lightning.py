"""Lightning: a callback that gives a module the optimizer and scheduler of a plan, and logs every group's rate.

Example, for any `module` and `data`::

    from lightning import Trainer
    from lwexp.integrations.lightning import LayerwiseRates

    rates = LayerwiseRates(grouping="depth_index", lr=1e-3, mult=0.9, optimizer="adamw", policy="cosine")
    trainer = Trainer(max_epochs=1, callbacks=[rates])  # in place of what `configure_optimizers` of the module returns
    trainer.fit(module, data)
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lwexp.core.plan import Plan
from lwexp.core.scheduler import PlanScheduler

from .settings import Settings, rates


class LayerwiseRates(Callback):
    """Replaces the module's `configure_optimizers` (Lightning requires that it has one) during `fit`.

    The policy counts optimizer steps, without those that a gradient scaler skips. A metric-driven policy observes what
    the module logs in validation (`policy_options={"metric": "val_loss"}`). All rates go to the trainer's loggers every
    `log_every_n_steps` steps, as the optimizer uses them.
    """

    plan: Plan
    scheduler: PlanScheduler

    def __init__(self, **settings: Any) -> None:
        """`settings`: see `Settings`."""
        self._settings = Settings(**settings)
        self._stepped = False

    def configure(self, module: LightningModule) -> dict[str, Any]:
        """What `configure_optimizers` returns; for a module that calls it itself."""
        trainer, lengths = module.trainer, {}
        if math.isfinite(steps := trainer.estimated_stepping_batches):  # loads the data, so that all lengths are known
            lengths["steps"] = int(steps)
        if math.isfinite(batches := trainer.num_training_batches):
            lengths["steps_per_epoch"] = math.ceil(batches / trainer.accumulate_grad_batches)
        self.plan = self._settings.make_plan(module)
        optimizer = self._settings.make_optimizer(self.plan)
        optimizer.register_step_post_hook(self._step_taken)
        self.scheduler = self._settings.make_scheduler(self.plan, optimizer, **lengths)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the place of the module's own methods."""
        if stage == "fit":
            pl_module.configure_optimizers = partial(self.configure, pl_module)  # type: ignore[method-assign]
            pl_module.lr_scheduler_step = self._advance  # type: ignore[method-assign, assignment]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own methods back."""
        for name in ("configure_optimizers", "lr_scheduler_step"):
            pl_module.__dict__.pop(name, None)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the rates of this step."""
        every = trainer.log_every_n_steps  # 0 where Lightning shall log nothing
        if every and trainer.global_step % every == 0:
            for logger in trainer.loggers:
                logger.log_metrics(rates(self.scheduler), step=trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pass the metrics to a metric-driven policy."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.scheduler.observe({name: float(value) for name, value in trainer.callback_metrics.items()})

    def _step_taken(self, *_: Any) -> None:
        self._stepped = True

    def _advance(self, scheduler: PlanScheduler, metric: Any) -> None:
        """Lightning calls it after every step, also after one that was skipped."""
        if self._stepped:
            scheduler.step()
        self._stepped = False
