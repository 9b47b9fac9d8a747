"""The plan: grouping, decay, base rate, freezing and overrides, resolved to one immutable table before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import torch
from torch import nn

from lwexp.errors import ConfigError

from . import plan_html, plan_json, plan_text
from .binding import misfit
from .kinds import NO_KINDS, Kinds
from .measured.base import MeasuredDecay
from .measured.lookup import make_rule
from .optim.muon import adamw_chosen, adamw_names, with_kinds
from .optim.state_by_name import LoadedState, load_by_name, named_state, names_in
from .patterns import first_matches
from .plan_diff import difference_text
from .plan_notes import trained_layers
from .plan_table import PlanTable
from .policy import PolicyOptions
from .recipes.use import fill_optimizer, fill_schedule
from .schedule import Event, Schedule, ScheduleOptions, make_schedule
from .scheduler import PlanScheduler
from .shapes import PolicyName
from .split import Where, base_lr, parts_of, split_names, with_second_lr

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optim.names import OptimizerOptions, PrefixedOptimizerName, TimmOptimizerName, TorchOptimizerName

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


@dataclass(frozen=True, repr=False)
class Plan(PlanTable):
    """Every group's place, name and rate, with its parameters. `print(plan)` shows the table; `make_plan` makes one."""

    _parameters: Mapping[str, nn.Parameter] = field(repr=False, compare=False)
    _rule: MeasuredDecay | None = field(default=None, repr=False, compare=False)
    _adamw_names: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # what Muon is not for
    _kinds: Kinds = field(default=NO_KINDS, repr=False, compare=False)  # of its parameters

    def __str__(self) -> str:
        """The table for a terminal."""
        return plan_text.text(self)

    def _repr_html_(self) -> str:
        """The table for a notebook; of a long one the middle is folded."""
        return plan_html.html(self)

    def to_csv(self) -> str:
        """The table as CSV, one line per group, with all parameter names."""
        return plan_text.csv_text(self)

    def to_json(self) -> str:
        """The whole plan as JSON, which `from_json` reads."""
        return plan_json.write(self)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote, without its parameters: `bind` it to the model before it is trained.

        Its table, schedules and plots need no model. Raises `ConfigError` for a text that is no plan, or whose groups
        are not those that its `hash` identifies.
        """
        found = plan_json.read(text, PlanTable)
        return cls(**found, _parameters={}, _rule=make_rule(found["decay"], found.get("measured") or {}))

    def diff(self, other: PlanTable) -> str:
        """How `other` differs from this plan, one difference per line; empty where it does not."""
        return difference_text(self, other)

    def to_markdown(self, at_most: int = 8000) -> str:
        """The table as Markdown, at most `at_most` characters: a longer one is cut to its first and last rows."""
        return plan_text.markdown(self, at_most)

    def param_groups(self, *, lr_scale: bool = False, param_names: bool = False) -> list[dict[str, Any]]:
        """Parameter groups for any torch or timm optimizer: `params`, `lr` and `name`, from the head to the stem.

        Groups frozen by `requires_grad` are omitted. A group whose parameters have different options (`group_options`,
        `no_weight_decay`) is several, with those options and unique names that begin with its own. With `param_names`
        each has the names of its parameters, which torch then asks of all groups that join the optimizer later.

        `lr_scale` is for timm's schedulers, which multiply the rate that they compute by a group's `lr_scale`: each
        group has the base rate and its scale. Without one of them all groups would train at the base rate.
        """
        parameters = self._bound
        return [
            {
                "params": [parameters[n] for n in part.parameter_names],
                "lr": self.lr if lr_scale else g.lr,
                "name": part.name,
                **({"lr_scale": g.lr / self.lr} if lr_scale else {}),
                **({"param_names": [*part.parameter_names]} if param_names else {}),
                **part.options,
            }
            for g in self.groups
            for part in g.parts
        ]

    def positions(self, param_groups: Iterable[Mapping[str, Any]]) -> list[int | None]:
        """The position in `groups` of each of an optimizer's param groups, by name, else by its parameters.

        None for one whose parameters are not in the plan's optimizer, or in several groups.
        """
        param_groups = list(param_groups)
        found = super().positions(param_groups)
        if None in found and self._parameters:
            owners = {id(self._parameters[name]): i for i, g in enumerate(self.groups) for name in g.optimizer_names}
            for i, group in enumerate(param_groups):
                owned = {owners.get(id(p)) for p in group["params"]}
                if found[i] is None and len(owned) == 1:
                    found[i] = owned.pop()
        return found

    @overload
    def optimizer(
        self, optimizer: TorchOptimizerName = "adam", **options: Unpack[OptimizerOptions]
    ) -> torch.optim.Optimizer: ...
    @overload
    def optimizer(
        self, optimizer: TimmOptimizerName | PrefixedOptimizerName, **options: Any
    ) -> torch.optim.Optimizer: ...
    @overload
    def optimizer(self, optimizer: type[_Optimizer], **options: Any) -> _Optimizer: ...
    @fill_optimizer
    def optimizer(self, optimizer: str | type[torch.optim.Optimizer] = "adam", **options: Any) -> torch.optim.Optimizer:
        """The optimizer of a short name (torch's or timm's) or class over `param_groups()`; without one the recipe's.

        For `adam`, `adamw` and `sgd` by name it takes torch's fused kernel, which is faster, unless `options` set
        `fused` or `foreach`. Gradient scalers and frameworks still unscale, clip and skip steps as with torch's default
        optimizer, and what the kernel cannot update (sparse gradients, another order in memory) is updated by torch's
        default implementation. `fused=False` and a class give torch's own optimizer.

        `muon` is Muon and AdamW (`for_muon`); `timm_muon` and `torch_muon` are the classes of the two libraries.
        """
        from .optim.registry import make_optimizer

        groups = self.param_groups()
        if isinstance(optimizer, str) and optimizer.lower() == "muon":
            for key in options.keys() & {"adamw_lr", "adamw"}:
                why = "the plan needs both rates: plan = plan.for_muon(adamw_lr=…), then plan.optimizer('muon')"
                raise ConfigError(f"optimizer.{key}", options[key], why)
            groups = with_kinds(groups, {id(self._bound[name]) for name in self._adamw_names})
        return make_optimizer(
            optimizer, groups, lr=self.lr, options=options, group_options=self.group_options,
            weight_decay=self.weight_decay,
        )  # fmt: skip

    def for_muon(
        self, adamw_lr: float | None = None, adamw: str | Sequence[str] | None = None, keep: Sequence[str] = ()
    ) -> Plan:
        """The plan for the optimizer `muon`, with the base rate `adamw_lr` for what AdamW moves.

        Those are embeddings, input convolution, output layer, biases and norms, and what the patterns `adamw` cover.
        Their rates are times `adamw_lr / lr`, except where the patterns `keep` match; a group with both kinds becomes
        two rows, the second named `<name>:adamw`.
        """
        chosen = adamw_chosen(self.groups, self._adamw_names, adamw, self._kinds)
        plan = replace(self, _adamw_names=chosen)
        if adamw_lr is None:
            return plan
        factor = base_lr("optimizer.adamw_lr", adamw_lr) / self.lr
        scaled = chosen - {*first_matches(self.patterns(keep, "keep"), [*self._bound], "keep")}
        return replace(plan, groups=with_second_lr(self.groups, scaled, factor, ":adamw", self._bound))

    def split(self, *where: Where) -> tuple[Plan, ...]:
        """Parts of the plan, each for an optimizer and a scheduler of its own; the last one has the rest.

        `where`: a pattern, a list of patterns, or a function `(name, parameter) -> bool`; each takes from what those
        before it left. Groups keep their names, indices and rates. Raises `ConfigError` for a part that trains nothing.
        """
        found = split_names(self.groups, where, self._bound, self._kinds)
        return tuple(replace(self, groups=parts_of(self.groups, names, self._bound), notes=()) for names in found)

    def with_lr(self, lr: float) -> Plan:
        """The same plan at another base rate: all rates times `lr` over the old one."""
        lr = base_lr("lr", lr)
        return replace(self, lr=lr, groups=tuple([replace(g, lr=g.lr * lr / self.lr) for g in self.groups]))

    def names_in(self, optimizer: torch.optim.Optimizer) -> list[str]:
        """The names of the optimizer's parameters, in its order; raises `ConfigError` for one of another model."""
        return names_in(optimizer, self._bound)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """`optimizer.state_dict()` with the names of the parameters in each group, as `param_names`."""
        return named_state(optimizer, self.names_in(optimizer))

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], *, strict: bool = True
    ) -> LoadedState:
        """Load an optimizer's state by the names of the parameters, whatever their groups and order were.

        `state` is of `optimizer_state`, or any `state_dict()` whose groups have `param_names` (torch 2.6). Options of
        the groups stay the optimizer's own. Returns the missing and unexpected names; with `strict` they are an error.
        """
        return load_by_name(optimizer, self.names_in(optimizer), state, strict=strict)

    @fill_schedule
    def schedule(
        self,
        policy: PolicyName | Callable[[int], float] | None = None,
        *,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
        policies: Mapping[str, Any] | None = None,
        phases: Sequence[Mapping[str, Any]] = (),
        lr_events: Iterable[Event | Mapping[str, Any]] = (),
        unfreeze_every_steps: int | None = None,
        unfreeze_at: Mapping[str, int] | None = None,
        weight_decay_policy: Mapping[str, Any] | None = None,
        momentum_policy: Mapping[str, Any] | str | None = None,
        **options: Unpack[PolicyOptions],
    ) -> Schedule:
        """Every group's rate at every step: the plan times `policy`, a name or a callable `step -> factor`.

        Without one it is constant, or with a recipe that of the recipe, as are phases and gradual unfreezing.

        `steps` is the number of optimizer steps of the training, `steps_per_epoch` is used by policies that count
        epochs; `options` are the policy's, with `warmup_steps`, `warmup`, `min_lr` and `floor` for all. `lr_events`
        ({step, group, lr}) set absolute rates; every `unfreeze_every_steps` steps one more group is unfrozen, starting
        at the head, or those that a pattern of `unfreeze_at` covers at its step.

        `policies` maps patterns to policies of their own (a name, or `{name: cosine, warmup_steps: 10}`); the first
        match wins. `phases` follow one another: `{steps | epochs | fraction, train: [patterns], policy, policies,
        lr_factor}`, of which only the last may lack a length. Groups that a phase does not train rest at rate 0, its
        policies count its own steps, and `lr_factor` multiplies all its rates.

        `weight_decay_policy` (`{name: cosine, end: 0.4}`) moves the optimizer's weight decay to `end`; groups keep the
        ratios of their own. `momentum_policy` does so for `momentum` or `betas[0]` of all groups: `{name: onecycle}` is
        torch's, the inverse of the rates'.
        """
        return make_schedule(
            self, policy or "constant", options, rule=self._rule, steps=steps, steps_per_epoch=steps_per_epoch,
            policies=policies, phases=phases, lr_events=lr_events, unfreeze_every_steps=unfreeze_every_steps,
            unfreeze_at=unfreeze_at, weight_decay_policy=weight_decay_policy, momentum_policy=momentum_policy,
        )  # fmt: skip

    def scheduler(
        self,
        optimizer: torch.optim.Optimizer,
        policy: PolicyName | Callable[[int], float] | None = None,
        *,
        steps: int | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> PlanScheduler:
        """A torch `LRScheduler` that applies `policy` to every group; call `.step()` after each `optimizer.step()`.

        `options` are those of `schedule`.
        """
        return PlanScheduler(optimizer, self.schedule(policy, steps=steps, **options))

    def lr_table(
        self,
        policy: PolicyName | Callable[[int], float] | None = None,
        *,
        steps: int,
        **options: Unpack[ScheduleOptions],
    ) -> torch.Tensor:
        """Every group's rate at every step, float64 [steps, groups]; 0 for groups that are not in the optimizer.

        `options` are those of `schedule`. Raises `ConfigError` for metric-driven policies (plateau).
        """
        return (found := self.schedule(policy, steps=steps, **options)).table(range(found.steps or 0))

    @property
    def trained_layers(self) -> int:
        """The number of modules with a trained parameter of two or more dimensions."""
        return trained_layers(self.groups, self._bound)

    @property
    def _bound(self) -> Mapping[str, nn.Parameter]:
        if not self._parameters:
            raise ConfigError("plan", self.hash, "was read from JSON and has no parameters yet: use plan.bind(model)")
        return self._parameters

    def fits(self, model: nn.Module) -> bool:
        """Whether `model` has the plan's parameters: the same names, shapes and `requires_grad`."""
        return not misfit(self, self._parameters, dict(model.named_parameters()))

    def bind(self, model: nn.Module) -> Plan:
        """The same plan over the parameters of `model`, by name; raises `ConfigError` unless the plan `fits` it."""
        parameters = dict(model.named_parameters())
        if difference := misfit(self, self._parameters, parameters):
            raise ConfigError("model", type(model).__name__, f"is not what the plan was made of: {difference}")
        others = self._adamw_names or adamw_names(model, self.groups, parameters)
        return replace(self, _parameters=parameters, _adamw_names=others, _kinds=Kinds.of(model))

    def apply_freeze(self, model: nn.Module) -> None:
        """Set `requires_grad` of the frozen parameters of `model` to False; no effect in the mode `lr_zero`."""
        if self.freeze_mode == "requires_grad":
            parameters = dict(model.named_parameters())
            for name in self.frozen_names:
                parameters[name].requires_grad_(False)
