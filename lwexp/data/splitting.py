"""Cutting one list of labelled samples into two, stratified."""

from __future__ import annotations

import torch
from torch import Tensor

from lwexp.errors import ConfigError


def stratified_cut(labels: Tensor, fraction: float, seed: int, what: str = "image") -> tuple[Tensor, Tensor]:
    """Positions to keep and positions cut off, about `fraction` of all, with every class in proportion.

    `labels`: int64 [n]; both results are sorted. A class with one sample stays with those kept; of the others, at
    least as many samples as classes go to either side. The choice is scikit-learn's `train_test_split`, by `seed`.
    Raises `ConfigError` where no class has two; `what` says of what.
    """
    from sklearn.model_selection import train_test_split

    if seed >= 2**32:
        raise ConfigError("data.split_seed", seed, "must be below 2**32")
    divisible = torch.nonzero(torch.bincount(labels)[labels] >= 2).flatten()
    if not len(divisible):
        why = f"no class has two {what}s, so none can be cut for validation"
        raise ConfigError("data", f"{len(labels)} {what}s", why)
    classes = len(torch.bincount(labels[divisible]).nonzero())
    size = min(max(round(fraction * len(divisible)), classes), len(divisible) - classes)
    _, cut = train_test_split(
        divisible.numpy(), test_size=size, random_state=seed, stratify=labels[divisible].numpy(), shuffle=True
    )
    is_cut = torch.zeros(len(labels), dtype=torch.bool)
    is_cut[torch.from_numpy(cut)] = True
    return torch.nonzero(~is_cut).flatten(), torch.nonzero(is_cut).flatten()
