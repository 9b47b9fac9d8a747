"""The depth of every parameter of any network: from its own description, from a forward pass, or as registered.

Start at `find_depths` in `finding.py`. `description.py` reads timm's matchers; `execution.py` records a forward pass of
a copy of the model (`twin.py`, `inputs.py`); `structure.py`, `units.py` and `flow.py` turn the record into depths by
the rules whose numbers are in the table of `thresholds.py`.
"""

from __future__ import annotations

from .finding import SOURCES, Depths, execution_depths, find_depths

__all__ = ["SOURCES", "Depths", "execution_depths", "find_depths"]
