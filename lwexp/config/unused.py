"""Options that a config does not use: each pair of an option and the setting that leaves it without effect, in a table.

One rule for all: an option of the command line that changes nothing is a note of the plan, and a sweep runs points that
differ only in such options once. What contradicts another option is an error instead, in `experiment/cross_checks.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lwexp.core.policy import named
from lwexp.core.shapes import POLICIES
from lwexp.core.torch_policy import torch_lengths

from .compose import choice, has_equal_scales
from .keys import flatten
from .overrides import user_overrides
from .schema import RunConfig
from .section import OpenSection

Command = Literal["run", "preview", "find", "job"]  # a job is a run of a sweep
_LENGTHS = ("warmup_steps", "warmup_fraction", "warmup_epochs")
# Sections in which one option switches the others on
_SWITCHES = {"early_stopping": "patience", "ema": "decay", "l2_sp": "alpha", "wise_ft": "alpha", "lora": "rank"}


@dataclass(frozen=True)
class _Case:
    """What the rules look at."""

    config: RunConfig
    command: Command
    processes: int


@dataclass(frozen=True)
class _Rule:
    """`key`, and all options below it, change nothing where `why` gives a reason."""

    key: str
    why: Callable[[_Case], str | None]


def unused(config: RunConfig, given: Iterable[str], command: Command = "run", processes: int = 1) -> dict[str, str]:
    """Of the dotted keys `given` those that change nothing with `config`, and why; `processes` train together."""
    case, found = _Case(config, command, processes), {}
    for key in given:
        reasons = (rule.why(case) for rule in _RULES if key == rule.key or key.startswith(f"{rule.key}."))
        why = next((reason for reason in reasons if reason), None) or _switched_off(config, key)
        if why:
            found[key] = why
    return found


def unused_notes(config: RunConfig, overrides: Sequence[str], command: Command, processes: int = 1) -> Iterator[str]:
    """A line for each option of the command line's `overrides` that changes nothing."""
    given = given_options(overrides)
    for key, why in unused(config, given, command, processes).items():
        yield f"{key}={given[key]} changes nothing: {why}"


def given_options(overrides: Sequence[str]) -> dict[str, str]:
    """The dotted keys that `overrides` give, with their values as they are typed.

    >>> given_options(["decay=cosine", "checkpoint={remap: true}", "~freeze"])
    {'decay': 'cosine', 'checkpoint.remap': 'true'}
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(user_overrides(overrides)):
        value = None if override.is_delete() or override.is_sweep_override() else override.value()
        if isinstance(value, Mapping):
            found |= {key: _typed(each) for key, each in flatten(value, f"{override.key_or_group}.").items()}
        elif not override.is_delete():
            is_plain = value is None or isinstance(value, (bool, int, float, str))
            found[override.key_or_group] = _typed(value) if is_plain else override.get_value_element_as_str()
    return found


def _typed(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _switched_off(config: RunConfig, key: str) -> str | None:
    section, _, name = key.partition(".")
    switch = _SWITCHES.get(section, "")
    on = getattr(getattr(config, section, None), switch, None) if switch else None
    return f"{section}.{switch} switches it on" if switch and name != switch and not on else None


def _name(section: OpenSection) -> str:
    return str(section.target or section.name)


def _decay_without_mult(case: _Case) -> str | None:
    from lwexp.core.measured.lookup import takes_mult

    decay = case.config.decay
    if decay.target is None and (decay.name == "linear" or takes_mult(decay.name)):
        return None
    return f"decay={_name(decay)} does not use it, decay=linear does"


def _equal_scales(case: _Case) -> str | None:
    """Where a decay gives every group the same scale, from which group it counts does not matter."""
    if not has_equal_scales(case.config):
        return None
    mult = f" mult={case.config.mult:g}" if case.config.decay.name == "linear" and case.config.mult else ""
    return f"decay={_name(case.config.decay)}{mult} gives every group the same rate"


def _index_from(case: _Case) -> str | None:
    """The weight decay's factor counts from the same group as the decay of the rates."""
    return None if case.config.weight_decay_mult != 1 else _equal_scales(case)


def _equal_rates(case: _Case) -> str | None:
    config = case.config
    others = config.lr_overrides or config.lr_mults or config.decay.options.get("rates")
    return None if others else _equal_scales(case)


def _policy(case: _Case) -> str | None:
    config = case.config
    own_value = getattr(config.momentum_policy, "name", None) == "onecycle"  # its peak is that of the rates
    if config.phases and all(phase.policy is not None for phase in config.phases) and not own_value:
        return "every phase has a policy of its own"
    return None


