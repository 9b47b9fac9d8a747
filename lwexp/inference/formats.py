"""The files that `lwexp.export` writes: ONNX, torch.export's archive, TorchScript; each beside its facts as JSON."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwexp.errors import ConfigError, RunError
from lwexp.formatting import one_line
from lwexp.host.files import atomic_write, replacing

from .exporting import as_module, check_difference, difference, example_inputs, export_program, input_names
from .inputs import TextInput
from .loaded import LoadedRun

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".torchscript.pt"}
_EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}


@dataclass(frozen=True)
class ExportedFile:
    """A file, the facts beside it, and the largest difference to the network, as a share of its largest output."""

    path: Path
    facts: Path
    bytes: int
    inputs: tuple[str, ...]
    difference: float


def check_extras(to: str) -> None:
    """Raise `ConfigError` where the format `to` needs packages that are not installed."""
    missing = [name for name in _EXTRAS.get(to, ()) if find_spec(name) is None]
    if missing:
        raise ConfigError("--to", to, f"needs {', '.join(missing)}: pip install 'lwexp[export]'")


def export(run: LoadedRun, to: str, path: Path) -> ExportedFile:
    """Write the network of `run` to `path` in the format `to`, for batches of any size.

    Class names, preprocessing and the like are in the file itself and in a JSON file beside it; the tokenizer of texts
    is in a folder beside it. Raises `RunError` where the network cannot be exported or computes something else then.
    """
    write = {"onnx": _onnx, "torch_export": _torch_export, "torchscript": _torchscript}[to]
    beside = path.with_name(f"{path.name}.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, _quiet():
            gap = write(run, temporary)
        atomic_write(beside, json.dumps(facts(run), indent=1))
        if isinstance(run.transform, TextInput):
            run.transform.tokens.tokenizer.save_pretrained(path.with_name(f"{path.name}.tokenizer"))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return ExportedFile(path, beside, path.stat().st_size, input_names(run), gap)


def facts(run: LoadedRun) -> dict[str, Any]:
    """What a program needs to use the network: classes, preprocessing, the longest text, the scale of numbers."""
    record = asdict(run.record)
    kept = ("task", "classes", "channels", "image_size", "style", "preprocessing", "max_length", "scale")
    found = {key: record[key] for key in kept if record[key] is not None}
    return {**found, "kind": run.kind, "inputs": list(input_names(run)), "weights": run.weights.name}


def _torch_export(run: LoadedRun, path: Path) -> float:
    made = export_program(run)
    kept = path.with_suffix(".pt2")  # the name that torch asks for
    torch.export.save(made.program, kept, extra_files={"lwexp.json": json.dumps(facts(run))})
    kept.replace(path)
    return made.difference


def _torchscript(run: LoadedRun, path: Path) -> float:
    module = as_module(run)
    try:
        with torch.no_grad():
            traced = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, example_inputs(run, 2), check_trace=False
            )
        torch.jit.save(traced, str(path), _extra_files={"lwexp.json": json.dumps(facts(run))})
        found = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        gap = _gap(run, module, found)
    except Exception as error:  # whatever a network's code or torch raises
        raise RunError(f"the network cannot be exported to TorchScript: {one_line(error, 160, kind=True)}") from error
    check_difference(gap, "the TorchScript file")
    return gap


def _onnx(run: LoadedRun, path: Path) -> float:
    import onnx
    import onnxruntime  # type: ignore[import-untyped]

    module, names = as_module(run), input_names(run)
    axes = {0: "batch", 1: "tokens"} if run.kind == "text" else {0: "batch"}
    shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _ in names)
    try:
        with torch.no_grad():
            made: Any = torch.onnx.export(
                module, example_inputs(run, 2), input_names=list(names), output_names=["outputs"],
                dynamic_shapes=shapes, dynamo=True, verbose=False,
            )  # fmt: skip
        model = made.model_proto
        onnx.helper.set_model_props(model, {key: _text(value) for key, value in facts(run).items()})
        onnx.save(model, str(path))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}

        def outputs(*inputs: Tensor) -> Tensor:
            given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True) if name in known}
            return torch.from_numpy(session.run(None, given)[0])

        gap = _gap(run, module, outputs)
    except Exception as error:  # whatever a network's code, torch or ONNX raises
        raise RunError(f"the network cannot be exported to ONNX: {one_line(error, 160, kind=True)}") from error
    check_difference(gap, "the ONNX file")
    return gap


def _gap(run: LoadedRun, module: Any, found: Any) -> float:
    return max(difference(module, found, example_inputs(run, *size)) for size in ((2,), (3, 9)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings and log messages, whose reason an error of ours repeats."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir", "transformers")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
