"""The training loop: forward, loss, backward, step, then the policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .data import EpochLoader, call, to_device
from .errors import RunError
from .plan import Plan
from .scheduler import PlanScheduler
from .tracking import Tracker
from .weights import load_weights, save_weights

log = logging.getLogger(__name__)
METRICS = ("val/loss", "val/accuracy", "val/macro_f1")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Trainer:
    """Everything the loop needs; `fit` is the loop."""

    model: nn.Module
    plan: Plan
    optimizer: torch.optim.Optimizer
    scheduler: PlanScheduler
    loss: nn.Module
    train: EpochLoader
    val: EpochLoader
    tracker: Tracker
    folder: Path
    device: torch.device
    steps: int
    epochs: int
    accumulate: int = 1
    clip_grad_norm: float | None = None
    precision: str = "fp32"
    compile: bool = False
    freeze_stats: bool = False
    progress: bool = True
    seen_rates: list[list[float]] | None = None  # rates of each step, where no table of them exists beforehand
    best: dict[str, float] = field(default_factory=dict)

    def fit(self) -> dict[str, float]:
        """Train for `steps` optimizer steps; returns the best evaluation, whose weights are in best.safetensors."""
        forward = torch.compile(self.model) if self.compile else self.model
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        labels = self.plan.labels
        logged = [i for i, group in enumerate(self.plan.groups) if group.optimizer_names]
        trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        step = 0
        for epoch in range(self.epochs):
            training_mode(self.model, self.plan.frozen_names if self.freeze_stats else ())
            self.train.set_epoch(epoch)
            bar = self._bar(epoch, step)
            for batches in _chunks(self.train, self.accumulate):
                total = 0.0
                for batch in batches:
                    inputs, targets = to_device(batch, self.device)
                    with self._autocast():
                        scores = call(forward, inputs)
                    loss = self.loss(scores, targets) / len(batches)
                    scaler.scale(loss).backward()
                    total += loss.item()
                if not math.isfinite(total):
                    raise RunError(f"the loss is {total} at optimizer step {step}; a smaller lr may help")
                if self.clip_grad_norm is not None:
                    scaler.unscale_(self.optimizer)
                    nn.utils.clip_grad_norm_(trainable, self.clip_grad_norm)
                scaler.step(self.optimizer)
                scaler.update()
                self.optimizer.zero_grad(set_to_none=True)
                rates = self.scheduler.rates()  # as the optimizer had them for this step
                self.tracker.log({"train/loss": total, **{f"lr/{labels[i]}": rates[i] for i in logged}}, step)
                if self.seen_rates is not None:
                    self.seen_rates.append(rates)
                self.scheduler.step()
                step += 1
                bar.set_postfix(
                    loss=f"{total:.3f}", head=f"{rates[logged[0]]:.2e}", stem=f"{rates[logged[-1]]:.2e}", refresh=False
                )
                bar.update()
                if step == self.steps:
                    break
            bar.close()
            self._judge(epoch, step)
            if step == self.steps:
                break
        save_weights(self.model, self.folder / "model.safetensors")
        return self.best

    def test(self, loader: EpochLoader) -> dict[str, float]:
        """Judge the best weights on the test split."""
        load_weights(self.model, self.folder / "best.safetensors")
        return self.evaluate(loader, "test")

    def evaluate(self, loader: EpochLoader, split: str) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 over a split."""
        from sklearn.metrics import f1_score

        self.model.eval()
        losses, guesses, answers = [], [], []
        with torch.inference_mode(), self._autocast():
            for batch in loader:
                inputs, labels = to_device(batch, self.device)
                scores = call(self.model, inputs)
                losses.append(self.loss(scores, labels) * len(labels))
                guesses.append(scores.argmax(dim=1))
                answers.append(labels)
        guess, answer = torch.cat(guesses).cpu(), torch.cat(answers).cpu()
        return {
            f"{split}/loss": (torch.stack(losses).sum() / len(answer)).item(),
            f"{split}/accuracy": (guess == answer).float().mean().item(),
            f"{split}/macro_f1": float(f1_score(answer.numpy(), guess.numpy(), average="macro", zero_division=0)),
        }

    def _judge(self, epoch: int, step: int) -> None:
        """Evaluate, keep the best weights, and show the metrics to the policy."""
        metrics = self.evaluate(self.val, "val")
        self.tracker.log(metrics, step - 1)
        self.scheduler.observe(metrics)
        if not self.best or _rank(metrics) > _rank(self.best):
            self.best = metrics
            save_weights(self.model, self.folder / "best.safetensors")
        log.info(
            "epoch %d/%d  step %d/%d  val loss %.4f  accuracy %.2f %%  macro F1 %.4f",
            epoch + 1, self.epochs, step, self.steps,
            metrics["val/loss"], 100 * metrics["val/accuracy"], metrics["val/macro_f1"],
        )  # fmt: skip

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def _bar(self, epoch: int, step: int) -> tqdm[Any]:
        per_epoch = -(-len(self.train) // self.accumulate)
        # disable=None: no bar where nobody watches a terminal
        return tqdm(
            total=min(per_epoch, self.steps - step),
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            disable=None if self.progress else True,
        )


def training_mode(model: nn.Module, frozen_names: Sequence[str]) -> None:
    """`model.train()`, but running statistics of norms whose parameters are all in `frozen_names` stay as they are."""
    model.train()
    frozen = set(frozen_names)
    for path, module in model.named_modules():
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        if own and frozen.issuperset(own) and getattr(module, "running_mean", None) is not None:
            module.eval()


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    """Higher is better: accuracy, then a low loss."""
    return metrics["val/accuracy"], -metrics["val/loss"]


def _chunks(loader: EpochLoader, size: int) -> Iterator[list[Any]]:
    """Batches in lists of `size`, the last one shorter."""
    chunk = []
    for batch in loader:
        chunk.append(batch)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
