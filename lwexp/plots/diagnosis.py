"""What diagnosed steps did to the groups: arrays [steps, groups] to be drawn, and which groups stand out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rate_table import Floats

TITLES: Mapping[str, str] = {  # of the measures that are drawn, by their column of the table
    "gradient_norm": "gradient norm ‖g‖, as the optimizer uses it",
    "relative_gradient_norm": "relative gradient norm ‖g‖ / ‖w‖",
    "update_ratio": "update ratio ‖Δw‖ / ‖w‖",
    "distance": "distance from the starting weights ‖w - w0‖ / ‖w0‖",
}


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The measures of diagnosed `steps` [rows], increasing: each [rows, groups], NaN where it is not defined.

    `rates` [rows, groups] are those that the optimizer used.
    """

    steps: NDArray[np.int64]
    rates: Floats
    measures: Mapping[str, Floats]
