"""Muon for hidden matrices and AdamW for all other parameters, as one optimizer.

The authors of Muon (https://kellerjordan.github.io/posts/muon/) leave embeddings, the input convolution, the output
layer, biases and norms to AdamW, and flatten the filters of a convolution to a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwexp.core.dtensor import is_sharded
from lwexp.core.kinds import Kinds
from lwexp.core.patterns import first_matches
from lwexp.core.plan_table import PlanGroup
from lwexp.errors import ConfigError

from .fused import FusedAdamW


def adamw_names(
    model: nn.Module, groups: Sequence[PlanGroup], parameters: Mapping[str, nn.Parameter]
) -> frozenset[str]:
    """Those of the `parameters` of `model` that are no hidden matrix: Muon is not for them. `groups`: the plan's."""
    modules = [*model.modules()]

    def within(*kinds: type[nn.Module]) -> set[int]:
        return {id(p) for module in modules if isinstance(module, kinds) for p in module.parameters(recurse=False)}

    embedded, filters = within(nn.Embedding, nn.EmbeddingBag), within(nn.modules.conv._ConvNd)

    def is_matrix(name: str) -> bool:
        p = parameters[name]
        return id(p) not in embedded if p.ndim == 2 else p.ndim > 2 and id(p) in filters

    matrices = [name for g in groups for name in g.parameter_names if is_matrix(name)]
    others = {*parameters} - {*matrices}
    if matrices:
        head, stem = matrices[0], matrices[-1]
        others.add(head)
        if parameters[stem].ndim > 2:
            others.add(stem)
    return frozenset(others)


def adamw_chosen(
    groups: Sequence[PlanGroup], others: Collection[str], adamw: str | Sequence[str] | None, kinds: Kinds
) -> frozenset[str]:
    """`others` and what the patterns `adamw` cover; raises `ConfigError` if nothing is left for Muon."""
    names = [name for g in groups for name in g.parameter_names]
    given = () if adamw is None else (adamw,) if isinstance(adamw, str) else adamw
    patterns = [*given] if isinstance(given, Sequence) else []
    if not isinstance(given, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigError("optimizer.adamw", adamw, "must be a pattern or a list of them, e.g. [stem, blocks.0]")
    chosen = frozenset([*others, *first_matches(kinds.named(patterns, "optimizer.adamw"), names, "optimizer.adamw")])
    if chosen.issuperset(name for g in groups for name in g.optimizer_names):
        why = "the network has no hidden matrix to train with it; timm_muon takes every parameter, adamw is another"
        raise ConfigError("optimizer", "muon", why)
    return chosen


def with_kinds(groups: Sequence[Mapping[str, Any]], adamw: Collection[int]) -> list[dict[str, Any]]:
    """`groups` with `use_muon`; one with parameters of both kinds becomes two, the second named `<name>:adamw`.

    `adamw`: the `id` of each parameter that is AdamW's.
    """
    found = []
    for group in groups:
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for p in group["params"]:
            kinds[id(p) not in adamw].append(p)
        for use_muon, params in kinds.items():
            if params:
                second = "" if use_muon or not kinds[True] else ":adamw"
                found.append({**group, "params": params, "name": f"{group['name']}{second}", "use_muon": use_muon})
    return found


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `use_muon` are updated as by `torch.optim.Muon`, the others as by `torch.optim.AdamW`."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        """`weight_decay` is for both; `betas` and `eps` are AdamW's, the others Muon's.

        `match_rms_adamw` scales Muon's updates so that one rate suits both (arXiv:2502.16982).
        """
        muon_class: Any = getattr(torch.optim, "Muon", None)
        if muon_class is None:
            raise ConfigError("optimizer", "muon", "needs torch 2.9 or newer; timm_muon does not")
        p = nn.Parameter(torch.zeros(1, 1))  # the two classes check the options and know all their defaults
        muon = muon_class(
            [p], lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )  # fmt: skip
        adamw = FusedAdamW([p], lr=lr, weight_decay=weight_decay, betas=betas, eps=eps)
        self._defaults = {True: muon.defaults, False: adamw.defaults}
        super().__init__(params, {**adamw.defaults, **muon.defaults})
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; a group without `use_muon` is AdamW's."""
        use_muon = bool(param_group.get("use_muon", False))
        own: dict[str, Any] = {"use_muon": use_muon, **self._defaults[use_muon], **param_group}
        params = [own["params"]] if isinstance(own["params"], Tensor) else [*own["params"]]
        if not use_muon and own["fused"] is None:
            own["fused"] = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)
        super().add_param_group({**own, "params": params})
        if "_adamw" in vars(self):
            self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As torch's; `load_state_dict` calls it too."""
        super().__setstate__(state)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """What torch pickles, and what the groups that join later need."""
        return {**super().__getstate__(), "_defaults": self._defaults}

    def _share(self) -> None:
        """Let AdamW's own optimizer hold its groups and the state of this one."""
        if "_adamw" not in vars(self):  # unpickled
            self._adamw = FusedAdamW([nn.Parameter(torch.zeros(1))])
        self._adamw.__setstate__(
            {"state": self.state, "param_groups": [group for group in self.param_groups if not group["use_muon"]]}
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step, see `torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adamw.state is not self.state:  # exchanged from outside
            self._share()
        with torch.no_grad():
            for group in self.param_groups:
                if group["use_muon"]:
                    self._muon_step(group)
            self._adamw.update()
        return loss

    def _muon_step(self, group: Mapping[str, Any]) -> None:
        from torch.optim._muon import muon  # private; torch 2.9 to 2.14

        keys = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "ns_steps", "eps", "adjust_lr_fn")
        options = {key: group[key] for key in keys}
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.is_sparse or torch.is_complex(p):
                raise ConfigError("optimizer", "muon", "takes dense real gradients only")
            if is_sharded(p):
                raise ConfigError("optimizer", "muon", "needs whole matrices, which parallel=fsdp divides")
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            tensors = (p, p.grad, state["momentum_buffer"])
            matrices = [t.flatten(1) for t in tensors]  # copies of those in another order in memory
            muon(*([each] for each in matrices), **options, has_complex=False)
            for i in (0, 2):
                if matrices[i].data_ptr() != tensors[i].data_ptr():
                    tensors[i].copy_(matrices[i].view_as(tensors[i]))
