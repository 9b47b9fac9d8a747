"""Networks as users write them, with their right depths by hand: two sets, see `networks`.

The rules of `lwexp.core.depth` were developed on `developed_*.py`; `held_out_*.py` were written to measure them. Once
a rule is changed for one of the second set, write further networks to measure it.

The right depths: 0 before the first block, one more for each block, the next block's between blocks (a lone norm: the
block's before), the last block's after it, one more for the head. In a network without blocks each layer with weights
has a depth of its own. Where more than one answer is right, each is written.
"""

from __future__ import annotations

import importlib
import pkgutil

from .registry import NETWORKS, Network

SETS = ("developed", "held_out")


def networks(of: str) -> tuple[Network, ...]:
    """The networks of one of the `SETS`."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return tuple(network for network in NETWORKS.values() if network.module.startswith(f"{__name__}.{of}_"))
