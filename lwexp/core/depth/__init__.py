"""The depth of every parameter of any network: from its own description, from a forward pass, or as registered.

Start at `find_depths` in `finding.py`. `description.py` reads timm's matchers; `execution.py` runs a copy of the model
(`twin.py` without the user's hooks, `hooks.py`; input from `inputs.py`) and `recorder.py` records its operations.
`structure.py` and `units.py` divide the modules into units, `flow.py` follows the data through them, `placing.py` gives
them depths, by the rules whose numbers are in the table of `thresholds.py`; `confidence.py` tells where these may be
wrong. The ideas underneath:

- A module that holds nothing but one other is no part of the network: wrappers change nothing.
- Blocks are repeated modules, one after the other. Most of the weights are no single block: what holds them is opened.
  Alike modules side by side are networks (towers), not blocks. Elements of several lists that are used in turn are one
  block. Where blocks hold no majority of weights or layers, every layer is a block.
- A block is one deeper than the deepest data that enter it. Another layer belongs to the block that it feeds, or stands
  where its result meets other data (a skip connection, a last modulation).
- The head is what feeds only an output, and the layers of its kind before it.
"""

from __future__ import annotations

from .finding import SOURCES, Depths, execution_depths, find_depths

__all__ = ["SOURCES", "Depths", "execution_depths", "find_depths"]
