"""What a checkpoint keeps of a plan, and how that differs from another plan, in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lwexp.core.plan import Plan

SHOWN = 6


def plan_record(plan: Plan, optimizer_names: Sequence[str]) -> dict[str, Any]:
    """The plan as plain values; `optimizer_names` are its parameters as the optimizer has them, in that order."""
    return {
        "hash": plan.hash,
        "no_weight_decay": _plain(plan.no_weight_decay),
        "optimizer_names": list(optimizer_names),
        "groups": [
            {
                "label": label,
                "lr": group.lr,
                "parameters": list(group.parameter_names),
                "frozen": list(group.frozen_names),
                "options": [
                    [list(part.parameter_names), {option: _plain(value) for option, value in part.options.items()}]
                    for part in group.parts
                    if part.options
                ],
            }
            for label, group in zip(plan.labels, plan.groups, strict=True)
        ],
    }


def plan_difference(saved: Mapping[str, Any], plan: Plan) -> str:
    """How `plan` differs from the one recorded in `saved`: rates, groups, moved, frozen and unfrozen parameters."""
    new = plan_record(plan, ())
    before = {group["label"]: group for group in saved["groups"]}
    after = {group["label"]: group for group in new["groups"]}
    parts = [
        f"{label} {before[label]['lr']:g} -> {group['lr']:g}"
        for label, group in after.items()
        if label in before and before[label]["lr"] != group["lr"]
    ]
    parts += [f"{label} is new" for label in after if label not in before]
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
            parts.append(f"{_few(sorted(changed))} {what}")
    if saved["no_weight_decay"] != new["no_weight_decay"]:
        parts.append(f"no_weight_decay {saved['no_weight_decay']} -> {new['no_weight_decay']}")
    else:
        parts += _changed_options(saved, new)
    more = len(parts) - SHOWN
    text = ", ".join(parts[:SHOWN]) or "the order of the parameters"  # all else has been compared
    return f"{text}, … and {more} more" if more > 0 else text


def _changed_options(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Options of the optimizer that parameters have of their own, and that have changed."""
    before, after = _options(saved), _options(new)
    changed: dict[tuple[str, str, str], list[str]] = {}
    for name, option in {**before, **after}:
        old, now = (str(each.get((name, option), "default")) for each in (before, after))
        if old != now:
            changed.setdefault((option, old, now), []).append(name)
    return [f"{option} of {_few(names)} {old} -> {now}" for (option, old, now), names in changed.items()]


def _options(record: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (name, option): value
        for group in record["groups"]
        for names, options in group.get("options", ())  # not saved before 0.2
        for name in names
        for option, value in options.items()
    }


def _plain(value: Any) -> Any:
    """`value` of types that any file of a checkpoint can hold."""
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return value if value is None or type(value) in (bool, int, float, str) else repr(value)


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
