"""The best network of a run as an MLflow model."""

from __future__ import annotations

import logging

from lwexp.config.schema import MLflowConfig, RunConfig
from lwexp.formatting import one_line
from lwexp.tracking import Tracker
from lwexp.training.state import Progress

from .manifest import point_of
from .place import JobPlace

log = logging.getLogger(__name__)
TAG = "lwexp.model"  # why a run has no MLflow model


def log_network(config: RunConfig, place: JobPlace, tracker: Tracker, progress: Progress) -> None:
    """Log the best network as an MLflow model; where it cannot be exported, the run says so and ends all the same.

    Of a sweep's jobs only the best one has a model, which the sweep logs at its end.
    """
    wanted = isinstance(config.tracking, MLflowConfig) and config.tracking.model
    if place.package is None or not wanted or point_of(place.folder) is not None:
        return
    assert isinstance(config.tracking, MLflowConfig)
    try:
        path, facts = place.package(place.folder)
    except Exception as error:  # the training is complete: nothing that the export meets may take that away
        why = one_line(error)
        log.warning("run %s has no MLflow model: %s", tracker.run_name, why)
        tracker.tag({TAG: f"none: {why}"})
        return
    tracker.model(path, {**facts, "register": config.tracking.register_model, "step": progress.step})
