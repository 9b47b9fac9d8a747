"""What is monitored: the direction of a metric by its name, and the metric that a plateau observes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lwexp.errors import ConfigError

AUTO = "auto"
_PLATEAUS = ("plateau", "reduce_lr_on_plateau")  # the policy and its alias
# Words in a metric's name by which low values of it are good
_LOW = frozenset({
    "loss", "error", "err", "mae", "mse", "rmse", "rmsle", "mape", "smape", "msle", "ece", "nll", "brier",
    "calibration", "perplexity", "divergence", "distance", "hamming", "wer", "cer",
})  # fmt: skip


def direction(metric: str) -> Literal["min", "max"]:
    """Whether a low or a high value of `metric` is good, by its name.

    >>> direction("val/loss"), direction("val/top5_accuracy"), direction("val/calibration_error")
    ('min', 'max', 'min')
    """
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    return "max" if _LOW.isdisjoint(words) else "min"


def monitored(metric: str, mode: str) -> tuple[str, Literal["min", "max"]] | None:
    """The metric and its direction that the options `monitor` and `monitor_mode` name; None: that of the task.

    Raises `ConfigError` for a direction of no metric.
    """
    if metric == AUTO:
        if mode != AUTO:
            raise ConfigError("monitor_mode", mode, "is the direction of monitor, which is auto; name the metric too")
        return None
    return metric, direction(metric) if mode == AUTO else "min" if mode == "min" else "max"


def with_monitor(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config `values` whose plateaus have a metric: their own, else `monitor`, and val/loss while that is auto.

    >>> with_monitor({"monitor": "val/accuracy", "policy": {"name": "plateau", "metric": None, "mode": None}})["policy"]
    {'name': 'plateau', 'metric': 'val/accuracy', 'mode': 'max'}
    """
    name, mode = str(values.get("monitor", AUTO)), str(values.get("monitor_mode", AUTO))
    found = None if name == AUTO else (name, direction(name) if mode not in ("min", "max") else mode)
    filled = dict(values)
    if isinstance(values.get("policy"), Mapping):
        filled["policy"] = _policy(values["policy"], found)
    if isinstance(values.get("policies"), Mapping):
        filled["policies"] = {key: _policy(each, found) for key, each in values["policies"].items()}
    if isinstance(values.get("phases"), list):
        filled["phases"] = [_phase(phase, found) for phase in values["phases"]]
    return filled


def _phase(phase: Any, found: tuple[str, str] | None) -> Any:
    if not isinstance(phase, Mapping):
        return phase
    filled = dict(phase)
    if phase.get("policy") is not None:
        filled["policy"] = _policy(phase["policy"], found)
    if isinstance(phase.get("policies"), Mapping):
        filled["policies"] = {key: _policy(each, found) for key, each in phase["policies"].items()}
    return filled


def _policy(policy: Any, found: tuple[str, str] | None) -> Any:
    """The section `policy`, or its name alone, with what it leaves open."""
    if isinstance(policy, str):
        return _policy({"name": policy}, found) if found and policy in _PLATEAUS else policy
    if not isinstance(policy, Mapping) or policy.get("_target_") is not None:
        return policy
    name = policy.get("name")
    is_torch = policy.get("kind") == "torch"
    if not (name == "ReduceLROnPlateau" if is_torch else name in _PLATEAUS):
        return {**policy, "metric": "val/loss"} if is_torch and policy.get("metric", "") is None else policy
    own = policy.get("metric")
    metric = str(own) if own is not None else found[0] if found else "val/loss"
    mode = found[1] if found and metric == found[0] else direction(metric)
    filled = dict(policy)
    if own is None and (found or "metric" in policy):  # one without the key has the function's own default
        filled["metric"] = metric
    place = dict(policy.get("options") or {}) if is_torch else filled
    if place.get("mode") is None and (mode == "max" or "mode" in place):
        place["mode"] = mode
    return {**filled, "options": place} if is_torch else filled
