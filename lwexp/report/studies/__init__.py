"""What the results of a study mean: `python -m lwexp.report study.csv`, from the file alone, without a store.

A study compares arms of a training: first a search over base rates on validation, then final runs with fresh seeds.
Begin with `report.py`: files are read (`reading`), analyzed (`arms`, `rates`, `analysis`), put into `sentences`,
`tables` and figures, and written (`files`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .report import report_study

__all__ = ["report_study"]


def __getattr__(name: str) -> Any:
    """Import scipy and matplotlib only when a report is made."""
    if name == "report_study":
        from . import report

        return report.report_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
