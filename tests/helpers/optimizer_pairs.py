"""An optimizer of lwexp beside torch's own: equal parameters, equal gradients, numbers to compare bit for bit.

`Pair`: our classes and torch's fused optimizers. `Twins`: the optimizer of a plan and torch's default; the numbers are
sums of few powers of two, so that no step rounds and the fused and the default implementation agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lwexp import make_plan
from lwexp.core.optim.fused import FUSED

SIZES = [(3,), (7, 5), (2, 3, 3, 3), (120, 100), (1,), (), (64, 33)]


class Pair:
    """A fused optimizer and torch's own over equal parameters, which get equal gradients."""

    def __init__(
        self, kind: type[torch.optim.Optimizer], options: dict[str, Any], dtype: torch.dtype, device: str = "cpu"
    ) -> None:
        self._device = device
        self._random = torch.Generator().manual_seed(0)
        self.theirs = kind(self._groups(dtype), lr=1e-3, fused=True, **options)
        self._random.manual_seed(0)
        self.ours = FUSED[kind](self._groups(dtype), lr=1e-3, fused=True, **options)

    def _groups(self, dtype: torch.dtype) -> list[dict[str, Any]]:
        made = [nn.Parameter(torch.randn(s, generator=self._random).to(self._device, dtype)) for s in SIZES]
        split = [made[:1], made[1:4], made[4:5], made[5:]]
        return [
            {"params": params, "lr": 0.01 * 0.8**i, "name": str(i)} | ({"weight_decay": 0.0} if i == 2 else {})
            for i, params in enumerate(split)
        ]

    @property
    def both(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        return self.ours, self.theirs

    def parameters(self) -> Iterator[tuple[Tensor, Tensor]]:
        lists = [[p for group in each.param_groups for p in group["params"]] for each in self.both]
        yield from zip(*lists, strict=True)

    def set_gradients(self, missing: int | None = None) -> None:
        for i, (p, q) in enumerate(self.parameters()):
            gradient = torch.randn(p.shape, generator=self._random).to(p)
            p.grad, q.grad = (None, None) if i == missing else (gradient, gradient.clone())

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self.set_gradients()
            for each in self.both:
                for group in each.param_groups:
                    group["lr"] *= 0.999
                each.step()

    def check(self) -> None:
        for p, q in self.parameters():
            assert torch.equal(p, q)
        ours, theirs = self.ours.state_dict(), self.theirs.state_dict()
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys()
        for i, entry in ours["state"].items():
            assert entry.keys() == theirs["state"][i].keys()
            for name, value in entry.items():
                assert torch.equal(value, theirs["state"][i][name])


SGD: dict[str, Any] = {"momentum": 0.5, "dampening": 0.25, "weight_decay": 0.25}
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}), ("sgd", {"momentum": 0.5}), ("sgd", SGD), ("sgd", {"momentum": 0.5, "nesterov": True}),
    ("adam", {}), ("adamw", {"amsgrad": True}),
]  # fmt: skip
KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad,
}  # fmt: skip


class Net(nn.Module):
    """Parameters of 1, 2 and 4 dimensions; `embed` may get sparse gradients."""

    def __init__(self, sparse: bool = False, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3, sparse=sparse)
        self.conv = nn.Conv2d(3, 4, 3)
        self.body = nn.Linear(6, 96)
        for i, p in enumerate(self.parameters()):
            p.data = exact(p.shape, i).to(dtype)


def exact(shape: Iterable[int], seed: int) -> Tensor:
    return torch.randint(-2, 3, tuple(shape), generator=torch.Generator().manual_seed(seed)).float() / 2


class Twins:
    """The optimizer of a plan, and torch's default over an equal model's groups."""

    def __init__(self, name: str, options: dict[str, Any], **net: Any) -> None:
        self.name = name
        self.models = [Net(**net) for _ in range(2)]
        plans = [make_plan(model, grouping="per_parameter", lr=0.5, mult=0.5) for model in self.models]
        self.optimizers = [
            plans[0].optimizer(name, **options),
            KINDS[name](plans[1].param_groups(), **options),  # type: ignore[call-arg]
        ]
        self.scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10**6) for _ in range(2)]

    def gradients(self, seed: int, scale: float = 1.0, missing: Iterable[str] = ()) -> None:
        for model in self.models:
            for i, (name, p) in enumerate(model.named_parameters()):
                p.grad = None if name in missing else (exact(p.shape, 10 * seed + i) * scale).to(p.dtype)

    def step(self, seed: int, missing: Iterable[str] = ()) -> None:
        self.gradients(seed, missing=missing)
        for optimizer in self.optimizers:
            optimizer.step()

    def scaled_step(
        self, seed: int, overflow: bool = False, unscale: bool = False, missing: Iterable[str] = ()
    ) -> None:
        self.gradients(seed, 8.0, missing)
        for model, optimizer, scaler in zip(self.models, self.optimizers, self.scalers, strict=True):
            scaler.scale(torch.ones(()))
            if overflow:
                model.body.weight.grad[0, 0] = torch.inf  # type: ignore[index, union-attr]
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update(8.0)

    def check(self) -> None:
        ours, theirs = [dict(model.named_parameters()) for model in self.models]
        for name, p in theirs.items():
            assert torch.isfinite(p).all()
            assert torch.equal(ours[name], p), name
        states = [optimizer.state_dict()["state"] for optimizer in self.optimizers]
        for i, entry in states[1].items():
            for key, value in entry.items():
                assert torch.equal(states[0][i][key].to_dense(), value.to_dense()), (i, key)

    def check_close_or_equal(self) -> None:
        """Adam's roots and quotients round, so its fused and default implementations differ in the last bits."""
        if self.name == "sgd":
            self.check()
            return
        for ours, theirs in zip(*(model.parameters() for model in self.models), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
