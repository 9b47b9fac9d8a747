"""`make_plan`: a model and settings, resolved to a plan."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

from torch import nn

from lwexp.errors import ConfigError, NoLayerwiseRatesWarning, UnknownNameError

from .decay import ALIASES, Decay, DecayName, DecayOptions, make_decay, none, with_ends
from .depth.parameters import Names, is_lazy
from .group_options import GroupOptions, check_group_options, chosen_options, with_parts
from .grouping import Grouping, GroupingName, GroupingOptions, group, takes_input
from .kinds import Kinds
from .measured.base import MeasuredDecay
from .measured.lookup import make_rule, measured_notes, new_head, takes_mult
from .optim.muon import adamw_names
from .options import at_least, number
from .patterns import NamedSet, first_matches
from .plan import Plan
from .plan_notes import no_layerwise_rates, notes, trained_layers
from .recipes.base import Recipe
from .recipes.use import fill_plan
from .resolve import first_index, overrides_of, resolve
from .weight_decay import WeightDecay, undecayed_names

IndexFrom = Literal["all", "trained"]
FreezeMode = Literal["requires_grad", "lr_zero"]
INDEX_FROM: tuple[IndexFrom, ...] = get_args(IndexFrom)
FREEZE_MODES: tuple[FreezeMode, ...] = get_args(FreezeMode)
DEFAULT_MULT = 0.95


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


@fill_plan
@_no_garbage_collection()
def make_plan(
    model: nn.Module,
    *,
    recipe: str | Recipe | None = None,
    batch_size: int | None = None,
    grouping: GroupingName | Grouping = "top_module",
    decay: DecayName | Decay | MeasuredDecay = "linear",
    lr: float = 1e-3,
    mult: float | None = None,
    freeze: str | Sequence[str] = (),
    train: str | Sequence[str] = (),
    freeze_mode: FreezeMode = "requires_grad",
    lr_overrides: Mapping[str, float] | None = None,
    lr_mults: Mapping[str, float] | None = None,
    split_groups: str | Sequence[str] = (),
    group_options: GroupOptions | None = None,
    no_weight_decay: bool | Sequence[str] = False,
    weight_decay: float | None = None,
    weight_decay_mult: float = 1.0,
    independent_weight_decay: bool = False,
    index_from: IndexFrom = "all",
    grouping_options: GroupingOptions | Mapping[str, Any] | None = None,
    decay_options: DecayOptions | Mapping[str, Any] | None = None,
    example_input: object = None,
) -> Plan:
    """Resolve a model and settings to a plan; the model is not changed.

    - `recipe`: published work, by name (`lwexp.recipe`): what is not given here is as published, also in the methods
      `optimizer`, `schedule` and `scheduler` of the plan; `batch_size`, in one step, is for its base rate.
    - `grouping` and `decay`: names or callables `model -> groups` and `(index, count) -> scale`, with their options.
      A measured decay (`auto_rgn`, … or your own subclass of `MeasuredDecay`) gets its scales in the training.
    - `lr`: the base rate, that of the head. `mult`: the factor from one group to the next of the decay `linear`, 0.95
      unless `decay_options` have `mult`, or the rate of the last group, `stem_lr`.
    - `freeze`: a pattern or a list; `freeze_mode` omits those parameters from the optimizer (`requires_grad`) or keeps
      them in it at rate 0 (`lr_zero`). `train`: patterns of what is trained, all else is frozen.
    - `lr_overrides`: pattern -> absolute rate. `lr_mults`: pattern -> factor of the decay's rate. For each the first
      match wins; a parameter that both match is refused.
    - `split_groups`: patterns whose parameters are parts of their own, at the rate of their group.
    - `group_options`: pattern -> options of the optimizer, e.g. {head: {weight_decay: 0}}; for each option the first
      match wins.
    - `weight_decay`: that of the optimizer, for all groups; `weight_decay_mult`: its factor from one group to the next,
      counted as by the decay; with `independent_weight_decay` it is divided by the group's scale, so that lr * weight
      decay is the same in all groups (arXiv:2309.14322). `group_options` are above all three.
    - `no_weight_decay`: patterns of what has no weight decay, whatever `group_options` say; True: biases, norms and
      what the model itself lists.
    - `index_from`: the decay counts all groups from the head ("all"), or starts at the first group that has parameters
      to train ("trained"): with a frozen head (LoRA, an old head beside a new one, a teacher registered last) the first
      trained group has the rate `lr`.
    - Patterns are dotted prefixes (`layer4`), globs (`*.bias`) or kinds of parameters (`kind/norm`, `KINDS`).
    - `example_input` (a tensor, tuple or dict): for groupings that trace a forward pass, where the model's input cannot
      be guessed.

    Warns with `NoLayerwiseRatesWarning` where rates shall fall with depth and a network of several layers is one group.
    Raises `ConfigError` with the key, the value and the nearest choices.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError("model", type(model).__name__, "must be the torch.nn.Module itself, as in make_plan(model)")
    decay = ALIASES.get(decay, decay) if isinstance(decay, str) else decay
    decay_options = dict(decay_options or {})
    if mult is not None and (decay == "linear" or takes_mult(decay)):
        decay_options.setdefault("mult", mult)
    lr = _check_rates(lr, {"mult": mult, "decay.mult": decay_options.get("mult")}, freeze_mode)
    kinds = Kinds.of(model)
    freeze, split_groups = _frozen(model, kinds, freeze, train), _patterns("split_groups", split_groups, kinds)
    decays = WeightDecay.of(weight_decay, weight_decay_mult, independent_weight_decay)
    no_weight_decay = _no_weight_decay(no_weight_decay, kinds)
    group_options = kinds.keyed(check_group_options(group_options), "group_options")
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
    head_first = [*parameters][::-1]
    overrides = overrides_of(
        head_first, freeze, freeze_mode, kinds=kinds, lr_overrides=lr_overrides or {}, lr_mults=lr_mults or {},
        explicit_rates=decay_options.get("rates") or {}, split_groups=split_groups,
    )  # fmt: skip
    named_frozen = {*first_matches(sorted({*freeze}), [*parameters], "freeze")}
    already = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    frozen, left_out = named_frozen | already, already | (named_frozen if freeze_mode == "requires_grad" else set())
    first = first_index(grouped.groups, frozen, index_from)
    decay_options = with_ends(decay, decay_options, lr=lr, count=len(grouped.groups) - first)
    if decay == "linear":
        mult = decay_options.setdefault("mult", DEFAULT_MULT)
    mult = DEFAULT_MULT if mult is None else float(mult)
    rule = make_rule(decay, decay_options)
    if rule is not None and decays.independent:
        why = f"divides by the groups' scales, which decay={_name(decay)} measures in the training only"
        raise ConfigError("independent_weight_decay", True, why)
    new = None if rule is None else new_head(rule, [*parameters], kinds)
    scale = make_decay(decay, decay_options) if rule is None else none()  # type: ignore[arg-type]
    groups = resolve(
        names, grouped.groups, scale=scale, lr=lr, frozen=frozen, left_out=left_out, overrides=overrides, first=first,
        new=new,
    )  # fmt: skip
    if not any(g.optimizer_names for g in groups):
        raise ConfigError("freeze", "*", "every parameter is frozen, nothing is left to train")
    undecayed, listed = undecayed_names(model, parameters, no_weight_decay)
    chosen = chosen_options(head_first, group_options)
    groups = with_parts(groups, chosen, undecayed, [decays.of_group(g, lr, first) for g in groups])
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
        no_weight_decay=no_weight_decay if isinstance(no_weight_decay, bool) else tuple(map(str, no_weight_decay)),
        notes=(
            *grouped.notes,
            *notes(groups, _name(grouping), _name(decay), lr, mult, listed if no_weight_decay is True else ()),
            *([] if rule is None else measured_notes(rule, groups)),
        ),
        undecayed_names=listed,
        no_layerwise_rates=no_layerwise_rates(groups, _name(grouping), _name(decay), mult, layers),
        group_options=group_options,
        weight_decay=decays.base,
        weight_decay_mult=decays.mult,
        independent_weight_decay=decays.independent,
        measured=None if rule is None else rule.options,
        _rule=rule,
        _parameters=parameters,
        _kinds=kinds,
        _adamw_names=adamw_names(model, groups, parameters),
    )
    if plan.no_layerwise_rates and layers > 1:
        warnings.warn(plan.no_layerwise_rates, NoLayerwiseRatesWarning, stacklevel=4)
    return plan


