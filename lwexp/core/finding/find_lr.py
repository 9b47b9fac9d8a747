"""`lwexp.find_lr`: range tests in your own training loop; and what the command finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.core.measured.probe import Probe
from lwexp.core.patterns import first_matches, matches, prefixes
from lwexp.core.plan_table import PlanTable
from lwexp.errors import ConfigError, UnknownNameError

from .curve import RangeTest
from .suggestion import NAMES, Suggestion, suggest


@dataclass(frozen=True)
class FoundRates:
    """The rates that range tests suggest for a plan: `base` for all groups together, `groups` by the plan's positions.

    The rates of `base` are the plan's base rate `lr`, those of a group its own. `planned`: the rates of all groups at
    `plan.lr`, times their scales where these are measured.
    """

    plan: PlanTable
    planned: Sequence[float]
    base: Suggestion
    groups: Mapping[int, Suggestion] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, float]:
        """The suggested base rate by rule; empty where there is no answer, for the reason `base.reason`."""
        return self.base.rates

    def lr(self, rule: str = "valley") -> float | None:
        """The suggested base rate, None where there is no answer. Raises `UnknownNameError`."""
        if rule not in NAMES:
            raise UnknownNameError("rule", rule, NAMES, "no such rule")
        return self.base.rates.get(rule)

    def lr_mults(self, rule: str = "valley", before: Mapping[str, float] | None = None) -> dict[str, float]:
        """Factors by pattern that bring the tested groups to their own rates, at the base rate `lr(rule)`.

        `before` are the factors that the plan was made with. Groups without an answer are not listed.
        """
        lr, before = self.lr(rule), before or {}
        names = [name for g in self.plan.groups for name in g.parameter_names]
        matched = first_matches(self.plan.patterns([*before], "lr_mults"), names, "lr_mults")
        found: dict[str, float] = {}
        for position, suggestion in self.groups.items():
            own, group = suggestion.rates.get(rule), self.plan.groups[position]
            if own is None or lr is None:
                continue
            factor = before.get(matched.get(group.parameter_names[0], ""), 1.0)
            for pattern in patterns_of(group.parameter_names, names):
                found[pattern] = own / (lr * self.planned[position] / self.plan.lr) * factor
        return found


def find_lr(
    model: nn.Module,
    plan: PlanTable,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    *,
    groups: bool = False,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    repeats: int = 1,
) -> FoundRates:
    """Range tests on `batches`, which are gone through again where they are few (a loader, or a list of batches).

    The optimizer's groups are those of `plan`, as `plan.optimizer()` and `plan.param_groups()` make them; their rates
    are the plan's times a factor that rises by the same ratio at each of `steps` steps, so that the base rate goes from
    `min_lr` to `max_lr`. With `groups` each group is tested alone as well, the others at rest. `loss` gives the mean
    loss of a batch, a scalar; on several processes the mean over all of them. `repeats`: tests on further batches,
    which are averaged.

    Weights, buffers, gradients, torch's random generators and the optimizer are afterwards what they were, bit for bit.
    The model stays in its mode: call `model.train()` before. Raises `ConfigError`.

    >>> found = find_lr(model, plan, optimizer, loss, loader)  # doctest: +SKIP
    >>> found.rates  # doctest: +SKIP
    {'valley': 0.0021, 'steepest': 0.0083, 'minimum': 0.0049, 'divergence': 0.014}
    """
    test = RangeTest(min_lr=min_lr, max_lr=max_lr, steps=steps, repeats=repeats)
    test.check("find_lr")
    if isinstance(batches, Iterator):
        raise ConfigError(
            "batches", type(batches).__name__, "can be read once only; give a loader or a list of batches"
        )

    def backward(batch: Any) -> Tensor:
        value = loss(model, batch)
        torch.autograd.backward(value)
        return value.detach()

    probe = Probe(plan, model, optimizer, backward, lambda: batches, step=0)
    return find_rates(probe, test, tested=trained_groups(plan) if groups else ())


def find_rates(
    probe: Probe,
    test: RangeTest,
    *,
    tested: Iterable[int] = (),
    planned: Sequence[float] | None = None,
    fixed: Iterable[int] = (),
    started: Callable[[int | None], None] = lambda position: None,
) -> FoundRates:
    """Range tests of the base rate, and of each group in `tested` with the others at rest.

    `planned`: the rates at the plan's base rate, by default the plan's; those of the groups `fixed` do not rise.
    `started` is called before each test with the group's position, None for the base rate.
    """
    plan, still = probe.plan, {*fixed}
    planned = [g.lr for g in plan.groups] if planned is None else planned

    def all_at(lr: float) -> list[float]:
        return [own if i in still else own * lr / plan.lr for i, own in enumerate(planned)]

    def alone_at(position: int, lr: float) -> list[float]:
        return [lr if i == position else 0.0 for i in range(len(planned))]

    started(None)
    base = suggest(_test(probe, test, all_at))
    found = {}
    for position in tested:
        started(position)
        found[position] = suggest(_test(probe, test, partial(alone_at, position)))
    return FoundRates(plan, planned, base, found)


def group_rate(probe: Probe, test: RangeTest, position: int) -> Suggestion:
    """What a range test suggests for one group, the others at rest."""
    count = len(probe.plan.groups)
    return suggest(_test(probe, test, lambda lr: [lr if i == position else 0.0 for i in range(count)]))


def trained_groups(plan: PlanTable, absolute: Iterable[str] = ()) -> list[int]:
    """Positions of the groups that can be tested alone: trained, and without an `absolute` rate (patterns)."""
    fixed = {*fixed_groups(plan, absolute)}
    return [
        i
        for i, g in enumerate(plan.groups)
        if i not in fixed and g.lr > 0 and not {*g.optimizer_names} <= {*g.frozen_names}
    ]


def fixed_groups(plan: PlanTable, absolute: Iterable[str]) -> list[int]:
    """Positions of the groups whose rates the patterns `absolute` set, so that the base rate does not move them."""
    patterns = plan.patterns([*absolute], "lr_overrides")
    return [i for i, g in enumerate(plan.groups) if any(matches(p, g.parameter_names[0]) for p in patterns)]


def patterns_of(members: Sequence[str], names: Sequence[str]) -> list[str]:
    """The fewest dotted prefixes that cover `members` and no other of `names`.

    >>> patterns_of(["a.w", "b.1.w", "b.1.v"], ["c.w", "b.0.w", "b.1.w", "b.1.v", "a.w"])
    ['a', 'b.1']
    """
    own = {*members}
    foreign = set(prefixes(name for name in names if name not in own))
    found = dict[str, None]()
    for name in members:
        found[next((prefix for prefix in prefixes([name]) if prefix not in foreign), name)] = None
    return [*found]


def _test(probe: Probe, test: RangeTest, rates_at: Callable[[float], list[float]]) -> Any:
    stream = _endless(probe)
    return test.run(lambda rates: probe.trial(map(rates_at, rates), stream))


def _endless(probe: Probe) -> Iterator[Any]:
    """The coming batches; where they end, again from the first."""
    for _ in repeat(None):
        given = False
        for batch in probe.batches():
            given = True
            yield batch
        if not given:
            raise ConfigError("batches", "[]", "has no batch")
