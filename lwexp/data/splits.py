"""Stratified splits of labeled samples into two, and stratified parts of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwexp.errors import ConfigError

_BINS = 10  # parts of equal size in which the numbers of a regression are for a stratified split


def stratified_cut(labels: Tensor, fraction: float, seed: int, what: str = "image") -> tuple[Tensor, Tensor]:
    """Positions to keep, and positions to cut, about `fraction` of all; every class in proportion.

    `labels`: int64 [n]; both results are sorted. A class with one sample is kept; of the others, each side gets at
    least as many samples as there are classes. The choice is that of scikit-learn's `train_test_split` with `seed`.
    Raises `ConfigError` if no class has two samples; `what` names a sample in the message.
    """
    if seed >= 2**32:
        raise ConfigError("data.split_seed", seed, "must be below 2**32")
    divisible = torch.nonzero(torch.bincount(labels)[labels] >= 2).flatten()
    if not len(divisible):
        why = f"no class has two {what}s, so none can be cut for validation"
        raise ConfigError("data", f"{len(labels)} {what}s", why)
    classes = len(torch.bincount(labels[divisible]).nonzero())
    size = min(max(round(fraction * len(divisible)), classes), len(divisible) - classes)
    cut = divisible[_draw(labels[divisible].numpy(), size, seed)]
    is_cut = torch.zeros(len(labels), dtype=torch.bool)
    is_cut[cut] = True
    return torch.nonzero(~is_cut).flatten(), torch.nonzero(is_cut).flatten()


def strata(labels: Tensor) -> Tensor:
    """Classes to stratify by, int64 [n]; `labels` as `Split` has them."""
    if labels.ndim == 1 and not labels.is_floating_point():
        return labels
    if bool(((labels == 0) | (labels == 1)).all()) and labels.shape[1] > 1:
        counts = labels.sum(dim=0)
        rarity = torch.where(labels > 0, counts, math.inf)
        return torch.where(labels.any(dim=1), rarity.argmin(dim=1), labels.shape[1])
    if labels.shape[1] > 1:
        return torch.zeros(len(labels), dtype=torch.int64)
    order = labels[:, 0].argsort(stable=True)
    bins = min(_BINS, max(1, len(labels) // (2 * _BINS)))
    strata = torch.empty(len(labels), dtype=torch.int64)
    strata[order] = torch.arange(len(labels)) * bins // len(labels)
    return strata


def stratified_part(labels: Tensor, size: int, seed: int) -> Tensor:
    """`size` positions in `labels`, int64 [n], sorted: every class in proportion, each with one sample at least.

    Raises `ConfigError` for fewer samples than classes, or more than there are.
    """
    _, classes, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    if not len(counts) <= size <= len(labels):
        what = "training samples" if size > len(labels) else "classes, of which each needs a sample"
        limit = len(labels) if size > len(labels) else len(counts)
        raise ConfigError("data.train_size", size, f"there are {limit} {what}")
    random = np.random.RandomState(seed % 2**32)
    shares = _shares(counts, size, random)
    for lacking in np.nonzero(shares == 0)[0]:
        shares[shares.argmax()] -= 1
        shares[lacking] = 1
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    parts = [random.permutation(positions)[:n] for positions, n in zip(members, shares, strict=True)]
    return torch.from_numpy(np.sort(np.concatenate(parts)))


def _draw(labels: NDArray[np.int64], size: int, seed: int) -> Tensor:
    """`size` positions, every class in proportion, as `train_test_split(test_size=size, stratify=labels)` draws them.

    The same random numbers without scikit-learn, whose import takes longer than opening the data.
    """
    random = np.random.RandomState(seed)
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    kept = _shares(counts, len(labels) - size, random)
    cut = _shares(counts - kept, size, random)
    shuffled = [positions[random.permutation(len(positions))] for positions in members]
    parts = [positions[first : first + n] for positions, first, n in zip(shuffled, kept, cut, strict=True)]
    return torch.from_numpy(np.concatenate(parts))


def _shares(counts: NDArray[np.int64], total: int, random: np.random.RandomState) -> NDArray[np.int64]:
    """How many of each class, `total` in all, in proportion to `counts`; ties between remainders are drawn."""
    exact = counts / counts.sum() * total
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    remainders = exact - shares
    missing = int(total - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (equal,) = np.nonzero(remainders == remainder)
        shares[random.choice(equal, min(missing, len(equal)), replace=False)] += 1
        missing -= min(missing, len(equal))
    return shares
