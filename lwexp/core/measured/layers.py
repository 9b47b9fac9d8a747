"""The layers of a network by their weights, and the layer that each bias and norm goes with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Layers:
    """`weights`: names of the weights of layers, from the head to the stem, `embeddings` those of them that look up.

    `own`: parameter -> weight of the layer in the same module, `before`: parameter -> weight registered before it, for
    all parameters that are no weights of layers, as far as there is one.
    """

    weights: Sequence[str]
    embeddings: frozenset[str]
    own: Mapping[str, str]
    before: Mapping[str, str]

    @property
    def ends(self) -> frozenset[str]:
        """The first layer, the last layer, and embeddings."""
        return self.embeddings | {*self.weights[:1], *self.weights[-1:]}


def find_layers(model: nn.Module, head_to_stem: Iterable[Sequence[str]]) -> Layers:
    """The layers of `model`; `head_to_stem`: the names of its parameters in the order of the plan.

    The weight of a layer is a matrix (linear, recurrent, attention's `in_proj_weight`, embedding) or the filters of a
    convolution. Positions, class tokens and tables of biases, which a module has beside its layers, are not.
    """
    modules = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    own: dict[str, str] = {}
    before: dict[str, str] = {}
    of_module: dict[int, str] = {}
    embeddings: set[str] = set()
    found: set[str] = set()
    latest: str | None = None
    for name, p in model.named_parameters():
        module = modules[id(p)]
        if _is_weight(name, p, module):
            latest = of_module[id(module)] = name
            found.add(name)
            if isinstance(module, _EMBEDDINGS):
                embeddings.add(name)
            continue
        twin = name.replace("bias", "weight")  # where a module has several, as `bias_hh_l0`
        same = twin if twin in found else of_module.get(id(module))
        if same is not None:
            own[name] = same
        if latest is not None:
            before[name] = latest
    ordered = [name for names in head_to_stem for name in names if name in found]
    return Layers(ordered, frozenset(embeddings), own, before)


def _is_weight(name: str, p: nn.Parameter, module: nn.Module) -> bool:
    if isinstance(module, nn.modules.conv._ConvNd):
        return p.ndim > 2
    named = "weight" in ".".join(name.split(".")[-2:])  # `in_proj_weight`, `parametrizations.weight.original1`
    return p.ndim == 2 and (named or next(module.children(), None) is None)
