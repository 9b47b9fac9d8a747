"""A recipe: the rates, the optimizer and the freezing of published work, as plain values for any network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Scaling = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True)
class Recipe:
    """What published work sets; `print` shows it.

    `settings` are options as the config has them: {grouping: {name: …}, policy: {name: …}, freeze: […], …}.

    `lr` is the base rate, published for batches of `batch_size`; `scaling` says how its authors change it for others:
    `linear` (lr * batch / batch_size), `sqrt` of that ratio, or `none`. `mult`: the factor from one group to the next.
    `sizes` are other values for larger networks, the smallest first: [{weights: 2e8, lr: …, mult: …}] is for those of
    200 million weights and more. `source` names paper and code, `differs` says what is not as published.
    """

    name: str
    what: str = ""
    source: str = ""
    differs: str = ""
    lr: float | None = None
    batch_size: int | None = None
    scaling: Scaling = "none"
    mult: float | None = None
    sizes: tuple[Mapping[str, float], ...] = field(default=(), hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def rates(self, weights: int, batch_size: int | None) -> Rates:
        """Base rate and multiplier for a network of so many `weights`, trained with batches of `batch_size`."""
        size = next((size for size in reversed(self.sizes) if weights >= size["weights"]), {})
        mult, published = size.get("mult", self.mult), size.get("lr", self.lr)
        lr, words = published, [f"lr={published:g}"] if published is not None else []
        if published is not None and self.batch_size is not None and self.scaling != "none":
            ratio = 1.0 if batch_size is None else batch_size / self.batch_size
            lr = published * (ratio if self.scaling == "linear" else math.sqrt(ratio))
            by = "batch size" if self.scaling == "linear" else "square root of the batch size"
            now = "not scaled, give batch_size" if batch_size is None else f"{lr:g} for batches of {batch_size}"
            words = [f"lr={published:g} for batches of {self.batch_size}, scaled by the {by}: {now}"]
        elif published is not None and self.batch_size is not None:
            words = [f"lr={published:g} for batches of {self.batch_size}, which its authors do not scale"]
        if mult is not None and self.sizes:
            words.append(f"mult={mult:g} for a network of {weights:,} weights")
        return Rates(lr, mult, "; ".join(words))

    def lines(self, rates: Rates, changed: Sequence[str] = (), absent: Sequence[str] = ()) -> tuple[str, ...]:
        """What a plan says of it: the source, the rates and what differs.

        `changed` are the user's own options, `absent` patterns of `lr_mults` that the network has nothing of.
        """
        found = [f"recipe={self.name}: {self.source}" if self.source else f"recipe={self.name}"]
        found += [f"recipe={self.name}: {rates.words}"] if rates.words else []
        found += [f"recipe={self.name} differs from the paper: {self.differs}"] if self.differs else []
        found += [f"recipe={self.name}: the network has no {each}, so its lr_mults are omitted" for each in absent]
        found += [f"recipe={self.name}, changed here: {', '.join(changed)}"] if changed else []
        return tuple(found)


@dataclass(frozen=True)
class Rates:
    """Base rate and multiplier of a recipe, None where it has none, and both in words."""

    lr: float | None
    mult: float | None
    words: str


def weights_of(model: nn.Module) -> int:
    """The number of weights, by which a recipe tells sizes apart."""
    return sum(each.numel() for each in model.parameters())
