"""The evaluation at the end of a run: the best weights on the test split, in numbers, tables and pictures.

And, with `wise_ft`, their average with the starting weights.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from lwexp.formatting import one_line
from lwexp.training.checkpoint.weights import read_weights, save_weights
from lwexp.training.details import Details, details_of
from lwexp.training.monitor import Monitor
from lwexp.training.predictions import PredictionKeeper
from lwexp.training.start import FILE as START
from lwexp.training.start import mixed

from .evaluation_files import FOLDER, Evaluated, write_evaluation
from .manifest import is_kept
from .starting_weights import new_parameters

if TYPE_CHECKING:
    from lwexp.data import EpochLoader
    from lwexp.training.trainer import Trainer

    from .instantiate import Experiment
    from .on_device import Loaders
    from .place import JobPlace

log = logging.getLogger(__name__)
MIX = "wise_ft.safetensors"  # in the run's folder
_MORE = ("top5", "ece")  # of a classification, besides what every evaluation gives


def evaluate_best(trainer: Trainer, loaders: Loaders, experiment: Experiment, place: JobPlace) -> dict[str, float]:
    """Evaluate the best weights on the test split and keep the result in the run's folder and record.

    Data without one are evaluated on the validation split, whose metrics are known already. Returns `test/loss`, …,
    `test/top5` (of more than five classes) and `test/ece`; without a test split `best/top5` and `best/ece`.
    Jobs of a sweep without details keep numbers only; without a test split they are not evaluated again.
    """
    info = experiment.source.info
    # all ranks as the one that has the sweep's folder
    with_details = trainer.world.on_rank_zero(lambda: is_kept(place.folder, in_sweeps=experiment.config.sweep.details))
    if loaders.test is None and not with_details:
        return {}
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
    if with_details:
        trainer.world.on_rank_zero(lambda: _keep(details, loader, split, trainer, experiment, place))
    return more if split == "val" else {**metrics, **more}


def evaluate_mix(trainer: Trainer, loaders: Loaders, experiment: Experiment, place: JobPlace) -> dict[str, float]:
    """Average the weights of the start and the best ones, keep the result, and evaluate it.

    Returns `wise_ft/val/accuracy` and the like, and those of the test split; nothing where it is off.
    """
    config, world, folder = experiment.config, trainer.world, place.folder
    alpha = config.wise_ft.alpha
    if alpha is None:
        return {}
    new = new_parameters(experiment.plan, experiment.built.new_names, config.wise_ft.new, "wise_ft.new")
    every = [*trainer.learner.model.named_parameters(remove_duplicate=False)]
    ids = {id(parameter) for name, parameter in every if name in new}
    new = frozenset(name for name, parameter in every if id(parameter) in ids)  # a tied one with all its names

    def mix() -> bool:
        best = read_weights(folder / "best.safetensors")
        save_weights(mixed(read_weights(folder / START), best, alpha, new), folder / MIX)
        return True

    world.on_rank_zero(mix)
    found = trainer.test(loaders.val, "val", file=MIX)
    if loaders.test is not None:
        found |= trainer.test(loaders.test, "test", file=MIX)
    main = Monitor.of(experiment.source.info.task)
    log.info(
        "wise_ft alpha=%g: %s %s with (1 - alpha) * start + alpha * best weights, kept in %s",
        alpha, main.words, main.shown(main.value(found)), MIX,
    )  # fmt: skip
    if is_kept(folder, in_sweeps=config.sweep.keep_weights):
        trainer.tracker.artifact(folder / MIX)
    return {f"wise_ft/{name}": value for name, value in found.items()}


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
