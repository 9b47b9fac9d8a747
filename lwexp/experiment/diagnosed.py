"""What a run says of its diagnosed steps at its end: a table, pictures, and the groups that stand out."""

from __future__ import annotations

import numpy as np

from lwexp.plots import process
from lwexp.plots.plan import rate_table, scheduled_rates
from lwexp.plots.rate_table import subsample
from lwexp.record.diagnostics import TABLE, save_diagnostics
from lwexp.record.outliers import outliers
from lwexp.tracking import Tracker
from lwexp.training.state import Progress

from .instantiate import Experiment
from .place import JobPlace


def keep_diagnosis(experiment: Experiment, place: JobPlace, tracker: Tracker, progress: Progress) -> list[str]:
    """Log the table and the pictures of diagnosed steps, if there are any; returns a line for each group apart."""
    plan, config = experiment.plan, experiment.config
    diagnosis = save_diagnostics(place.folder, plan) if config.diagnostics.every_steps is not None else None
    if diagnosis is None:
        return []
    if progress.seen_rates is None:
        table = scheduled_rates(plan, experiment.schedule, experiment.steps)
    else:
        rows = subsample(np.arange(len(progress.seen_rates)))
        table = rate_table(plan, np.asarray(progress.seen_rates, dtype=np.float64)[rows], rows)
    paths = process.write_plots(table, place.folder, in_process=place.draw_in_process, diagnosis=diagnosis)
    for path in (place.folder / TABLE, *paths):
        tracker.artifact(path)
    factors, fixed = (
        {pattern: value for key, value in given.items() for pattern in plan.patterns([key], name)}
        for name, given in (("lr_mults", config.lr_mults), ("lr_overrides", config.lr_overrides))
    )
    return outliers(plan, diagnosis, factors, fixed)
