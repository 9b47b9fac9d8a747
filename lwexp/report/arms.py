"""Which runs have uniform rates, by their plans, and which uniform run a layer-wise one is compared with."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lwexp.config.defaults import defaults
from lwexp.config.keys import USER_KEYED, changes_numbers, flatten, is_layerwise
from lwexp.tracking.keys import HEAD_RATE_TAG, STEM_RATE_TAG, UNIFORM_TAG
from lwexp.tracking.reader import StoredRun, StoreReader

Key = tuple[tuple[str, str], ...]  # options with their values
SEEDS = ("seed", "random_seed", "rng_seed")  # names of a run's seed among its params


def planned_rates(store: StoreReader, children: Iterable[StoredRun]) -> dict[str, tuple[float, ...]]:
    """The planned rates of the groups by run, those of the head and of the stem at least, as far as they are known.

    From the tags, or from plan.csv where they are missing or do not say whether the rates are uniform.
    """
    found: dict[str, tuple[float, ...]] = {}
    unsure = []
    for child in children:
        try:
            found[child.id] = float(child.tags[HEAD_RATE_TAG]), float(child.tags[STEM_RATE_TAG])
        except (KeyError, ValueError):
            found[child.id] = ()
        if child.status == "FINISHED" and UNIFORM_TAG not in child.tags and len({*found[child.id]}) < 2:
            unsure.append(child.id)
    for run_id, text in zip(unsure, store.texts(unsure, "plan.csv"), strict=True):
        try:
            rates = [float(f"{float(row['lr']):.7g}") for row in csv.DictReader(io.StringIO(text or ""))]
            found[run_id] = tuple(rates) or found[run_id]
        except (KeyError, ValueError):
            continue  # not kept, or not a plan
    return found


def arm_of(child: StoredRun, rates: tuple[float, ...]) -> str:
    """What the run's plan says; of earlier versions, whose tag went by keys, what is known of their rates."""
    told, arm = child.tags.get(UNIFORM_TAG), child.tags.get("lwexp.arm", "")
    if told is not None:
        return "uniform" if told == "true" else "layerwise"
    if not arm:
        return ""
    params = child.params
    frozen = any(params.get(key, "[]") != "[]" for key in ("freeze", "train")) or params.get("lr_events", "[]") != "[]"
    unfreezes = any(params.get(f"unfreeze.every_{unit}", "None") != "None" for unit in ("epochs", "steps"))
    base = number(params.get("lr", ""))
    if frozen or unfreezes or any(base is not None and not math.isclose(base, rate, rel_tol=1e-6) for rate in rates):
        return "layerwise"
    return "uniform" if len(rates) > 2 or (rates and arm == "uniform") else arm


def bases_of(children: Iterable[StoredRun]) -> dict[str, Key]:
    """By run, its value of each setting that varies between runs, but for the seed and what belongs to an arm.

    Of `settings_by_run`, so from the whole config, whichever keys or files set it.
    """
    known = settings_by_run(children)
    varying = [key for key in varying_keys(known) if not is_layerwise(key)]
    return {run: tuple((key, params[key]) for key in varying if key in params) for run, params in known.items()}


def settings_by_run(children: Iterable[StoredRun]) -> dict[str, dict[str, str]]:
    """The settings of each run that has any; one that a run's version of lwexp did not have has its default.

    Of a training loop that is not lwexp's, only what it has logged is known.
    """
    usual = {key: _param(value) for key, value in flatten(defaults(), keep=USER_KEYED).items()}
    return {
        child.id: {
            key: same(value) for key, value in {**({} if _is_own_loop(child) else usual), **child.params}.items()
        }
        for child in children
        if child.params
    }


def varying_keys(known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The settings that change numbers and differ between runs, without the seed."""
    keys = {key for params in known.values() for key in params if key not in SEEDS}
    return [k for k in sorted(keys) if changes_numbers(k) and len({params.get(k) for params in known.values()}) > 1]


def _is_own_loop(child: StoredRun) -> bool:
    """Whether `lwexp.track` has recorded the run: lwexp's own runs also have the options that were typed."""
    return "lwexp.folder" in child.tags and "lwexp.overrides" not in child.tags


def _param(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (Mapping, list)) else str(value)


def number(text: str) -> float | None:
    """`text` as a finite number; None if it is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def same(value: str) -> str:
    """The normal form of `value`: 1e-3 and 0.001 are equal."""
    found = number(value)
    return value.strip() if found is None else repr(found).removesuffix(".0")
