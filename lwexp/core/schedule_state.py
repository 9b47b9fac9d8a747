"""What a saved scheduler must agree with: the policy, its options and, where its rates depend on it, the length."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from lwexp.formatting import few, plain

from .policy import COMMON, Policy
from .schedule import Schedule
from .shapes import POLICIES
from .torch_policy import torch_lengths

# What states of before say of settings that came later: nothing
_BEFORE = {"policy.convention": "lwexp"}


def describe(schedule: Schedule) -> dict[str, Any]:
    """The settings that decide the rates besides the plan and the events, as plain values by their keys."""
    own = {**_policy(schedule.policy), "unfreeze.every_steps": schedule.unfreeze_every_steps}
    for value in schedule.values:
        described = {"steps": value.steps, **{key: plain(each) for key, each in value.written.items()}}
        own |= {f"{value.kind}_policy.{key}": each for key, each in sorted(described.items())}
    if schedule.opens_at:
        own["unfreeze.at"] = [*schedule.opens_at]
    if schedule.policies != [schedule.policy]:
        own["phases"] = len(schedule.phases)
        for i, phase in enumerate(schedule.phases):
            own |= {f"phases.{i}.start": phase.start, f"phases.{i}.steps": phase.steps}
            own |= {f"phases.{i}.groups": [*phase.of_group], f"phases.{i}.lr_factor": phase.lr_factor}
            for policy in phase.policies:
                key = policy.settings.key if "phases" in policy.settings.key else f"phases.{i}.{policy.settings.key}"
                own |= {key + name.removeprefix("policy"): value for name, value in _policy(policy).items()}
    return own


def difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The settings in which the two differ, as `key was …, is …`; empty if there are none."""
    saved = {**{key: value for key, value in _BEFORE.items() if key in own}, **saved}
    if saved.get("policy") != own.get("policy"):
        return f"policy was {saved.get('policy')}, is {own.get('policy')}"
    keys = [key for key in {**saved, **own} if saved.get(key) != own.get(key)]
    shown = [f"{key} was {_shown(saved.get(key))}, is {_shown(own.get(key))}" for key in keys]
    return few(shown, 6)


def _policy(policy: Policy) -> dict[str, Any]:
    made = policy.settings
    common = {
        "policy.warmup_steps": policy.warmup.steps,
        "policy.warmup": policy.warmup.kind,
        "policy.convention": made.options.get("convention", "lwexp"),
        "policy.floor": policy.floor,
        "policy.absolute": policy.absolute,
    }
    if not isinstance(made.policy, str):
        shape = policy.shape
        return {"policy": getattr(shape, "__qualname__", type(shape).__qualname__), **common}
    function = POLICIES[made.policy]
    parameters = inspect.signature(function).parameters
    options = {key: each.default for key, each in parameters.items() if each.default is not each.empty}
    options |= {key: value for key, value in made.options.items() if key not in COMMON}
    depends = torch_lengths(options) if made.policy == "torch" else {*function.__annotations__}
    lengths = {"steps": made.steps, "steps_per_epoch": made.steps_per_epoch}
    return {
        "policy": made.policy,
        **{f"policy.{key}": plain(value) for key, value in options.items()},
        **common,
        **{key: value for key, value in lengths.items() if key in depends},
    }


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
