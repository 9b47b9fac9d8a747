"""The data of a run as MLflow's datasets, one for each split: what the journal holds of them, and what MLflow gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lwexp.redaction import redact, redact_values

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_CONTEXT = "mlflow.data.context"
_MAX_NAME, _MAX_DIGEST, _MAX_TEXT = 500, 36, 60_000  # MLflow's limits; of a text that of MySQL's column


@dataclass(frozen=True)
class DatasetRecord:
    """One split of the data.

    `context`: what it is for, such as "train"; `digest` changes where its contents do; `source`: where it is from;
    `columns`: name and type of what a sample consists of; `profile`: counts.
    """

    name: str
    digest: str
    context: str
    kind: str  # of the source: "local", "sklearn", …
    source: Mapping[str, Any]
    columns: Mapping[str, str]
    profile: Mapping[str, Any]

    def entry(self) -> dict[str, Any]:
        """The content of a journal's entry, without secrets."""
        found: dict[str, Any] = redact_values(asdict(self), redact)
        return found


def dataset_input(entry: Mapping[str, Any]) -> DatasetInput:
    """What MLflow's client takes, made of a journal's entry."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [{"name": name, "type": kind} for name, kind in entry["columns"].items()]
    dataset = Dataset(
        name=str(entry["name"])[:_MAX_NAME],
        digest=str(entry["digest"])[:_MAX_DIGEST],
        source_type=str(entry["kind"])[:_MAX_DIGEST],
        source=_json(entry["source"]),
        schema=_json({"mlflow_colspec": columns}),
        profile=_json(entry["profile"]),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag(_CONTEXT, str(entry["context"]))])


def _json(value: Any) -> str:
    """`value` as JSON that fits; where it is too long, what is in it is not."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text.encode("utf-8", "surrogatepass")) <= _MAX_TEXT else json.dumps({"omitted": "too long"})
