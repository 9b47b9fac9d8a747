"""What an MLflow database holds, read by SQL past MLflow."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

# (key, step) -> value; None stands for NaN, so that two of them are equal
Rows = dict[tuple[str, int], float | None]


class Database(Protocol):
    """An MLflow database that can be asked by SQL."""

    uri: str  # as `mlflow server --backend-store-uri` takes it

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that `sql` selects; `?` stand for the values."""


@dataclass(frozen=True)
class SQLite:
    """An SQLite file."""

    path: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=rw", uri=True, timeout=30)) as connection:
            return connection.execute(sql, values).fetchall()


@dataclass(frozen=True)
class Postgres:
    """A database of a PostgreSQL server on the loopback address."""

    port: int
    name: str
    user: str

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://{self.user}@127.0.0.1:{self.port}/{self.name}"

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        import psycopg2

        where = {"host": "127.0.0.1", "port": self.port, "dbname": self.name, "user": self.user}
        with closing(psycopg2.connect(**where)) as connection, connection.cursor() as cursor:
            cursor.execute(sql.replace("?", "%s"), values)
            return list(cursor.fetchall())


@dataclass(frozen=True)
class Run:
    """One MLflow run as the database has it."""

    id: str
    name: str
    status: str
    rows: Rows
    repeated: int  # rows beyond the first of their key and step
    stale: list[str]  # keys whose latest value is not that of their last step

    def missing(self, expected: Rows) -> list[tuple[str, int]]:
        """What `expected` has and the run has not, or has with another value."""
        return sorted(place for place, value in expected.items() if self.rows.get(place, math.inf) != value)

    def extra(self, expected: Rows) -> list[tuple[str, int]]:
        """What the run has and `expected` has not."""
        return sorted(self.rows.keys() - expected.keys())


def runs(database: Database, experiment: str) -> list[Run]:
    """All runs of the experiment, deleted ones too, oldest first."""
    found = database.query(
        "SELECT r.run_uuid, r.name, r.status FROM runs r JOIN experiments e ON r.experiment_id = e.experiment_id "
        "WHERE e.name = ? ORDER BY r.start_time, r.run_uuid",
        experiment,
    )
    return [_run(database, *row) for row in found]


def only_run(database: Database, experiment: str) -> Run:
    """The one run of the experiment; fails where there are none or several."""
    found = runs(database, experiment)
    assert len(found) == 1, f"{len(found)} MLflow runs in {experiment}, not one: {[(r.id, r.status) for r in found]}"
    return found[0]


def tags(database: Database, run_id: str) -> dict[str, str]:
    """The tags of a run."""
    return dict(database.query("SELECT key, value FROM tags WHERE run_uuid = ?", run_id))  # type: ignore[arg-type]


def params(database: Database, run_id: str) -> dict[str, str]:
    """The params of a run."""
    return dict(database.query("SELECT key, value FROM params WHERE run_uuid = ?", run_id))  # type: ignore[arg-type]


def times(database: Database, run_id: str, key: str = "train/loss") -> list[int]:
    """The journalled times, in milliseconds, of a metric's rows, by step."""
    sql = "SELECT timestamp FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step"
    return [row[0] for row in database.query(sql, run_id, key)]


def _run(database: Database, run_id: str, name: str, status: str) -> Run:
    found = database.query("SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ?", run_id)
    rows: Rows = {(key, step): None if is_nan else value for key, step, value, is_nan in found}
    repeated = sum(Counter((key, step) for key, step, _, _ in found).values()) - len(rows)
    latest = database.query("SELECT key, step, value, is_nan FROM latest_metrics WHERE run_uuid = ?", run_id)
    return Run(run_id, name, status, rows, repeated, _stale(rows, latest))


def _stale(rows: Rows, latest: Sequence[tuple[Any, ...]]) -> list[str]:
    last: dict[str, int] = {}
    for key, step in rows:
        last[key] = max(step, last.get(key, step))
    shown = {key: (step, None if is_nan else value) for key, step, value, is_nan in latest}
    return sorted(key for key, step in last.items() if shown.get(key) != (step, rows[key, step]))
