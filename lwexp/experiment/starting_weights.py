"""What a run needs of the weights that it starts from, to be pulled to them (L2-SP) or averaged with them (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import ScratchConfig
from lwexp.core.patterns import first_matches
from lwexp.errors import ConfigError

if TYPE_CHECKING:
    from lwexp.core.plan import Plan
    from lwexp.distributed.world import World
    from lwexp.training.callbacks import Callback
    from lwexp.training.state import Learner


def check_start(config: RunConfig, plan: Plan, new_names: frozenset[str]) -> Iterator[str]:
    """Raise `ConfigError` where there is no start to return to; yields notes."""
    for key, alpha, new in (
        ("l2_sp", config.l2_sp.alpha, config.l2_sp.new), ("wise_ft", config.wise_ft.alpha, config.wise_ft.new),
    ):  # fmt: skip
        if alpha is None:
            continue
        if isinstance(config.weights, ScratchConfig) and config.model.source != "custom":
            why = "needs weights to start from: weights=pretrained, checkpoint, source_task or letters"
            raise ConfigError(f"{key}.alpha", alpha, why)
        names = {name for group in plan for name in group.parameter_names}
        apart = new_parameters(plan, new_names, new, f"{key}.new") & names
        if apart == names:
            raise ConfigError(f"{key}.new", new, "covers all parameters, nothing is left that has a start")
        what = "pulled to 0" if key == "l2_sp" else "as trained"
        yield f"{key}: {len(apart)} new parameters are {what}" if apart else f"{key}: no parameter is new"
    if config.l2_sp.alpha is not None and config.optimizer.options.get("weight_decay"):
        yield "l2_sp is published in place of weight decay, and there is both: optimizer.weight_decay=0 ends the other"


def pull_to_start(
    config: RunConfig, learner: Learner, new_names: frozenset[str], world: World, folder: Path, *, resumed: bool
) -> Sequence[Callback]:
    """Keep the weights that a new training starts from, where something returns to them; the pull to them, if any.

    Raises `ConfigError` where a resumed run did not keep them.
    """
    from lwexp.training.start import FILE, PullToStart, StartPenalty, read_start, save_start

    if config.l2_sp.alpha is None and config.wise_ft.alpha is None:
        return ()
    if not resumed:
        save_start(learner.model, world, folder)
    elif not world.on_rank_zero((folder / FILE).is_file):
        alphas = {"l2_sp.alpha": config.l2_sp.alpha, "wise_ft.alpha": config.wise_ft.alpha}
        key, alpha = next((key, alpha) for key, alpha in alphas.items() if alpha is not None)
        why = f"cannot begin in the middle of a run: its folder has no {FILE}, the weights that it started from"
        raise ConfigError(key, alpha, why)
    if config.l2_sp.alpha is None:
        return ()
    chosen = config.l2_sp
    new = new_parameters(learner.plan, new_names, chosen.new, "l2_sp.new")
    penalty = StartPenalty(config.l2_sp.alpha, chosen.beta, chosen.all_parameters)
    return (PullToStart(penalty, new, read_start(learner.model, world, folder)),)


def new_parameters(plan: Plan, new_names: frozenset[str], patterns: Sequence[str], key: str) -> frozenset[str]:
    """The parameters that were not loaded, and those that `patterns` name."""
    names = [name for group in plan for name in group.parameter_names]
    return new_names | {*first_matches(plan.patterns(patterns, key), names, key)}
