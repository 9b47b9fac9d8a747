"""What a plan says of itself besides its table: that layer-wise rates are missing, that they are nearly uniform, …"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from lwexp.formatting import few

from .depth.parameters import is_matrix
from .plan_table import PlanGroup

DOMINANT_SHARE = 0.8
_FINER = {"top_module": "depth_index", "by_name": "depth_index", "depth_index": "per_parameter"}


def no_layerwise_rates(groups: Sequence[PlanGroup], grouping: str, decay: str, mult: float, layers: int) -> str:
    """Why all weights have one rate although rates were to fall with depth, and the ways out; "" where that is not so.

    `layers` are those that are trained, as `trained_layers` counts them.
    """
    uniform = decay in ("none", "explicit") or (decay == "linear" and mult == 1)
    if uniform or len(groups) > 1:
        return ""
    if layers < 2:
        return f"no layer-wise rates: the only group, {groups[0].name}, has one layer to train"
    return (
        f"no layer-wise rates: all {layers} layers are in the only group, {groups[0].name}, at one rate; "
        f"grouping={_FINER.get(grouping, 'depth_index')} separates them, decay=none asks for uniform rates"
    )


def trained_layers(groups: Iterable[PlanGroup], parameters: Mapping[str, nn.Parameter]) -> int:
    """The number of modules that own a trained parameter of two or more dimensions."""
    trained = {name for g in groups for name in {*g.optimizer_names}.difference(g.frozen_names)}
    return len({name.rpartition(".")[0] for name in trained if is_matrix(parameters[name])})


def notes(
    groups: Sequence[PlanGroup], grouping: str, decay: str, lr: float, mult: float, undecayed: Sequence[str]
) -> list[str]:
    """Lines for the plan's header: what of the rates a user may not expect."""
    found = []
    if decay == "linear" and mult > 1:
        found.append(f"mult={mult:g} is above 1: rates rise from the head to the stem")
    first = next((g for g in groups if {*g.optimizer_names}.difference(g.frozen_names)), groups[0])
    if first.index and first.scale < 1:
        found.append(
            f"group 0 ({groups[0].name}) is frozen, so training starts at group {first.index} ({first.name}) and no "
            f"group has lr={lr:g}; with index_from=trained that group has it"
        )
    total = sum(g.trainable_weights for g in groups)
    # Overrides may split a group into parts at different rates: the weights at one rate count, not those of the group.
    at_rate: dict[tuple[int, str], list[PlanGroup]] = {}
    for g in groups:
        at_rate.setdefault((g.index, f"{g.lr:.6e}"), []).append(g)
    dominant = max(at_rate.values(), key=lambda parts: sum(g.trainable_weights for g in parts))
    share = sum(g.trainable_weights for g in dominant) / total if total else 0
    if share > DOMINANT_SHARE and grouping in _FINER and len(groups) > 1 and decay != "none":
        found.append(
            f"group {dominant[0].index} ({dominant[0].name}) holds {share:.0%} of the trainable weights, so the rates "
            f"are nearly uniform; a finer grouping is grouping={_FINER[grouping]}"
        )
    if undecayed:
        found.append(f"the model's own no_weight_decay() keeps the weight decay off {few(undecayed, 4)}")
    return found
