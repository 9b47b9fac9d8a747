"""Rates of groups from range tests: each group alone, the others at rest.

The range test is that of Smith 2017 (arXiv:1506.01186), the rules are those of `lwexp.core.finding.suggestion`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal

from lwexp.core.finding.curve import RangeTest
from lwexp.core.finding.find_lr import group_rate
from lwexp.formatting import few

from .base import MeasuredDecay

if TYPE_CHECKING:
    from .probe import Probe

Rule = Literal["valley", "steepest", "minimum", "divergence"]
Normalize = Literal["mean", "largest"]

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Finder(MeasuredDecay):
    """Scales in proportion to the rate that a range test suggests for each group by `rule`.

    s[i] is the suggested rate of group i over the base rate. `normalize`: "mean": the scales are s over their geometric
    mean, so that `lr` is a typical rate; "largest": over the largest, so that no group is above `lr`; None: s itself,
    so that `lr` does not matter: groups that move together bear smaller rates than each alone.

    A group whose test has no answer, since the loss hardly depends on it, keeps its scale. One measurement takes
    `steps` optimizer steps for each group. `min_lr`, `max_lr`, `steps`, `repeats`: as `RangeTest` has them.
    """

    rule: Rule = "valley"
    normalize: Normalize | None = "mean"
    min_lr: float = 1e-7
    max_lr: float = 10.0
    steps: int = 100
    repeats: int = 1
    min_scale: float = 0.01
    max_scale: float | None = 100.0

    needs: ClassVar[str] = "a range test of each group"

    def __post_init__(self) -> None:
        """Raise `ConfigError` for options out of range."""
        super().__post_init__()
        self._test.check("decay")

    @property
    def _test(self) -> RangeTest:
        return RangeTest(min_lr=self.min_lr, max_lr=self.max_lr, steps=self.steps, repeats=self.repeats)

    def measure(self, probe: Probe) -> Mapping[int, float]:
        """The scale of each group whose range test has an answer."""
        tests = {i: group_rate(probe, self._test, i) for i in probe.compared}
        found = {i: test.rates[self.rule] / probe.plan.lr for i, test in tests.items() if self.rule in test.rates}
        silent = [i for i in tests if i not in found]
        if silent:
            names = few([probe.plan.groups[i].name for i in silent], 4)
            log.warning("no range test of %s has an answer (%s): they keep their scale", names, tests[silent[0]].reason)
        if not found or self.normalize is None:
            return found
        largest = max(found.values())
        by = largest if self.normalize == "largest" else math.exp(fmean(map(math.log, found.values())))
        return {i: scale / by for i, scale in found.items()}
