"""The depth of every parameter of any network: from its own description, from a forward pass, or as registered.

find_depths(model) -> Depths. `description.py` reads timm's matchers; `execution.py` records a forward pass on a twin of
the model (`twin.py`, `inputs.py`); `structure.py`, `units.py` and `flow.py` turn what was recorded into depths.
"""

from __future__ import annotations

from .finding import SOURCES, Depths, execution_depths, find_depths

__all__ = ["SOURCES", "Depths", "execution_depths", "find_depths"]
