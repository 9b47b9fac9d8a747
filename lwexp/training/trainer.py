"""The training loop: forward, loss, backward, step, then the policy."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lwexp.core.dtensor import full_state, full_tensor, local_shard, shard_like
from lwexp.core.plan import Plan
from lwexp.core.scheduler import PlanScheduler
from lwexp.data import EpochLoader, call, to_device
from lwexp.distributed.parallel import Parallel, ParallelModel, ShardedModel, broadcast_tensors, parallelize
from lwexp.distributed.world import SINGLE, World
from lwexp.errors import RunError
from lwexp.host.signals import STOP, Requests
from lwexp.tracking import Tracker

from . import nonfinite
from .checkpoint.files import Checkpoints
from .checkpoint.snapshot import load_training_state, training_state
from .checkpoint.weights import load_weights, read_weights, save_weights
from .evaluation import evaluate, rank
from .loss import BatchWeight
from .seeding import own_random_state, seed_apart, set_random_state

log = logging.getLogger(__name__)
METRICS = ("val/loss", "val/accuracy", "val/macro_f1")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Trainer:
    """Everything the loop needs; `fit` is the loop.

    With `checkpoints`, `fit` saves the whole state when one is due and when a signal asks for it; `load_state` takes
    it up again. Without, Ctrl-C and SIGTERM end it at once. Raises `RunError` for numbers that are none: at the first
    optimizer step with a bad loss or gradient (`nonfinite` "stop"), or after 20 such steps in a row that were left out
    ("skip").

    On a GPU with "stop" and an optimizer that has a fused kernel nothing waits for the device: a step's loss and
    gradient norms are read when the next step is under way (`read_late`), and where one is bad, the kernel itself, told
    on the device, leaves the weights as they are.

    With several ranks in `world`, each with its shard of every batch, all do all of this at the same step. Where a
    signal, a bad number or a broken sample ends it in one, it ends in all; the first writes the files. `fit` then
    copies the model to all (`parallel` "ddp") or shares it out ("fsdp").
    """

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
    nonfinite: nonfinite.Choice = "stop"
    checkpoints: Checkpoints | None = None
    config: Mapping[str, Any] = field(default_factory=dict)  # plain values that checkpoints keep for a comparison
    seen_rates: list[list[float]] | None = None  # rates of each step, where no table of them exists beforehand
    read_late: bool | None = None  # None: on a GPU
    rates_every: int = 1  # optimizer steps between two records of all rates
    judged: Callable[[int, int, Mapping[str, float]], None] | None = None  # hears epochs, step, metrics, may raise
    world: World = SINGLE
    parallel: Parallel = "ddp"
    sync_batchnorm: bool = True
    best: dict[str, float] = field(default_factory=dict)
    step: int = field(default=0, init=False)  # optimizer steps done
    epoch: int = field(default=0, init=False)
    batches: int = field(default=0, init=False)  # of this epoch, used so far
    skipped: int = field(default=0, init=False)  # optimizer steps in a row that were left out
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        """Prepare what only the loop uses."""
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._forward: Any = self.model
        self._parallel_model = ParallelModel(self.model)
        self._weigh = BatchWeight(self.loss)
        self._shares: list[float] = []  # of each batch's loss in the step's, with several processes
        self._requests = Requests(stops=False)
        self._agreed: tuple[int | None, bool] = None, False  # of several processes: the signal that ends it, a save
        self._loss = math.nan  # of the step that was read last
        self._random: Mapping[str, Any] | None = None  # random states of a checkpoint, to begin with
        self._trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        late = self.device.type == "cuda" if self.read_late is None else self.read_late
        # a scaler looks for bad gradients by itself; what a skipped step leaves behind must be known before the next
        simple = self.nonfinite == "stop" and not self.scaler.is_enabled()
        self._late = late and simple and getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self._unread: deque[_Unread] = deque()
        self._bad = torch.zeros((), device=self.device)  # 1 from the first bad number on, while it has not been read
        self._logged = [i for i, group in enumerate(self.plan.groups) if group.optimizer_names]
        labels = self.plan.labels
        self._rate_names = [f"lr/{labels[i]}" for i in self._logged]

    def fit(self) -> dict[str, float]:
        """Train for `steps` optimizer steps; returns the best evaluation, whose weights are in best.safetensors.

        After `load_state` this goes on where the state was saved.
        """
        if self.world.size > 1:
            self._spread()
        self._forward = torch.compile(self._parallel_model.forward) if self.compile else self._parallel_model.forward
        if self.checkpoints is not None:
            self.checkpoints.begin(self.step)
        if self._random is not None:
            set_random_state(self._random)
        with Requests(stops=self.checkpoints is not None, quiet=not self.world.is_rank_zero) as self._requests:
            # An epoch whose last step is done may still lack its evaluation.
            while self.epoch < self.epochs and (self.step < self.steps or self.batches):
                self._train_epoch()
                self._judge()
                self.epoch, self.batches = self.epoch + 1, 0
            self._keep_weights("model.safetensors")
            self._next(iter(()))
            self._heed_signals()
        return self.best

    def state(self) -> dict[str, Any]:
        """All that continues the training exactly; tensors are the trainer's own, so save them before it goes on."""
        state = training_state(self)
        if self.world.size > 1:
            state = full_state(state, keep=self.world.is_rank_zero)
        return state

    def load_state(self, state: Mapping[str, Any], *, remap: bool = False) -> None:
        """Continue from `state` of an equal trainer, or with `remap` of one with another plan.

        The tensors in `state` become the trainer's own. Optimizer state follows the parameters' names. With `remap`,
        rates, freezing and the optimizer's options are this trainer's own. Raises `ConfigError`, with nothing changed,
        if the model or, without `remap`, the plan differs.
        """
        load_training_state(self, state, remap=remap)
        self._random = own_random_state(state, self.world.rank)
        if self.checkpoints is not None and not self.world.on_rank_zero(self._tidy_up) and self.best:
            log.warning("the best weights up to step %d are gone; the best is counted from there", self.step)
            self.best = {}

    def _tidy_up(self) -> bool:
        """Whether the best weights of the state's time are back."""
        assert self.checkpoints is not None
        for left in [*self.folder.glob(".best.safetensors.*"), *self.folder.glob(".model.safetensors.*")]:
            with suppress(OSError):  # half written by a process that was killed
                left.unlink()
        # The file may hold weights of a later step, which were never part of this training.
        return bool(self.best) and self.checkpoints.restore_best(self.step, self.folder / "best.safetensors")

    def _spread(self) -> None:
        """Copy the model to all processes, or share it out among them, and the optimizer's state with it."""
        self._parallel_model, self.plan = parallelize(
            self.model, self.plan, self.optimizer, self.device, self.world, self.parallel, self.sync_batchnorm
        )
        self._trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._late = self._late and getattr(self.optimizer, "_step_supports_amp_scaling", False)
        if self._random is None and not self.world.is_rank_zero:  # else all would drop the same units
            seed_apart(self.world.rank, self.step)

    def _train_epoch(self) -> None:
        """The optimizer steps of this epoch that are left to do."""
        training_mode(self.model, self.plan.frozen_names if self.freeze_stats else ())
        self.train.set_epoch(self.epoch, self.batches)
        with self._bar() as bar:
            chunks = _chunks(self.train, self.accumulate)
            while self.step < self.steps and (batches := self._next(chunks)) is not None:
                rates = self.scheduler.rates()
                if self._late:
                    self._launch_step(batches, rates)
                    self._read_steps(left=1)
                else:
                    self._log_step(self.step, self._train_step(batches, rates), rates)
                self.scheduler.advance()
                self.step += 1
                self.batches += len(batches)
                head, stem = rates[self._logged[0]], rates[self._logged[-1]]
                bar.set_postfix(loss=f"{self._loss:.3f}", head=f"{head:.2e}", stem=f"{stem:.2e}", refresh=False)
                bar.update()
                if self.world.size == 1 and self._checkpoint_due():
                    self._save()
                self._heed_signals()
        self._read_steps()

    def _next(self, batches: Iterator[list[Any]]) -> list[Any] | None:
        """The next of `batches`, or None after the last.

        Several processes agree here: on what one of them meets or is asked for, on the first one's clock, and on the
        weights of their parts of the batches, which the losses' means divide by.
        """
        if self.world.size == 1:
            return next(batches, None)
        failure, found = None, None
        try:
            found = next(batches, None)
        except Exception as error:
            failure = error
        weights = [self._weigh(labels) for _, labels in found or ()]
        stop, save = self._requests.stop, self._requests.save or (self.world.is_rank_zero and self._checkpoint_due())
        self._requests.save = False
        asked = [float(stop == signum) for signum in STOP]
        missing = [0.0] * (self.accumulate - len(weights))
        sums = self.world.agree(failure, [float(save), *asked, *weights, *missing])
        saves, stops, totals = sums[0], sums[1 : 1 + len(STOP)], sums[1 + len(STOP) :]
        self._agreed = (next((signum for signum, count in zip(STOP, stops, strict=True) if count), None), saves > 0)
        self._shares = [
            self.world.size * weight / total if total else math.nan
            for weight, total in zip(weights, totals, strict=False)
        ]
        self._heed_signals()
        return found

    def _launch_step(self, batches: Sequence[Any], rates: list[float]) -> None:
        """One optimizer step as `_train_step` makes it, without waiting for its numbers."""
        loss = self._backward(batches)
        norms = self._parallel_model.total_norms(nonfinite.gradient_norms(self._trainable))
        numbers = torch.cat([loss.reshape(1), norms])
        if self.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self._trainable, self.clip_grad_norm, torch.linalg.vector_norm(norms))
        self._bad = torch.maximum(self._bad, (~torch.isfinite(numbers).all()).float())
        self.optimizer.found_inf = self._bad  # type: ignore[attr-defined]  # as a scaler tells it
        self.optimizer.step()
        del self.optimizer.found_inf  # type: ignore[attr-defined]
        self.optimizer.zero_grad(set_to_none=True)
        self._unread.append(_Unread(self.step, rates, numbers))

    def _read_steps(self, left: int = 0) -> None:
        """Log the steps whose numbers have not been read yet, but for the newest `left`; `RunError` for a bad one."""
        while len(self._unread) > left:
            unread = self._unread.popleft()
            loss, norms = unread.read()
            bad = self._bad_loss(unread.step, loss, unread.rates)
            if bad is None and not nonfinite.all_finite([norms]):
                norm_of = dict(zip(self._trainable, norms, strict=True))
                bad = self._bad_gradient(unread.step, loss, unread.rates, norm_of.get)
            if bad is not None:
                raise RunError(self._advice(bad))
            self._log_step(unread.step, loss, unread.rates)

    def _train_step(self, batches: Sequence[Any], rates: Sequence[float]) -> float:
        """One optimizer step on the mean loss of `batches`, which is returned, or none where a number is bad."""
        # A forward pass moves running statistics before its numbers are known to be bad.
        before = [b.clone() for b in self.model.buffers()] if self.nonfinite == "skip" else []
        loss = self._backward(batches).item()
        bad = self._update(loss, rates)
        self.optimizer.zero_grad(set_to_none=True)
        if bad is None:
            self.skipped = 0
        elif self.nonfinite == "stop":
            raise RunError(self._advice(bad))
        else:
            self.skipped += 1
            if self.skipped == nonfinite.MOST_SKIPPED:
                raise RunError(self._advice(f"{self.skipped} optimizer steps in a row were left out; {bad}"))
            log.warning("%s; the step is left out", bad)
            for buffer, value in zip(self.model.buffers(), before, strict=True):
                buffer.copy_(value)
        return loss

    def _backward(self, batches: Sequence[Any]) -> Tensor:
        """Add up the gradients of the mean loss of `batches`; returns that loss, on the device."""
        losses = []
        for i, batch in enumerate(batches):
            inputs, targets = to_device(batch, self.device)
            with self._parallel_model.gradient_sync(i == len(batches) - 1):
                with self._autocast():
                    scores = call(self._forward, inputs)
                loss = self.loss(scores, targets) / len(batches)
                if self._shares:  # a part without weight has no loss
                    loss = loss * self._shares[i] if self._shares[i] else 0 * scores.sum()
                self.scaler.scale(loss).backward()
            losses.append(loss.detach().float())
        loss = torch.stack(losses).sum()
        return loss if self.world.size == 1 else self.world.sum(loss) / self.world.size

    def _update(self, loss: float, rates: Sequence[float]) -> str | None:
        """Let the optimizer make its step; where a number is bad it does not, and the sentence that says so returns."""
        bad = self._bad_loss(self.step, loss, rates)
        if bad is not None:
            return bad
        scaled = self.scaler.is_enabled()
        scale = self.scaler.get_scale()
        if not scaled or self.clip_grad_norm is not None:  # a scaler looks for bad gradients by itself
            self.scaler.unscale_(self.optimizer)
            norm = torch.linalg.vector_norm(self._parallel_model.total_norms(nonfinite.gradient_norms(self._trainable)))
            bad = None if math.isfinite(norm.item()) else self._bad_gradient(self.step, loss, rates, _gradient)
            if bad is not None and not scaled:
                return bad
            if bad is None and self.clip_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(self._trainable, self.clip_grad_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if scaled and self.scaler.get_scale() < min(scale, 1.0):  # no scale helps
            self.scaler.update(1.0)
            return self._bad_gradient(self.step, loss, rates, _gradient)
        return None

    def _bad_loss(self, step: int, loss: float, rates: Sequence[float]) -> str | None:
        if math.isfinite(loss):
            return None
        head = self._logged[0]
        where = f"the head ({self.plan.labels[head]}) has the rate {rates[head]:g}"
        return f"the loss is {loss} at optimizer step {step}, where {where}"

    def _bad_gradient(
        self, step: int, loss: float, rates: Sequence[float], gradient_of: Callable[[nn.Parameter], Tensor | None]
    ) -> str | None:
        group = nonfinite.bad_group(self.plan, rates, gradient_of)
        if group is None:
            return None
        return f"the gradient of group {group} is not finite at optimizer step {step}, where the loss is {loss:g}"

    def _advice(self, bad: str) -> str:
        """`bad` with the last good checkpoint and what may help."""
        saved = self.checkpoints.paths() if self.checkpoints is not None else []
        hints = ["a smaller lr"]
        hints += ["clip_grad_norm=1"] if self.clip_grad_norm is None else []
        hints += ["nonfinite=skip"] if self.nonfinite == "stop" else []
        last = f"; the last good checkpoint is {saved[0]}" if saved else ""
        choices = " or ".join([", ".join(hints[:-1]), hints[-1]]) if len(hints) > 1 else hints[0]
        return f"{bad}{last}; {choices} may help"

    def _log_step(self, step: int, loss: float, rates: list[float]) -> None:
        self._loss = loss
        metrics = {}
        if step % self.rates_every == 0 or step == self.steps - 1:
            metrics = {name: rates[i] for name, i in zip(self._rate_names, self._logged, strict=True)}
        if math.isfinite(loss):
            metrics = {"train/loss": loss, **metrics}
        if self.skipped:
            metrics["train/skipped"] = 1.0
        self.tracker.log(metrics, step)
        if self.seen_rates is not None:
            self.seen_rates.append(rates)

    def _heed_signals(self) -> None:
        """Save a checkpoint if a signal asks for one, and end the training if one asks for that."""
        requests = self._requests
        stop, save = (requests.stop, requests.save) if self.world.size == 1 else self._agreed
        if stop is not None:
            self._read_steps()
        if save or stop is not None:
            requests.save, self._agreed = False, (None, False)
            if self.checkpoints is not None and self.checkpoints.saved_step != self.step:
                self._save()
        if stop is not None:
            requests.stop = stop
            requests.raise_stop()

    def _checkpoint_due(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.due(self.step)

    def _save(self) -> None:
        """Save a checkpoint; `RunError` if the weights are no numbers."""
        checkpoints = self.checkpoints
        assert checkpoints is not None
        self._read_steps()
        finite = nonfinite.all_finite([local_shard(t) for t in (*self._trainable, *self._statistics())])
        if any(self.world.agree(None, [not finite])):
            group = nonfinite.bad_group(self.plan, self.scheduler.rates(), full_tensor)
            what = f"the weights of group {group} are" if group else "a running statistic of a norm is"
            raise RunError(self._advice(f"{what} not finite after optimizer step {self.step - 1}"))
        best = self.folder / "best.safetensors" if self.best else None
        state = self.state()
        self.world.on_rank_zero(lambda: checkpoints.save(state, self.step, best))
        checkpoints.note_saved(self.step)

    def _statistics(self) -> list[Tensor]:
        """Running statistics of norms; other buffers may hold infinities on purpose, as masks do."""
        return [b for name, b in self.model.named_buffers() if name.endswith(("running_mean", "running_var"))]

    def test(self, loader: EpochLoader) -> dict[str, float]:
        """Judge the best weights on the test split."""
        path, own = self.folder / "best.safetensors", self.model.state_dict()
        state = self.world.on_rank_zero(lambda: read_weights(path))
        load_weights(self.model, {name: shard_like(t, own.get(name, t)) for name, t in state.items()}, path)
        return self.evaluate(loader, "test")

    def evaluate(self, loader: EpochLoader, split: str) -> dict[str, float]:
        """Mean loss, accuracy and macro F1 over a split."""
        if self.world.size > 1 and not self.sync_batchnorm:
            broadcast_tensors(self.model.buffers())  # those that the files have
        metrics = evaluate(
            self.model,
            self._judged(loader),
            loader.epoch_sampler,
            self.loss,
            split,
            device=self.device,
            context=self._judging(),
            world=self.world,
        )
        return self.world.on_rank_zero(lambda: metrics)

    def _judged(self, loader: EpochLoader) -> Iterator[Any]:
        """The batches; an evaluation that is given up in between is made anew after a resume."""
        batches = _chunks(loader, 1)
        while (found := self._next(batches)) is not None:
            self._heed_signals()
            yield found[0]

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Without gradients; FSDP keeps memory for the parameters that inference mode would make unfit for training."""
        with (
            torch.no_grad() if isinstance(self._parallel_model, ShardedModel) else torch.inference_mode(),
            self._autocast(),
        ):
            yield

    def _judge(self) -> None:
        """Evaluate, keep the best weights, and show the metrics to the policy."""
        metrics = self.evaluate(self.val, "val")
        self.tracker.log(metrics, self.step - 1)
        self.scheduler.observe(metrics)
        if not self.best or rank(metrics) > rank(self.best):
            self.best = metrics
            self._keep_weights("best.safetensors")
        log.info(
            "epoch %d/%d  step %d/%d  val loss %.4f  accuracy %.2f %%  macro F1 %.4f",
            self.epoch + 1, self.epochs, self.step, self.steps,
            metrics["val/loss"], 100 * metrics["val/accuracy"], metrics["val/macro_f1"],
        )  # fmt: skip
        if self.judged is not None:
            self.judged(self.epoch + 1, self.step - 1, metrics)

    def _keep_weights(self, name: str) -> None:
        state = full_state(self.model.state_dict(), keep=self.world.is_rank_zero)
        self.world.on_rank_zero(lambda: save_weights(state, self.folder / name))

    def _autocast(self) -> Any:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def _bar(self) -> tqdm[Any]:
        left = -(-len(self.train) // self.accumulate)
        # disable=None: no bar where nobody watches a terminal
        return tqdm(
            total=min(left, self.steps - self.step),
            desc=f"epoch {self.epoch + 1}/{self.epochs}",
            unit="step",
            leave=False,
            disable=None if self.progress and self.world.is_rank_zero else True,
        )


class _Unread:
    """An optimizer step whose numbers are on their way from the device."""

    def __init__(self, step: int, rates: list[float], numbers: Tensor) -> None:
        """`numbers`: the loss, then the norms of the gradients."""
        self.step, self.rates = step, rates
        on_gpu = numbers.device.type == "cuda"
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=on_gpu)
        self._numbers = host.copy_(numbers, non_blocking=True)
        self._arrived = torch.cuda.current_stream(numbers.device).record_event() if on_gpu else None

    def read(self) -> tuple[float, Tensor]:
        """The loss and the norms, as soon as they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._numbers[0].item(), self._numbers[1:]


def _gradient(parameter: nn.Parameter) -> Tensor | None:
    return None if parameter.grad is None else full_tensor(parameter.grad)


def training_mode(model: nn.Module, frozen_names: Sequence[str]) -> None:
    """`model.train()`, but running statistics of norms whose parameters are all in `frozen_names` stay as they are."""
    model.train()
    frozen = set(frozen_names)
    for path, module in model.named_modules():
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        if own and frozen.issuperset(own) and getattr(module, "running_mean", None) is not None:
            module.eval()


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