def _policies(case: _Case) -> str | None:
    phases = case.config.phases
    return "every phase has policies of its own" if phases and all(phase.policies for phase in phases) else None


def _shape(case: _Case) -> str:
    """The policy's name, an alias resolved; of a function of the user's own ""."""
    policy, _ = choice(case.config.policy, "policy")
    name = named(policy) if isinstance(policy, str) else ""
    return name if isinstance(name, str) else ""


def _has_warmup(case: _Case) -> bool:
    return any(case.config.policy.options.get(key) for key in _LENGTHS)


def _no_warmup(case: _Case) -> str | None:
    return None if _has_warmup(case) else "there is no warm-up; policy.warmup_steps makes one"


def _no_fall(case: _Case) -> str | None:
    return "policy=constant never falls" if _shape(case) == "constant" else None


def _no_floor(case: _Case) -> str | None:
    return None if case.config.policy.options.get("min_lr") else "there is no floor; policy.min_lr sets one"


def _no_convention(case: _Case) -> str | None:
    """It moves the end of a shape that fills the training, and the start of a linear warm-up."""
    name, options = _shape(case), case.config.policy.options
    if name == "torch":
        torchs = {"options": None, "interval": "step", **options, "name": str(case.config.policy.name)}
        fills = "steps" in torch_lengths(torchs)
    else:
        fills = not name or (name != "multistep" and "steps" in POLICIES[name].__annotations__)
    if fills:
        return None
    kind = options.get("warmup") or ("hold" if name == "warmup_exponential" else "linear")
    if _has_warmup(case) and kind == "linear":
        return None
    return f"policy={name} does not end with the training, and there is no linear warm-up"


def _one_cycle(case: _Case) -> str | None:
    options = case.config.policy.options
    cycles = options.get("cycles") or (None if options.get("cycle_steps") else 1)
    return "there is one cycle" if _shape(case) == "cosine_restarts" and cycles == 1 else None


def _no_dampening(case: _Case) -> str | None:
    optimizer = case.config.optimizer
    return "optimizer.momentum is 0" if optimizer.name == "sgd" and not optimizer.options.get("momentum") else None


def _own_tokenizer(case: _Case) -> str | None:
    if getattr(case.config.data, "tokenizer", None) is not None:
        return "data.tokenizer has a vocabulary of its own"
    if case.config.model.source == "huggingface" and case.config.model.name is not None:
        return f"the tokenizer of {case.config.model.label} has a vocabulary of its own"
    return None


def _no_library(case: _Case) -> str | None:
    return None if getattr(case.config.data, "dataset", None) else "only a data.dataset has subsets"


def _one_process(case: _Case) -> str | None:
    alone = case.processes == 1 and case.command != "preview"  # which runs on one whatever it previews
    return "the training is in one process; torchrun starts several" if alone else None


def _nothing_resumed(case: _Case) -> str | None:
    config = case.config
    return None if config.resume or config.sweep.resume else "nothing is resumed"


def _no_earlier_run(case: _Case) -> str | None:
    return None if case.config.from_run else _nothing_resumed(case)


_RULES = (
    _Rule("mult", _decay_without_mult),
    _Rule(
        "freeze_mode",
        lambda case: None if case.config.freeze or case.config.train else "nothing is frozen; freeze=[…] says what",
    ),
    _Rule("index_from", _index_from),
    _Rule("independent_weight_decay", _equal_rates),
    _Rule("policies", _policies),
    _Rule("policy", _policy),
    _Rule("policy.warmup", _no_warmup),
    _Rule("policy.min_lr", _no_fall),
    _Rule("policy.floor", _no_fall),
    _Rule("policy.floor", _no_floor),
    _Rule("policy.convention", _no_convention),
    _Rule("policy.cycle_mult", _one_cycle),
    _Rule("optimizer.dampening", _no_dampening),
    _Rule("data.vocabulary", _own_tokenizer),
    _Rule("data.subset", _no_library),
    _Rule("sync_batchnorm", _one_process),
    _Rule("parallel", _one_process),
    _Rule("checkpoint.remap", _nothing_resumed),
    _Rule("checkpoint.allow_targets", _no_earlier_run),
    *(
        _Rule(key, lambda case: "this is one run; -m starts a sweep" if case.command != "job" else None)
        for key in ("sweep.baseline", "sweep.isolate", "sweep.keep_weights", "sweep.details", "sweep.report")
    ),
    _Rule("find", lambda case: None if case.command == "find" else "only lwexp.find uses it"),
    _Rule("preview", lambda case: None if case.command == "preview" else "only lwexp.preview writes it"),
)
