"""MLflow models: a packaged network with the files that MLflow wants, logged once however often that is attempted.

A package is a folder with `network/model.pt2`, an archive of `torch.export`, and `lwexp_model/`, the serving code.
`mlflow.pytorch.load_model` gives the network itself, on tensors; `mlflow.pyfunc.load_model` and `mlflow models predict`
take images or texts and give classes with their probabilities.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .keys import cut
from .mlflow_internals import MAX_NAME

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

ID_TAG = "lwexp.model_id"
NETWORK, CODE = "network", "lwexp_model"
# 8 × 8 gray pixels as a PNG file in base64: shows what the column `image` holds
_IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=="


def save_model(
    package: Path, facts: Mapping[str, Any], path: Path, *, model_id: str | None = None, run_id: str | None = None
) -> None:
    """Write the MLflow model of `package` to the new folder `path`; `facts` as of `lwexp.inference.packaging`."""
    import pandas as pd  # type: ignore[import-untyped]
    from mlflow import pyfunc
    from mlflow.models import Model

    model = Model(run_id=run_id, model_id=model_id)
    model.add_flavor("pytorch", model_data=f"data/{NETWORK}", pytorch_version=facts["torch"], code=None)
    column = facts["kind"]
    pyfunc.save_model(
        str(path),
        loader_module=CODE,
        data_path=str(package / NETWORK),
        code_paths=[str(package / CODE)],
        mlflow_model=model,
        signature=_signature(facts),
        input_example=pd.DataFrame({column: [_IMAGE if column == "image" else "a short text"]}),
        pip_requirements=[*facts["requirements"], _own_requirement()],
        metadata={"task": facts["task"], "classes": json.dumps(facts["classes"])},
    )


def log_model(
    client: MlflowClient,
    run_id: str,
    package: Path,
    facts: Mapping[str, Any],
    check: Callable[[str], None],
    *,
    by_server: bool,
) -> None:
    """Log the model of `package` with the run and, where `facts` name one, register it; what is there already stays.

    `check` raises for a place that the model's files must not go to; `by_server`: the store is behind MLflow's server.
    Raises what MLflow and the network raise.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment = client.get_run(run_id).info.experiment_id
    mine = f"tags.`{ID_TAG}` = '{facts['id']}' AND source_run_id = '{run_id}'"
    found = client.search_logged_models([experiment], mine, max_results=1)
    if found:
        model = found[0]
    else:
        tags = {ID_TAG: str(facts["id"]), **{str(key): str(value) for key, value in facts.get("tags", {}).items()}}
        name = cut(str(facts["name"]), MAX_NAME)
        model = client.create_logged_model(experiment, name, run_id, tags, model_type=facts["task"])
    if model.status != LoggedModelStatus.READY:
        check(model.artifact_location)
        with tempfile.TemporaryDirectory(prefix="lwexp-model-") as folder:
            path = Path(folder) / "model"
            save_model(package, facts, path, model_id=model.model_id, run_id=run_id)
            client.log_model_artifacts(model.model_id, str(path))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=int(facts.get("step", 0)))])
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    if facts.get("register"):
        # a client that writes to the database itself would look "models:/…" up in another store, the process's own
        source = f"models:/{model.model_id}" if by_server else model.artifact_location
        _register(client, str(facts["register"]), source, model.model_id, run_id)


def _register(client: MlflowClient, name: str, source: str, model_id: str, run_id: str) -> None:
    """Make the logged model a version of the registered model `name`, unless it is one."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'")
    if not any(source == one.source or model_id == getattr(one, "model_id", None) for one in versions):
        client.create_model_version(name, source, run_id, model_id=model_id)


def _signature(facts: Mapping[str, Any]) -> ModelSignature:
    """Images or texts in; classes, labels or numbers out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    numbers = ColSpec(Array(DataType.double), "probabilities")
    if facts["task"] == "regression":
        outputs: list[Any] = [ColSpec(DataType.double, str(name)) for name in facts["classes"]]
    elif facts["task"] == "multilabel":
        outputs = [ColSpec(Array(DataType.string), "labels"), numbers]
    else:
        outputs = [ColSpec(DataType.string, "class"), ColSpec(DataType.double, "probability"), numbers]
    return ModelSignature(inputs=Schema([ColSpec(DataType.string, facts["kind"])]), outputs=Schema(outputs))


def _own_requirement() -> str:
    import mlflow

    return f"mlflow=={mlflow.__version__}"
