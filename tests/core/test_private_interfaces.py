"""What lwexp.core uses of torch and timm beyond their documentation: a test fails by name if it changes.

Each is used in one place, which is named here.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from lwexp.core.optim.kernel_fit import tensor_guards


@pytest.mark.parametrize(("name", "arguments"), [
    ("_fused_adam_", "self grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps lr beta1 beta2 weight_decay eps "
                     "amsgrad maximize grad_scale found_inf"),
    ("_fused_adamw_", "self grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps lr beta1 beta2 weight_decay eps "
                      "amsgrad maximize grad_scale found_inf"),
    ("_fused_sgd_", "self grads momentum_buffer_list weight_decay momentum lr dampening nesterov maximize "
                    "is_first_step grad_scale found_inf"),
    ("_foreach_addcmul_", "self tensor1 tensor2 value"),
    ("_foreach_addcmul_", "self tensor1 tensor2 scalars"),
    ("_foreach_copy_", "self src non_blocking"),
])  # fmt: skip
def test_kernels_of_kernel_calls_and_joined_take_these_arguments(name: str, arguments: str) -> None:
    packet = getattr(torch.ops.aten, name)
    overloads = [getattr(packet, overload)._schema.arguments for overload in packet.overloads()]
    assert arguments.split() in [[argument.name for argument in schema] for schema in overloads]
    assert callable(getattr(torch, name))


def test_tensor_guards_see_what_kernel_fit_relies_on() -> None:
    tensors = [torch.zeros(2, 3), torch.zeros(())]
    guards = tensor_guards(tensors)
    assert guards.check(*map(torch.ones_like, tensors))
    for other in (torch.zeros(3, 2).t(), torch.zeros(2, 4), torch.zeros(2, 3).double(), torch.zeros(2, 6)[:, ::2],
                  torch.zeros(2, 3).to_sparse(), torch.zeros(6), torch.zeros(2, 3, device="meta")):  # fmt: skip
        assert not guards.check(other, tensors[1])


def test_optimizer_step_is_wrapped_for_hooks_in_fused() -> None:
    """`Optimizer.step` runs hooks in a wrapper marked by `hooked`; `__wrapped__` is the step alone."""
    p = nn.Parameter(torch.zeros(1))
    torch.optim.Adam([p])  # the first instance wraps the method of its class
    step: Any = torch.optim.Adam.step
    assert step.hooked
    assert not hasattr(inspect.unwrap(step), "hooked")


def test_dtensor_keeps_its_shard_in_local_tensor() -> None:
    from torch.distributed.tensor import DTensor

    assert "_local_tensor" in DTensor.__slots__
    assert hasattr(DTensor, "full_tensor")


def test_lr_scheduler_reports_last_lr_in_scheduler() -> None:
    """`PlanScheduler` sets `_last_lr`, which `get_last_lr` returns, in place of torch's `step`."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    scheduler._last_lr = [0.5]
    assert scheduler.get_last_lr() == [0.5]


def test_views_share_cdata_of_their_storage_in_depth_twin() -> None:
    x = torch.empty(4, device="meta")
    assert x[1:].untyped_storage()._cdata == x.untyped_storage()._cdata
    assert torch.empty(4, device="meta").untyped_storage()._cdata != x.untyped_storage()._cdata


def test_modules_keep_hooks_and_buffers_in_depth_twin() -> None:
    module = nn.BatchNorm1d(2)
    module.register_forward_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    assert (len(module._forward_hooks), len(module._forward_pre_hooks)) == (1, 1)
    assert list(module._buffers) == ["running_mean", "running_var", "num_batches_tracked"]


def test_dispatch_modes_see_schemas_in_depth_execution() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    seen: list[tuple[str, bool, bool]] = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            written = func._schema.arguments[0].alias_info
            seen.append((func.overloadpacket.__name__, func._schema.is_mutable, bool(written and written.is_write)))
            return func(*args, **(kwargs or {}))

    x = torch.zeros(2)
    with Spy():
        x.add_(1)
        torch.mm(torch.ones(1, 1), torch.ones(1, 1))
    assert ("add_", True, True) in seen
    assert ("mm", False, False) in seen
    assert tree_leaves(tree_map(lambda value: value + 1, {"a": [1, (2,)]})) == [2, 3]


def test_group_with_matcher_orders_parameters_from_the_stem_in_depth_description() -> None:
    """timm 1.0.31; with `reverse` it maps each name to its depth."""
    from timm.models._manipulate import group_with_matcher

    names = ["stem.weight", "blocks.0.weight", "blocks.1.weight", "head.weight"]
    matcher = {"stem": r"^stem", "blocks": [(r"^blocks\.(\d+)", None)]}
    depths = group_with_matcher(((name, None) for name in names), matcher, reverse=True)
    assert [depths[name] for name in names] == [0, 1, 2, 3]
