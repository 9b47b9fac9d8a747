"""Layer-wise learning rates for PyTorch: plan them, see them, train with them.

>>> import torch, lwexp
>>> plan = lwexp.make_plan(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)), lr=0.1, mult=0.5)
>>> [(g.name, g.lr) for g in plan.groups]
[('1', 0.1), ('0', 0.05)]
>>> optimizer = torch.optim.Adam(plan.param_groups())
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cli.library import run_job
    from .core.decay import DecayName
    from .core.finding.find_lr import FoundRates, find_lr
    from .core.grouping import GroupingName
    from .core.make_plan import make_plan
    from .core.measured.base import MeasuredDecay
    from .core.measured.probe import Probe
    from .core.optim.names import OptimizerName
    from .core.plan import Plan
    from .core.plan_table import PlanGroup
    from .core.recipes import Recipe, recipe
    from .core.schedule import Event
    from .core.scheduler import PlanScheduler
    from .core.shapes import PolicyName
    from .errors import (
        ConfigError,
        LwexpError,
        NoLayerwiseRatesWarning,
        RunError,
        UnknownGroupError,
        UnknownNameError,
        UnknownOptionError,
    )
    from .inference.loaded import LoadedRun, load
    from .plots.figure import plot
    from .record.track import track
    from .training.callbacks import Callback

    __version__: str

_HOMES = {
    "Callback": "training.callbacks",
    "ConfigError": "errors",
    "DecayName": "core.decay",
    "Event": "core.schedule",
    "FoundRates": "core.finding.find_lr",
    "GroupingName": "core.grouping",
    "LoadedRun": "inference.loaded",
    "LwexpError": "errors",
    "MeasuredDecay": "core.measured.base",
    "NoLayerwiseRatesWarning": "errors",
    "OptimizerName": "core.optim.names",
    "Plan": "core.plan",
    "PlanGroup": "core.plan_table",
    "PlanScheduler": "core.scheduler",
    "PolicyName": "core.shapes",
    "Probe": "core.measured.probe",
    "Recipe": "core.recipes",
    "RunError": "errors",
    "UnknownGroupError": "errors",
    "UnknownNameError": "errors",
    "UnknownOptionError": "errors",
    "find_lr": "core.finding.find_lr",
    "load": "inference.loaded",
    "make_plan": "core.make_plan",
    "recipe": "core.recipes",
    "plot": "plots.figure",
    "run_job": "cli.library",
    "track": "record.track",
}
__all__ = [
    "Callback", "ConfigError", "DecayName", "Event", "FoundRates", "GroupingName", "LoadedRun", "LwexpError",
    "MeasuredDecay", "NoLayerwiseRatesWarning", "OptimizerName", "Plan", "PlanGroup", "PlanScheduler", "PolicyName",
    "Probe", "Recipe", "RunError", "UnknownGroupError", "UnknownNameError", "UnknownOptionError", "find_lr", "load",
    "make_plan", "plot", "recipe", "run_job", "track",
]  # fmt: skip


def __dir__() -> list[str]:
    """The public names, which are imported only when used."""
    return [*__all__, *(name for name in (*globals(), "__version__") if name.startswith("__"))]


if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        """Import torch only when a name is used, so that the command line answers at once."""
        from importlib import import_module

        if name in _HOMES:
            try:
                return getattr(import_module(f".{_HOMES[name]}", __name__), name)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.startswith("lwexp"):
                    raise
                why = f"lwexp.{name} needs {error.name}, which is not installed; pip install lwexp brings it"
                raise ModuleNotFoundError(why, name=error.name) from error
        if name == "__version__":
            from .formatting import version

            return version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _check_command() -> None:
    """While `python -m` looks its module up, `sys.argv` begins with -m: refuse a module that would do nothing."""
    if getattr(sys, "argv", [])[:1] == ["-m"]:
        module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
        if module.startswith("lwexp."):
            from .__main__ import check_command

            check_command(module)


_check_command()
