"""Sample keys (epoch, sample), and random numbers that depend on a key and the seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # the increment of SplitMix64
_ORDER = _MASK  # in place of a sample's number, which is never this large


class SampleKey(NamedTuple):
    """Item of the sampler: sample number `sample` of the dataset in `epoch`."""

    epoch: int
    sample: int


def sample_seed(seed: int, epoch: int, sample: int) -> int:
    """A 64-bit seed that depends on all three arguments and nothing else.

    The mixing is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
    OOPSLA 2014), applied once per argument, so that neighboring seeds, epochs and samples have unrelated streams.
    """
    return int(_mix(seed, epoch, sample))


def order_seed(seed: int, epoch: int) -> int:
    """The seed of the sample order of `epoch`, independent of the seeds of its samples."""
    return sample_seed(seed, epoch, _ORDER)


@contextmanager
def seeding(seed: int, *, others: bool) -> Iterator[Callable[[SampleKey], None]]:
    """In the block, a function that seeds torch's CPU generator for a sample; restores it at the end.

    `others`: also the generators of `random` and NumPy, from which a user's code may draw.
    """
    before = (random.getstate(), np.random.get_state()) if others else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield lambda key: _start_from(sample_seed(seed, *key), others=others)
    finally:
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """In the block, all global CPU generators have started from `number` (a `sample_seed`, or 0 outside of epochs)."""
    with seeding(0, others=True):
        _start_from(number, others=True)
        yield


def _start_from(number: int, *, others: bool) -> None:
    torch.default_generator.manual_seed(number)  # torch.manual_seed would seed CUDA's generators as well
    if others:
        random.seed(number)
        np.random.seed(number % 2**32)


def uniforms(seed: int, keys: Sequence[SampleKey], count: int) -> list[NDArray[np.float64]]:
    """`count` arrays of random numbers in [0, 1), one number for each of `keys`.

    A key's numbers are the SplitMix64 stream that starts at its `sample_seed`, 53 bits each.
    """
    epochs, samples = np.array(keys, dtype=np.uint64).T
    start = _mix(seed, epochs, samples)
    return [(_finalize(start + (k * _GOLDEN & _MASK)) >> 11) * 2.0**-53 for k in range(1, count + 1)]


def _mix(*parts: Any) -> Any:
    """Mix integers below 2**64, or arrays of them (uint64, whose arithmetic is modulo 2**64), into one."""
    state: Any = 0
    for part in parts:
        state = _finalize((state ^ (part & _MASK)) + _GOLDEN)
    return state


def _finalize(z: Any) -> Any:
    z = z & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
