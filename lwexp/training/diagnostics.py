"""What each step did to the groups, as far as it is diagnosed: norms of gradients, weights, updates and distances."""

from __future__ import annotations

import logging
from pathlib import Path

from lwexp.core.arriving import Arriving
from lwexp.core.dtensor import is_sharded
from lwexp.core.present_rates import diagnosed_metric
from lwexp.core.update_norms import MEASURES, UpdateNorms
from lwexp.distributed.world import World
from lwexp.tracking import Tracker

from .callbacks import Callback
from .start import FILE, read_start, save_start
from .state import Learner, Progress, StepResult

log = logging.getLogger(__name__)


class Diagnostics(Callback):
    """Measures every `every_steps`-th step and the last one, and keeps the rows in the journal.

    The starting weights are a file in the run's folder, so that a resumed run measures from the same ones. They stay
    on the host: in pinned memory for a GPU, else as pages of the file. The device holds one more copy of the weights
    while the optimizer steps, and nothing between steps. The numbers of a step are read when its loss is.
    """

    def __init__(self, every_steps: int, world: World, folder: Path) -> None:
        """`folder` is the run's."""
        self._every, self._world, self._folder = every_steps, world, folder
        self._last = -1
        self._pending: dict[int, Arriving] = {}

    def setup(self, learner: Learner, tracker: Tracker) -> None:
        """Find the parameters of each group; replicas are measured by rank 0 alone."""
        self._learner, self._tracker = learner, tracker
        self._norms = UpdateNorms(learner.plan, learner.parallel.total_norms)
        self._measures = self._world.is_rank_zero or any(is_sharded(p) for p in learner.trainable)
        self._names = [
            (*(diagnosed_metric(measure, label) for measure in MEASURES), diagnosed_metric("lr", label))
            for label in learner.plan.labels
        ]

    def fit_start(self, progress: Progress) -> None:
        """Keep the starting weights, or find them again."""
        self._last = progress.steps - 1
        model, world, folder = self._learner.model, self._world, self._folder
        if progress.step == 0:
            save_start(model, world, folder)
        if not world.on_rank_zero((folder / FILE).is_file):
            log.warning("%s is missing: the distance of the weights from where they started is not known", FILE)
            return
        start = read_start(model, world, folder)
        if self._measures:
            self._norms.set_start(start)

    def update_start(self, progress: Progress) -> None:
        """The gradients are as the optimizer uses them."""
        if self._due(progress.step):
            self._norms.before()

    def update_end(self, progress: Progress) -> None:
        """The weights have moved."""
        if self._due(progress.step):
            self._pending[progress.step] = self._norms.after()

    def step_end(self, result: StepResult) -> None:
        """Keep the row of a step; one that was skipped used no gradient and moved nothing."""
        if not self._due(result.number):
            return
        if result.number not in self._pending:
            self._norms.before(skipped=True)
            self._pending[result.number] = self._norms.after()
        found = self._norms.read(self._pending.pop(result.number))
        row: dict[str, float] = {}
        for names, values, rate in zip(self._names, found, result.rates, strict=True):
            row.update(zip(names, (*values, rate), strict=True))
        self._tracker.log(row, result.number, deliver=False)

    def _due(self, step: int) -> bool:
        return self._measures and (step % self._every == 0 or step == self._last)
