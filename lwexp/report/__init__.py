"""`python -m lwexp.report`: what can be concluded from a sweep's runs in MLflow, as text, tables, pictures and a page.

It reads runs through `lwexp.tracking` alone, so it works wherever the store can be reached; it also imports errors,
formatting, redaction, config and plots. Begin with `build.py`, which goes from the sweep (`runs`) to comparisons
(`analysis`, by `statistics`), sentences (`conclusions`) and files (`tables`, `figures`, `files`). What the results of a
study mean is in `studies/`, which needs no store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .command import main

if TYPE_CHECKING:
    from .build import Report, headline, make_report

__all__ = ["Report", "headline", "main", "make_report"]


def __getattr__(name: str) -> Any:
    """Import scipy and matplotlib only when a report is made, so that mistakes and `--help` are answered at once."""
    if name in ("Report", "headline", "make_report"):
        from . import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