def _check_rates(lr: float, mults: Mapping[str, float | None], freeze_mode: str) -> float:
    """`lr` as a float; `mults` are the multiplier by the keys that may give it."""
    for key, value in {"lr": lr, **mults}.items():
        if value is not None:
            number(key, value)
            at_least(key, value, 0, strictly=True)
    if freeze_mode not in FREEZE_MODES:
        raise UnknownNameError("freeze_mode", freeze_mode, FREEZE_MODES, "no such mode")
    return number("lr", lr)


def _patterns(key: str, written: str | Sequence[str], kinds: Kinds) -> list[str]:
    patterns = (
        (written,) if isinstance(written, str) else tuple(written) if isinstance(written, Iterable) else (written,)
    )
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError(key, written, "must be a pattern or a list of them, e.g. [stem, blocks.0]")
    return kinds.named(patterns, key)


def _frozen(model: nn.Module, kinds: Kinds, freeze: str | Sequence[str], train: str | Sequence[str]) -> list[str]:
    """The patterns `freeze`, and one that stands for all parameters that `train`, if given, does not match."""
    frozen, trained = _patterns("freeze", freeze, kinds), _patterns("train", train, kinds)
    names = [name for name, _ in model.named_parameters()]
    rest = {*names} - {*first_matches(trained, names, "train")} if trained else set()
    return [*frozen, *([NamedSet("rest", rest)] if rest else [])]


def _no_weight_decay(written: bool | str | Sequence[str], kinds: Kinds) -> bool | tuple[str, ...]:
    """True or False, or patterns; none of them are False."""
    return written if isinstance(written, bool) else tuple(_patterns("no_weight_decay", written, kinds)) or False


def _name(choice: object) -> str:
    return choice if isinstance(choice, str) else getattr(choice, "__name__", type(choice).__name__)
