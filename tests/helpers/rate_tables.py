"""Tables of rates to draw: ordinary ones, and those at the edge of what can be drawn."""

from __future__ import annotations

import numpy as np

from lwexp.plots.rate_table import RateTable

ATTACK = "</script><img src=x onerror=alert(1)>"
ODD_NAMES = ["_a$b_$", "$\\frac{", "x^{2", "中文\n\t\0", "W" * 300, ATTACK]
ODD_NAMES += ["\ud800é", "  ", "$$", "%s{0}\\n", "_", "a|b"]


def cosine(groups: int, steps: int, warmup: int = 0) -> np.ndarray:
    """Rates of a cosine to 0 after a linear warm-up, each group at 0.9 of the one before; written as plain loops."""
    rates = np.empty((steps, groups))
    for t in range(steps):
        fall = (t - warmup) / max(steps - 1 - warmup, 1)
        factor = (t + 1) / warmup if t < warmup else 0.5 * (1 + np.cos(np.pi * fall))
        for g in range(groups):
            rates[t, g] = 0.01 * 0.9**g * factor
    rates[-1] = 0.0
    return rates


def table(
    rates: np.ndarray, names: list[str] | None = None, frozen: tuple[int, ...] = (), depths: list[int] | None = None
) -> RateTable:
    groups = rates.shape[1]
    return RateTable(
        title="resnet18, cosine",
        names=names or [f"{g:02d}_layer{g}.weight" for g in range(groups)],
        depths=depths or list(range(groups))[::-1],
        frozen=[g in frozen for g in range(groups)],
        rates=rates,
        steps=np.arange(len(rates)),
    )


def unfreezing(groups: int, steps: int, every: int) -> np.ndarray:
    rates = cosine(groups, steps)
    for g in range(groups):
        rates[: min(g * every, steps), g] = 0
    return rates


def constant(groups: int, steps: int = 20) -> np.ndarray:
    return np.tile(0.01 * 0.9 ** np.arange(groups), (steps, 1))


def frozen_rates() -> np.ndarray:
    rates = cosine(7, 30, warmup=5)
    rates[:, 4:] = 0
    return rates


TABLES = {
    "one group, one step": table(np.full((1, 1), 1e-3)),
    "one step": table(constant(7, steps=1)),
    "one group": table(cosine(1, 50)),
    "all equal": table(np.full((30, 7), 1e-3)),
    "all equal, many groups": table(np.full((30, 20), 1e-3)),
    "all zero": table(np.zeros((10, 3)), frozen=(0, 1, 2)),
    "one step of zeros": table(np.zeros((1, 1))),
    "frozen": table(frozen_rates(), frozen=(4, 5, 6)),
    "frozen with a rate": table(constant(7), frozen=(2,)),
    "warm-up and cosine": table(cosine(12, 100, warmup=10)),
    "a single point between zeros": table(np.array([[0.0, 1e-3], [1e-2, 1e-3], [0.0, 1e-3]])),
    "unfreezing of many groups": table(unfreezing(80, 100, every=2)),
    "shared depths": table(constant(5), depths=[2, 2, 2, 1, 0]),
    "far apart": table(np.array([[5e-324, 1e-300, 1e-2, 1e250], [1e-300, 1e-300, 1e-2, 0.0]])),
    "halved a thousand times": table(np.tile(0.01 * 0.5 ** np.arange(1000), (3, 1))),
    "hardly anything": table(np.full((3, 2), 1e-310)),
    "odd names": table(np.abs(np.sin(np.arange(240).reshape(20, 12))), names=ODD_NAMES, frozen=(1, 4)),
    "few odd names": table(constant(6), names=ODD_NAMES[:6], frozen=(4,)),
}
