"""Seeds, deterministic operations, and the states of all random generators as plain values and tensors."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lwexp.data.keys import sample_seed
from lwexp.errors import RunError
from lwexp.formatting import one_line


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and torch, on the CPU and every GPU in use."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)
    return {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "mps": torch.mps.get_rng_state() if _has_mps() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Continue from `state`; states of GPUs that this machine lacks are ignored."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        for device, saved in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(saved, device)
    if state["mps"] is not None and _has_mps():
        torch.mps.set_rng_state(state["mps"])


def random_state_of(state: Mapping[str, Any], rank: int) -> Mapping[str, Any] | None:
    """The random state of `rank` in a training's `state`; None if it was saved by fewer processes."""
    if rank == 0:
        return state["random"]  # type: ignore[no-any-return]
    others: list[Mapping[str, Any]] = state.get("random_of_others", [])
    return others[rank - 1] if rank <= len(others) else None


def seed_apart(rank: int, step: int) -> None:
    """Give `rank` other random numbers than the other ranks have, from optimizer step `step` on."""
    seed = sample_seed(torch.initial_seed(), step, rank) % 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Within the block, only operations that give the same bits each time, if that is `asked`.

    To be entered before a GPU is used.
    """
    if not asked:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


@contextmanager
def explained_operations() -> Iterator[None]:
    """Raise `RunError` for an operation in the block that has no deterministic implementation, where one is needed."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if found is None and "CUBLAS_WORKSPACE_CONFIG" not in str(error):
            raise
        why = f"{found[1]} has no deterministic implementation" if found else one_line(error)
        raise RunError(f"deterministic=true: {why}; deterministic=false trains with it") from error
