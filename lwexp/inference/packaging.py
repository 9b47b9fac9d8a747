"""The folder of a run's MLflow model, without MLflow's own files: the exported program, its facts, the serving code.

    model/network/model.pt2, inference.json, tokenizer/   what `mlflow.pytorch` and `lwexp_model` load
    model/lwexp_model/__init__.py, standalone.py          copies of `serving.py` and `lwexp/data/standalone.py`

`lwexp.tracking.models` adds MLflow's files when it delivers the folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lwexp.data import standalone
from lwexp.errors import RunError
from lwexp.experiment.manifest import point_of
from lwexp.experiment.model_record import code_of
from lwexp.formatting import one_line

from . import serving
from .exporting import export_program
from .finding import best_of
from .inputs import TextInput
from .loaded import LoadedRun, from_folder

FOLDER, NETWORK, PACKAGE = "model", "network", "lwexp_model"  # as `lwexp.tracking.models` expects them
_IMPORT = "from lwexp.data.standalone import"


def package(folder: Path, allow_targets: tuple[str, ...] = (), into: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the best network of the run in `folder` to `into`/model, and return that folder and what MLflow must know.

    `into`: by default `folder` itself. Raises `RunError` where the network cannot be exported.
    """
    return package_loaded(from_folder(folder, allow_targets=allow_targets), into or folder)


def package_loaded(run: LoadedRun, into: Path) -> tuple[Path, dict[str, Any]]:
    """See `package`."""
    exported = export_program(run)
    path = into / FOLDER
    try:
        shutil.rmtree(path, ignore_errors=True)
        network = path / NETWORK
        network.mkdir(parents=True)
        torch.export.save(exported.program, network / serving.PROGRAM)
        (network / serving.FACTS).write_text(json.dumps(asdict(run.record), indent=1), encoding="utf-8")
        if isinstance(run.transform, TextInput):
            run.transform.tokens.tokenizer.save_pretrained(network / serving.TOKENIZER)
        _copy_code(path / PACKAGE)
        digest = hashlib.sha256(run.weights.read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return path, {
        "id": digest[:32],
        "task": run.task,
        "kind": run.kind,
        "classes": list(run.classes),
        "requirements": _requirements(run),
        "torch": torch.__version__,
        "name": _model_name(run),
    }


def _copy_code(folder: Path) -> None:
    folder.mkdir(parents=True)
    text = Path(str(serving.__file__)).read_text(encoding="utf-8")
    assert text.count(_IMPORT) == 1
    (folder / "__init__.py").write_text(text.replace(_IMPORT, "from .standalone import"), encoding="utf-8")
    shutil.copyfile(str(standalone.__file__), folder / "standalone.py")


def _model_name(run: LoadedRun) -> str:
    """The network's name, as MLflow accepts it."""
    section = run.record.model
    label = section.get("name") or section.get("_target_") or section.get("config_class") or section.get("source")
    return re.sub(r"[/:.%\"']+", "-", str(label)).strip("-") or "model"


def _requirements(run: LoadedRun) -> list[str]:
    names = ["torch", "numpy", "pandas", "pillow", *(["transformers"] if run.kind == "text" else ["torchvision"])]
    found = []
    for name in names:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(name)
    return found


def main() -> int:
    """`python -m lwexp.inference.packaging <sweep's folder>`: package its best job there, print the facts as JSON.

    For a sweep, whose own process imports no torch. Exit code 1, with one line, where there is no model.
    """
    sweep = Path(sys.argv[1])
    try:
        best = best_of(sweep)
        _, facts = package(best, tuple(code_of(best)), sweep)
        point = point_of(best)
    except Exception as error:  # whatever the export meets
        print(one_line(error), file=sys.stderr)
        return 1
    print(json.dumps({**facts, "tags": {"lwexp.job": point.name if point is not None else best.name}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
