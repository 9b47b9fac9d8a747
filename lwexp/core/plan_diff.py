"""How two plans differ: a checkpoint's plan and the current one in one line, two plans of a user's as a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from lwexp.formatting import few, plain, printable

from .plan_table import PlanTable

SHOWN = 6
NO_SETTINGS = {
    "schedule_line",
    "groups",
    "notes",
    "undecayed_names",
    "no_layerwise_rates",
}  # what the settings result in


def plan_record(plan: PlanTable, optimizer_names: Sequence[str] = ()) -> dict[str, Any]:
    """The plan as plain values; `optimizer_names` are its parameters as the optimizer has them, in that order."""
    return {
        "hash": plan.hash,
        "no_weight_decay": plain(plan.no_weight_decay),
        "optimizer_names": list(optimizer_names),
        "groups": [
            {
                "label": label,
                "lr": group.lr,
                "parameters": list(group.parameter_names),
                "frozen": list(group.frozen_names),
                "options": [[list(part.parameter_names), plain(part.options)] for part in group.parts if part.options],
            }
            for label, group in zip(plan.labels, plan.groups, strict=True)
        ],
    }


def plan_difference(saved: Mapping[str, Any], plan: PlanTable) -> str:
    """How `plan` differs from the one recorded in `saved`, on one line of at most `SHOWN` differences."""
    new = plan_record(plan)
    parts = _changes(saved, new)
    if saved["no_weight_decay"] != new["no_weight_decay"]:
        parts.append(f"no_weight_decay {saved['no_weight_decay']} -> {new['no_weight_decay']}")
    else:
        parts += _changed_options(saved, new)
    more = len(parts) - SHOWN
    text = ", ".join(parts[:SHOWN]) or "the order of the parameters"  # all else has been compared
    return f"{text}, … and {more} more" if more > 0 else text


def difference_text(before: PlanTable, after: PlanTable) -> str:
    """How `after` differs from `before`, one difference per line: settings, then groups; empty for equal plans.

    Settings, rates, new and missing groups, parameters that moved, are frozen or not any more, or lose weight decay.
    """
    parts = [
        f"{name} {_step(old, new)}"
        for name in (f.name for f in fields(PlanTable) if f.name not in NO_SETTINGS)
        if (old := getattr(before, name)) != (new := getattr(after, name))
    ]
    records = plan_record(before), plan_record(after)
    parts += [*_changes(*records), *_changed_options(*records)]
    if not parts and before.hash != after.hash:
        parts.append("the order of the parameters")
    return "\n".join(map(printable, parts))


def _changes(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Rates, groups, moved, frozen and unfrozen parameters."""
    before = {group["label"]: group for group in saved["groups"]}
    after = {group["label"]: group for group in new["groups"]}
    parts = [
        f"{label} {_step(before[label]['lr'], group['lr'])}"
        for label, group in after.items()
        if label in before and before[label]["lr"] != group["lr"]
    ]
    parts += [f"{label} is new at {group['lr']:g}" for label, group in after.items() if label not in before]
    parts += [f"{label} is gone" for label in before if label not in after]
    homes = {name: label for label, group in before.items() for name in group["parameters"]}
    parts += [
        f"{name} moved from {homes[name]} to {label}"
        for label, group in after.items()
        for name in group["parameters"]
        if label in before and homes.get(name) in after and homes[name] != label
    ]
    frozen_before = {name for group in before.values() for name in group["frozen"]}
    frozen_after = {name for group in after.values() for name in group["frozen"]}
    for changed, what in ((frozen_after - frozen_before, "frozen"), (frozen_before - frozen_after, "unfrozen")):
        if changed:
            parts.append(f"{few(sorted(changed))} {what}")
    return parts


def _step(old: Any, new: Any) -> str:
    """From `old` to `new`; numbers are rounded unless they would look alike."""
    short = [f"{value:g}" if isinstance(value, float) else str(value) for value in (old, new)]
    return f"{old} -> {new}" if short[0] == short[1] else " -> ".join(short)


def _changed_options(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Options of the optimizer that parameters have of their own, and that have changed."""
    before, after = _options(saved), _options(new)
    changed: dict[tuple[str, str, str], list[str]] = {}
    for name, option in {**before, **after}:
        old, now = (str(each.get((name, option), "default")) for each in (before, after))
        if old != now:
            changed.setdefault((option, old, now), []).append(name)
    return [f"{option} of {few(names)} {old} -> {now}" for (option, old, now), names in changed.items()]


def _options(record: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (name, option): value
        for group in record["groups"]
        for names, options in group.get("options", ())  # not saved before 0.2
        for name in names
        for option, value in options.items()
    }
