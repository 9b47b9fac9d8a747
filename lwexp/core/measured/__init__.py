"""Measured decays: the scale of each group from what the training shows: its weights, gradients or steps.

`RULES` has them by the name that `decay=` takes. A new one is a subclass of `MeasuredDecay` and an entry here.
"""

from __future__ import annotations

from .base import MeasuredDecay
from .heavy_tails import HeavyTail, TempBalance
from .update_ratio import UpdateRatio

RULES: dict[str, type[MeasuredDecay]] = {
    "temp_balance": TempBalance,
    "heavy_tail": HeavyTail,
    "update_ratio": UpdateRatio,
}
