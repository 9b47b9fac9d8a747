"""Reading runs from an MLflow store, as plain dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from lwexp.config.schema import MLflowConfig
from lwexp.errors import ConfigError

from .address import kind
from .contact import ANSWER_SECONDS, SLOWEST, error_line, within
from .store import connect, limit_retries, translate_errors

if TYPE_CHECKING:
    from mlflow.entities import Run

T = TypeVar("T")

_PAGE = 1000  # runs in an answer
_AT_ONCE = 8  # requests to a server at a time

NEWEST_FIRST, OLDEST_FIRST = "attributes.start_time DESC", "attributes.start_time ASC"


@dataclass(frozen=True)
class StoredRun:
    """A run as MLflow holds it; `metrics` has the last value of each."""

    id: str
    name: str
    status: str  # MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED
    started: int  # milliseconds since the Unix epoch
    experiment_id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


class StoreReader:
    """Reads from the MLflow store of `config`.

    Every method raises `RunError` with one line, without secrets, where the store fails or has no such run.
    """

    def __init__(self, config: MLflowConfig, base: Path) -> None:
        """Connect. Raises `ConfigError`, also for an SQLite file that does not exist, and `RunError`."""
        self._client, self.uri = connect(config, base, create=False)

    def experiments(self) -> dict[str, str]:
        """Ids of the experiments by name."""
        with self._asking():
            found = self._whole(self._client.search_experiments)
            return {str(each.name): str(each.experiment_id) for each in found}

    def run(self, run_id: str) -> StoredRun:
        """The run with this id."""
        with self._asking():
            return _stored(self._whole(lambda: self._client.get_run(run_id)))

    def search(
        self, experiment_ids: Sequence[str], query: str, order: str = NEWEST_FIRST, option: str | None = None
    ) -> list[StoredRun]:
        """All runs of the experiments that match `query`, in MLflow's search syntax.

        Raises `ConfigError` for a query that MLflow cannot read, if the user gave it as `option`.
        """
        found: list[StoredRun] = []
        token: str | None = None
        with self._asking(), self._refusing(option, query):
            while True:
                ask = partial(self._client.search_runs, max_results=_PAGE, order_by=[order], page_token=token)
                page = self._whole(partial(ask, list(experiment_ids), query))
                found += map(_stored, page)
                token = page.token
                if not token:
                    return found

    def histories(self, wanted: Sequence[tuple[str, str]]) -> list[dict[int, float]]:
        """For each run id and metric of `wanted` its values by optimizer step; the latest where a step has several."""

        def history(run_id: str, metric: str) -> dict[int, float]:
            rows = self._whole(lambda: self._client.get_metric_history(run_id, metric))
            last = {row.step: row.value for row in sorted(rows, key=lambda row: row.timestamp)}
            return dict(sorted(last.items()))

        with self._asking(), ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(lambda pair: history(*pair), wanted))

    def texts(self, run_ids: Sequence[str], artifact: str) -> list[str | None]:
        """The text file `artifact` of each run; None where it cannot be read."""

        def text(run_id: str) -> str | None:
            with TemporaryDirectory() as copy:
                try:
                    path = self._whole(lambda: self._client.download_artifacts(run_id, artifact, copy))
                    return Path(path).read_text(encoding="utf-8")
                except Exception:  # each kind of artifact storage has its own errors
                    return None

        with self._asking(), ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(text, run_ids))

    def attach(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        """Put `files` under `folder` of the run's artifacts, over earlier ones of the same names."""
        with self._asking("does not take the report"):
            for file in files:
                send = partial(self._client.log_artifact, run_id, str(file), folder)
                self._whole(send, ANSWER_SECONDS + file.stat().st_size / SLOWEST)

    @contextmanager
    def _refusing(self, option: str | None, query: str) -> Iterator[None]:
        """Raise what MLflow says of a `query` that it cannot read as a `ConfigError` of `option`."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if option is None or error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            raise ConfigError(option, query, f"MLflow cannot read it: {error_line(error, self.uri)}") from None

    def _whole(self, action: Callable[[], T], seconds: float | None = None) -> T:
        """The result of `action`; raises `TimeoutError` where a server has not given all of it after `seconds`."""
        if not kind(self.uri).startswith("http"):
            return action()
        return within(ANSWER_SECONDS if seconds is None else seconds, action)

    @contextmanager
    def _asking(self, what: str = "failed") -> Iterator[None]:
        with translate_errors(self.uri, what), limit_retries():
            yield


def _stored(run: Run) -> StoredRun:
    info, data = run.info, run.data
    return StoredRun(
        id=str(info.run_id),
        name=str(info.run_name),
        status=str(info.status),
        started=int(info.start_time),
        experiment_id=str(info.experiment_id),
        tags=dict(data.tags),
        params=dict(data.params),
        metrics=dict(data.metrics),
    )
