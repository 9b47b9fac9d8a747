"""What a run puts into its network: the weights of a file, and low-rank adapters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lwexp.config.schema import RunConfig
from lwexp.config.weights_schema import PretrainingConfig, WeightsFileConfig
from lwexp.formatting import few

from .cross_checks import check_adapters

if TYPE_CHECKING:
    from lwexp.models.adapters import Adapters
    from lwexp.models.build import BuiltModel

log = logging.getLogger(__name__)


def with_weights(config: RunConfig, built: BuiltModel, base: Path, *, report_loaded: bool = True) -> BuiltModel:
    """`built` with its weights, the names of what is not loaded, and adapters in its module, if the config has any.

    Into a model on the meta device nothing is loaded. Weights of a source task follow later, for all but the head.
    Raises `ConfigError`.
    """
    check_adapters(config)
    return _with_adapters(config, _loaded(config, built, base, report_loaded=report_loaded))


def adapter_notes(adapters: Adapters | None) -> Iterator[str]:
    """A line for the plan's header that says where adapters are."""
    if adapters is not None:
        kind = f"adapters of rank {adapters.rank}, times {adapters.alpha / adapters.rank:g}"
        yield f"lora: {kind}, in {len(adapters.modules)} layers: {few(adapters.modules)}; the head trains whole"


def _loaded(config: RunConfig, built: BuiltModel, base: Path, *, report_loaded: bool) -> BuiltModel:
    import torch

    from lwexp.models.blueprint import parameters_among
    from lwexp.models.weights import head_names, load_checkpoint

    if isinstance(config.weights, PretrainingConfig):
        with torch.random.fork_rng(devices=[]):
            return replace(built, new_names=parameters_among(built.module, head_names(built.module)))
    if isinstance(config.weights, WeightsFileConfig):
        report = load_checkpoint(
            built.module,
            base / config.weights.path,
            strict=config.weights.strict,
            place=config.weights.key,
            prefix=config.weights.prefix,
        )
        if report_loaded:
            log.info("%s", report)
        return replace(built, new_names=report.new_names(built.module))
    return built


def _with_adapters(config: RunConfig, built: BuiltModel) -> BuiltModel:
    chosen = config.lora
    if chosen.rank is None:
        return built
    from lwexp.models.adapters import Adapters, add_adapters, find_targets

    modules = find_targets(built.module, chosen.target, built.new_names)
    adapters = Adapters(chosen.rank, chosen.alpha or float(chosen.rank), chosen.dropout, modules)
    add_adapters(built.module, adapters, built.new_names)
    return replace(built, adapters=adapters)
