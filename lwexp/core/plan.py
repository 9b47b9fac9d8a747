"""The plan: grouping, decay, base rate, freezing and overrides, resolved to one immutable table before training."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from lwexp.errors import ConfigError, NoLayerwiseRatesWarning, UnknownNameError

from . import plan_text
from .decay import Decay, make_decay
from .depth.parameters import Names, is_lazy
from .grouping import Grouping, group, takes_input
from .options import at_least, number
from .plan_notes import no_layerwise_rates, notes, trained_layers
from .plan_table import PlanTable
from .resolve import overrides_of, resolve
from .schedule import Event, Schedule, make_schedule
from .scheduler import PlanScheduler
from .weight_decay import listed_by_model

INDEX_FROM = ("all", "trained")
FREEZE_MODES = ("requires_grad", "lr_zero")


@dataclass(frozen=True)
class Plan(PlanTable):
    """Every group's place, name and rate, with its parameters. `print(plan)` shows the table; `make_plan` makes one."""

    _parameters: Mapping[str, nn.Parameter] = field(repr=False, compare=False)

    def __str__(self) -> str:
        """The table for a terminal."""
        return plan_text.text(self)

    def to_csv(self) -> str:
        """The table as CSV, one line per group, with all parameter names."""
        return plan_text.csv_text(self)

    def to_json(self) -> str:
        """The whole plan as JSON."""
        return plan_text.json_text(self)

    def to_markdown(self, at_most: int = 8000) -> str:
        """The table as Markdown, at most `at_most` characters: a longer one is cut to its first and last rows."""
        return plan_text.markdown(self, at_most)

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for any torch or timm optimizer: `params`, `lr` and `name`, from the head to the stem.

        Groups frozen by `requires_grad` are omitted. With `no_weight_decay`, the biases and norms of a group, and what
        the model's own `no_weight_decay()` lists, form a second one, `<name>:no_weight_decay`, with `weight_decay` 0.
        """
        groups = []
        for g, second in zip(self.groups, self.undecayed_groups, strict=True):
            parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
            for name in g.optimizer_names:
                p = self._parameters[name]
                undecayed = p.ndim <= 1 or name.endswith(".bias") or name in self.undecayed_names
                parts[self.no_weight_decay and undecayed].append(p)
            groups.append({"params": parts[False], "lr": g.lr, "name": g.name})
            groups.append({"params": parts[True], "lr": g.lr, "name": second, "weight_decay": 0.0})
        return [g for g in groups if g["params"]]

    def positions(self, param_groups: Iterable[Mapping[str, Any]]) -> list[int | None]:
        """The position in `groups` of each of an optimizer's param groups, by name, else by its parameters.

        None for one whose parameters are not in the plan's optimizer, or in several groups.
        """
        param_groups = list(param_groups)
        found = super().positions(param_groups)
        if None in found:
            owners = {id(self._parameters[name]): i for i, g in enumerate(self.groups) for name in g.optimizer_names}
            for i, group in enumerate(param_groups):
                owned = {owners.get(id(p)) for p in group["params"]}
                if found[i] is None and len(owned) == 1:
                    found[i] = owned.pop()
        return found

    def optimizer(self, optimizer: str | type[torch.optim.Optimizer] = "adam", **options: Any) -> torch.optim.Optimizer:
        """The optimizer of a short name (torch's or timm's) or class over `param_groups()`.

        For `adam`, `adamw` and `sgd` by name it takes torch's fused kernel, which is faster, unless `options` set
        `fused` or `foreach`. Gradient scalers and frameworks still unscale, clip and skip steps as with torch's default
        optimizer, and what the kernel cannot update (sparse gradients, another order in memory) is updated by torch's
        default implementation. `fused=False` and a class give torch's own optimizer.
        """
        from .optim.registry import make_optimizer

        return make_optimizer(optimizer, self.param_groups(), lr=self.lr, options=options)

    def schedule(
        self,
        policy: str | Callable[[int], float] = "constant",
        *,
        steps: int | None = None,
        steps_per_epoch: int = 1,
        lr_events: Iterable[Event | Mapping[str, Any]] = (),
        unfreeze_every_steps: int | None = None,
        **options: Any,
    ) -> Schedule:
        """Every group's rate at every step: the plan times `policy`, a name or a callable `step -> factor`.

        `steps` is the number of optimizer steps of the training, `steps_per_epoch` is used by policies that count
        epochs; `options` are the policy's, with `warmup_steps`, `warmup`, `min_lr` and `floor` for all. `lr_events`
        ({step, group, lr}) set absolute rates; every `unfreeze_every_steps` steps one more group is unfrozen, starting
        at the head.
        """
        return make_schedule(
            self,
            policy,
            options,
            steps=steps,
            steps_per_epoch=steps_per_epoch,
            lr_events=lr_events,
            unfreeze_every_steps=unfreeze_every_steps,
        )

    def scheduler(
        self, optimizer: torch.optim.Optimizer, policy: str | Callable[[int], float] = "constant", **options: Any
    ) -> PlanScheduler:
        """A torch `LRScheduler` that applies `policy` to every group; call `.step()` after each `optimizer.step()`.

        `options` are those of `schedule`.
        """
        return PlanScheduler(optimizer, self.schedule(policy, **options))

    def lr_table(
        self, policy: str | Callable[[int], float] = "constant", *, steps: int, **options: Any
    ) -> torch.Tensor:
        """Every group's rate at every step, float64 [steps, groups]; 0 for groups that are not in the optimizer.

        `options` are those of `schedule`. Raises `ConfigError` for metric-driven policies (plateau).
        """
        schedule = self.schedule(policy, steps=steps, **options)
        return schedule.table(range(schedule.steps or 0))

    @property
    def trained_layers(self) -> int:
        """The number of modules with a trained parameter of two or more dimensions."""
        return trained_layers(self.groups, self._parameters)

    def fits(self, model: nn.Module) -> bool:
        """Whether `model` has the plan's parameters: the same names, shapes and `requires_grad`."""
        own, others = dict(self._parameters), dict(model.named_parameters())
        return list(own) == list(others) and all(
            own[name].shape == other.shape and own[name].requires_grad == other.requires_grad
            for name, other in others.items()
        )

    def bind(self, model: nn.Module) -> Plan:
        """The same plan over the parameters of `model`, by name; raises `ConfigError` unless the plan `fits` it."""
        if not self.fits(model):
            raise ConfigError("model", type(model).__name__, "has other parameters than the plan was made of")
        return replace(self, _parameters=dict(model.named_parameters()))

    def apply_freeze(self, model: nn.Module) -> None:
        """Set `requires_grad` of the frozen parameters of `model` to False; no effect in the mode `lr_zero`."""
        if self.freeze_mode == "requires_grad":
            parameters = dict(model.named_parameters())
            for name in self.frozen_names:
                parameters[name].requires_grad_(False)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disables garbage collection: scanning torch's objects dominates planning time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def make_plan(
    model: nn.Module,
    *,
    grouping: str | Grouping = "top_module",
    decay: str | Decay = "linear",
    lr: float = 1e-3,
    mult: float = 0.95,
    freeze: str | Sequence[str] = (),
    freeze_mode: str = "requires_grad",
    lr_overrides: Mapping[str, float] | None = None,
    no_weight_decay: bool = False,
    index_from: Literal["all", "trained"] = "all",
    grouping_options: Mapping[str, Any] | None = None,
    decay_options: Mapping[str, Any] | None = None,
    example_input: object = None,
) -> Plan:
    """Resolve a model and settings to a plan; the model is not changed.

    `lr` is the base rate, that of the head; `mult` is an option of the decay `linear`, which `decay_options` may hold.
    `freeze` is a pattern or a list;
    `freeze_mode` omits those parameters from the optimizer (`requires_grad`) or keeps them in it at rate 0 (`lr_zero`).
    `lr_overrides` maps patterns to absolute rates, the first match wins. `grouping` and `decay` are names or callables
    `model -> groups` and `(index, count) -> scale`. `example_input` (a tensor, tuple or dict) is for groupings that
    trace a forward pass, where the model's input cannot be guessed. The decay counts all groups from the head
    (`index_from="all"`), or starts at the first group that has parameters to train (`"trained"`): with a frozen head
    (LoRA, an old head beside a new one, a teacher registered last) the first trained group has the rate `lr`.

    Warns with `NoLayerwiseRatesWarning` where rates shall fall with depth and a network of several layers is one group.
    Raises `ConfigError` with the key, the value and the nearest choices.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError("model", type(model).__name__, "must be the torch.nn.Module itself, as in make_plan(model)")
    decay_options = dict(decay_options or {})
    if decay == "linear":
        mult = decay_options.get("mult", mult)
    lr, mult = _check_rates(lr, mult, freeze_mode)
    freeze = _patterns(freeze)
    if index_from not in INDEX_FROM:
        raise UnknownNameError("index_from", index_from, INDEX_FROM, "no such way to count")
    names = Names.of(model)
    parameters = names.tensors
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ConfigError("model", name, "has no shape yet; run a batch through the model before the plan is made")
    grouping_options = dict(grouping_options or {})
    if example_input is not None and takes_input(grouping):
        grouping_options.setdefault("example_input", example_input)
    grouped = group(model, grouping, grouping_options)
    scale = make_decay(decay, {**decay_options, "mult": mult} if decay == "linear" else decay_options)
    head_first = [*parameters][::-1]
    rates = overrides_of(head_first, freeze, freeze_mode, lr_overrides or {}, decay_options.get("rates") or {})
    groups = resolve(
        names, grouped.groups, scale=scale, lr=lr, freeze=set(freeze), freeze_mode=freeze_mode, overrides=rates,
        index_from=index_from,
    )  # fmt: skip
    undecayed = listed_by_model(model, parameters) if no_weight_decay else ()
    if not any(g.optimizer_names for g in groups):
        raise ConfigError("freeze", "*", "every parameter is frozen, nothing is left to train")
    layers = trained_layers(groups, parameters)
    plan = Plan(
        groups=groups,
        lr=lr,
        mult=mult,
        grouping=_name(grouping),
        decay=_name(decay),
        index_from=index_from,
        model=type(model).__name__,
        freeze_mode=freeze_mode,
        no_weight_decay=bool(no_weight_decay),
        notes=(*grouped.notes, *notes(groups, _name(grouping), _name(decay), lr, mult, undecayed)),
        undecayed_names=undecayed,
        no_layerwise_rates=no_layerwise_rates(groups, _name(grouping), _name(decay), mult, layers),
        _parameters=parameters,
    )
    if plan.no_layerwise_rates and layers > 1:
        warnings.warn(plan.no_layerwise_rates, NoLayerwiseRatesWarning, stacklevel=3)
    return plan


def _check_rates(lr: float, mult: float, freeze_mode: str) -> tuple[float, float]:
    """`lr` and `mult` as floats."""
    for key, value in (("lr", lr), ("mult", mult)):
        number(key, value)
        at_least(key, value, 0, strictly=True)
    if freeze_mode not in FREEZE_MODES:
        raise UnknownNameError("freeze_mode", freeze_mode, FREEZE_MODES, "no such mode")
    return float(lr), float(mult)


def _patterns(freeze: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (freeze,) if isinstance(freeze, str) else tuple(freeze) if isinstance(freeze, Iterable) else (freeze,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError("freeze", freeze, "must be a pattern or a list of them, e.g. [stem, blocks.0]")
    return patterns


def _name(choice: object) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
