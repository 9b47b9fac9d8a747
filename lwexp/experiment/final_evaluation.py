"""The evaluation at the end of a run: the best weights on the test split, in numbers, tables and pictures."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from lwexp.formatting import one_line
from lwexp.training.details import Details, details_of
from lwexp.training.predictions import PredictionKeeper

from .evaluation_files import FOLDER, Evaluated, write_evaluation

if TYPE_CHECKING:
    from lwexp.data import EpochLoader
    from lwexp.training.trainer import Trainer

    from .instantiate import Experiment
    from .on_device import Loaders
    from .place import JobPlace

log = logging.getLogger(__name__)
_MORE = ("top5", "ece")  # of a classification, besides what every evaluation gives


def evaluate_best(trainer: Trainer, loaders: Loaders, experiment: Experiment, place: JobPlace) -> dict[str, float]:
    """Evaluate the best weights on the test split and keep the result in the run's folder and record.

    Data without one are evaluated on the validation split, whose metrics are known already. Returns `test/loss`, …,
    `test/top5` (of more than five classes) and `test/ece`; without a test split `best/top5` and `best/ece`.
    """
    info = experiment.source.info
    keeper = PredictionKeeper(info.task, info.scale)
    loader, split = (loaders.val, "val") if loaders.test is None else (loaders.test, "test")
    metrics = trainer.test(loader, split, keeper)
    predictions = keeper.gather(trainer.world)
    details = details_of(info.task, info.classes, predictions)
    if info.task == "classification":
        prefix = "best" if split == "val" else "test"
        found = details.metrics()
        more = {f"{prefix}/{name}": found[name] for name in _MORE if math.isfinite(found.get(name, math.nan))}
    else:
        more = {}
    trainer.world.on_rank_zero(lambda: _keep(details, loader, split, trainer, experiment, place))
    return more if split == "val" else {**metrics, **more}


def _keep(
    details: Details, loader: EpochLoader, split: str, trainer: Trainer, experiment: Experiment, place: JobPlace
) -> None:
    """Write the files; what cannot be written or drawn is a warning, since the training is complete."""
    data = Evaluated(split, loader.samples, experiment.preprocessing, experiment.source.info.kind)
    folder = place.folder / FOLDER
    try:
        write_evaluation(details, data, folder)
    except Exception as error:  # Pillow and a user's own data may raise anything
        log.warning("the evaluation in %s is not complete: %s", folder, one_line(error, kind=True))
    if folder.is_dir():
        trainer.tracker.artifact(folder, FOLDER)
        log.info("%s split, class by class: %s", {"val": "validation"}.get(split, split), folder)
