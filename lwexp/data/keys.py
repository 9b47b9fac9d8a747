"""Sample keys: which sample in which epoch, and the random numbers that belong to it and to nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64
_ORDER = _MASK  # a number that no sample has, for the order of an epoch


class SampleKey(NamedTuple):
    """What the sampler yields: sample number `sample` of the dataset as it looks in `epoch`."""

    epoch: int
    sample: int


def sample_seed(seed: int, epoch: int, sample: int) -> int:
    """64 bits that depend on all three and on nothing else.

    The mixing is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014), applied once for each part, so that neighbouring seeds, epochs and samples have unrelated streams.
    """
    return int(_mixed(seed, epoch, sample))


def order_seed(seed: int, epoch: int) -> int:
    """The seed of the order of `epoch`, unrelated to the seeds of its samples."""
    return sample_seed(seed, epoch, _ORDER)


def uniforms(seed: int, keys: Sequence[SampleKey], count: int) -> list[NDArray[np.float64]]:
    """`count` arrays of one number in [0, 1) for each of `keys`.

    A key's numbers are the SplitMix64 stream that starts at its `sample_seed`, 53 bits each.
    """
    epochs, samples = np.array(keys, dtype=np.uint64).T
    start = _mixed(seed, epochs, samples)
    return [(_finalised(start + (k * _GOLDEN & _MASK)) >> 11) * 2.0**-53 for k in range(1, count + 1)]


def _mixed(*parts: Any) -> Any:
    """Whole numbers below 2**64, or arrays of them (uint64, whose arithmetic is modulo 2**64), as one."""
    state: Any = 0
    for part in parts:
        state = _finalised((state ^ (part & _MASK)) + _GOLDEN)
    return state


def _finalised(z: Any) -> Any:
    z = z & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
