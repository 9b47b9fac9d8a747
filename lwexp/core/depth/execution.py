"""Runs one forward pass of a copy of a network and records it (`recorder.py`), with an input that is given or guessed.

The copy's tensors are on the meta device, so nothing is computed and the network is not changed; a network whose
control flow depends on computed values runs once more with real numbers and a small input.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from lwexp.errors import ConfigError
from lwexp.formatting import one_line

from .inputs import Input, arguments, as_input, guesses
from .recorder import OutOfTimeError, Recorder, Trace, tensors_in
from .thresholds import QUICK_INPUTS, REAL_PASS_WEIGHTS, TIMEOUT, UNUSED_SHARE
from .twin import is_tensor, make_twin, numel

ANOTHER_INPUT = "give one as example_input (a tensor, tuple or mapping), or data that fit the model"


class ForwardError(Exception):
    """No forward pass: for every input that was tried, or for any; a line that ends with what to do."""

    def __init__(self, reason: str, tried: Sequence[str] = (), advice: str = ANOTHER_INPUT) -> None:
        """Join the parts into one line."""
        shown = ", ".join(tried[:8]) + (f", … ({len(tried)} in all)" if len(tried) > 8 else "")
        why = f"tried {shown} ({reason})" if tried else reason
        super().__init__(f"{why}; {advice}" if advice else why)


def trace(
    model: nn.Module,
    first_names: Mapping[int, str],
    example_input: object | None = None,
    *,
    quick: bool = False,
    timeout: float = TIMEOUT,
) -> Trace:
    """The forward pass of `model` in evaluation mode; `first_names`: id of a parameter -> the name to record it under.

    `example_input`: a tensor, a tuple of positional or a mapping of keyword arguments; None: inputs that fit the
    network's first layers are tried, until one uses nearly all weights; the one that uses most is taken. `quick`: only
    the first few of those, and no pass with real numbers where meta tensors fail. `timeout`: seconds for all of it.
    `model` and the random number generators are not changed.
    Raises `ForwardError` where every input fails, where the time is up, and for networks that must not or cannot run;
    `ConfigError` unless `timeout` is a positive number.
    """
    check_timeout(timeout)
    if why := _unfit(model):
        raise ForwardError(why, advice="")
    deadline = time.monotonic() + timeout
    guessed = example_input is None
    inputs = guesses(model) if guessed else [("example_input", *arguments(example_input))]
    inputs = inputs[:QUICK_INPUTS] if quick else inputs
    reasons: dict[str, str] = {}
    again: list[Input] = []
    best, most = None, -1
    weights = sum(map(numel, model.parameters()))
    enough = (1 - UNUSED_SHARE) * weights
    tensors = {first_names[id(parameter)]: parameter for parameter in model.parameters()}
    small = not quick and weights <= REAL_PASS_WEIGHTS
    for device in (torch.device("meta"), torch.device("cpu")):
        for given in inputs if device.type == "meta" else again:
            try:
                if time.monotonic() > deadline:  # what fails before its first operation takes time as well
                    raise OutOfTimeError
                traced = _run(model, first_names, given, device, deadline)
            except OutOfTimeError:
                if best is not None:
                    return best
                late = f"longer than grouping.timeout={timeout:g} seconds"
                raise ForwardError(late, list(reasons), "raise it, or " + ANOTHER_INPUT) from None
            except Exception as error:  # anything a network raises for a wrong input: reported to the user
                reasons[given[0]] = one_line(error, 140, kind=True)
                # A wrong shape fails again; what meta tensors do not support, real ones may.
                unsupported = not guessed or isinstance(error, NotImplementedError) or "meta" in str(error).lower()
                if unsupported and device.type == "meta":
                    again.append(given)
                continue
            used = sum(numel(tensors[name]) for name in traced.first_use)
            if used > most:
                best, most = traced, used
            if most >= enough or not guessed:
                return traced if most == used else best  # type: ignore[return-value]
            deadline = min(deadline, time.monotonic() + timeout / 4)  # a better guess is worth a part of the time
        if best is not None:
            return best
        if not small:
            break
    raise ForwardError(next(iter(reasons.values())), list(reasons))


def check_timeout(timeout: object) -> None:
    """Raise `ConfigError` unless `timeout` is a positive number."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ConfigError("grouping.timeout", timeout, "must be a positive number of seconds")


def _unfit(model: nn.Module) -> str:
    """Why no forward pass of a copy of `model` is possible, whatever the input; empty where it is."""
    modules = list(model.modules())
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        return "no forward pass of a scripted module (torch.jit) can be recorded; plan it before it is scripted"
    # Its copy would share the handles that hold the weights.
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    if sharded is not None and any(isinstance(module, sharded) for module in modules):
        return "no forward pass of a network inside FullyShardedDataParallel is recorded; plan it before it is sharded"
    if type(model).forward is nn.Module.forward and "forward" not in model.__dict__:
        return f"{type(model).__name__} has no forward"
    return ""


def _run(
    model: nn.Module, first_names: Mapping[int, str], given: Input, device: torch.device, deadline: float
) -> Trace:
    text, args, kwargs = given
    copied = make_twin(model, first_names, device)
    twin, recorder = copied.model, Recorder(copied, device, Trace(tried=text), deadline)
    paths = {id(module): path for path, module in twin.named_modules()}
    for module in twin.modules():
        module.register_forward_pre_hook(lambda m, _: recorder.enter(paths[id(m)]))
        module.register_forward_hook(lambda m, _, __: recorder.leave(paths[id(m)]))
    # A copy of whatever holds the tensors, such as a batch of graphs, with other tensors in it.
    memo: dict[int, Any] = {id(x): as_input(x, device) for x in tensors_in((args, kwargs))}
    args, kwargs = copy.deepcopy((args, kwargs), memo)
    recorder.trace.inputs = frozenset(recorder.key(x) for x in tensors_in((args, kwargs)) if is_tensor(x))
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # the user did not start this pass
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        if any(type(module).__name__ == "OptimizedModule" for module in twin.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(recorder)
        output = forward_pass(twin.eval(), args, kwargs)
    recorder.trace.outputs = frozenset(recorder.key(x) for x in tensors_in(output) if is_tensor(x))
    return recorder.trace


def forward_pass(twin: nn.Module, args: Any, kwargs: Any) -> Any:
    """The forward pass alone, so that benchmarks can time it apart from its preparation."""
    return twin(*args, **kwargs)
