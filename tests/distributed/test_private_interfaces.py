"""What lwexp.distributed uses of torch beyond its public interface: a test fails by name if a release changes it."""

from __future__ import annotations

import inspect

import torch
from torch import nn


def test_batch_norms_have_a_common_class_for_batch_norm() -> None:
    from torch.nn.modules.batchnorm import _BatchNorm

    assert all(issubclass(kind, _BatchNorm) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))


def test_the_synchronized_batch_norm_of_gpus_takes_these_arguments_for_batch_norm() -> None:
    from torch.nn.modules._functions import SyncBatchNorm

    names = list(inspect.signature(SyncBatchNorm.forward).parameters)
    assert names[1:] == [
        "input",
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "eps",
        "momentum",
        "process_group",
        "world_size",
    ]


def test_fused_optimizers_say_that_they_take_found_inf_for_parallel() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], fused=True)
    assert optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]
