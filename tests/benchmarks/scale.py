"""How a store carries many runs: a real sweep of short runs, and how fast the rows of long ones are delivered.

    python tests/benchmarks/scale.py sweep [--runs 200] [--launcher basic]
    python tests/benchmarks/scale.py delivery [--runs 4] [--steps 1000] [--groups 300] [--at-once 2]

Both write to one SQLite file, and to an MLflow server (one worker) on PostgreSQL where it is installed. `sweep` trains
a tiny network with `seed=range(0,runs)`; "lost" counts rows of the runs' journals that the database has not. `delivery`
delivers journals written beforehand, `--at-once` of them at a time from one process, as a sweep's launcher does; its
last columns are what 10,000 runs of 1,000 steps and 300 groups come to at that rate and size.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from report import children_cpu, machine, table

sys.path.insert(0, str(Path(__file__).parents[2]))

from lwexp.config.schema import NoTrackingConfig
from lwexp.tracking import start
from lwexp.tracking.delivery import Delivery
from lwexp.tracking.journal import FILE, Reader
from tests.system.faults.servers import MLflowServer, PostgreSQL
from tests.system.faults.stores import Database, Postgres, SQLite

TRAINING = (
    "model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "epochs=2", "progress=false",
    "device=cpu", "tracking.timeout=60",
)  # fmt: skip
GOAL = 10_000 * 1_000 * 300  # rows


@dataclass(frozen=True)
class Store:
    """A store by name, its address for lwexp, and its database."""

    name: str
    uri: str
    database: Database

    def size(self) -> int:
        """Bytes on the disk."""
        if isinstance(self.database, SQLite):
            self.database.query("PRAGMA wal_checkpoint")
            return self.database.path.stat().st_size
        return int(self.database.query("SELECT pg_database_size(current_database())")[0][0])

    def rows(self) -> int:
        """Metric rows."""
        return int(self.database.query("SELECT count(*) FROM metrics")[0][0])


@contextmanager
def stores(folder: Path) -> Iterator[list[Store]]:
    """An SQLite file, and a server on PostgreSQL if there can be one."""
    database = SQLite(folder / "mlflow.db")
    found = [Store("SQLite", database.uri, database)]
    why_not = PostgreSQL.why_not()
    if why_not is not None:
        print(f"without PostgreSQL: {why_not}")
        yield found
        return
    home = Path(tempfile.mkdtemp(prefix="pg"))
    home.chmod(0o755)
    cluster = PostgreSQL(home)
    cluster.start()
    cluster.create("mlflow")
    served = Postgres(cluster.port, "mlflow", cluster.user)
    server = MLflowServer(served.uri, folder)
    try:
        server.start()
        yield [*found, Store("server on PostgreSQL", server.url, served)]
    finally:
        server.stop()
        cluster.stop()


def sweep(folder: Path, store: Store, runs: int, launcher: str) -> list[str]:
    """One row of the table: a real sweep of `runs` short trainings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HYDRA_"))}
    home = folder / store.name.replace(" ", "_")
    home.mkdir()
    command = [
        sys.executable, "-m", "lwexp.run", "-m", f"seed=range(0,{runs})", *TRAINING, f"tracking.uri={store.uri}",
        f"hydra/launcher={launcher}", "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=home, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:])
    ended = int(store.database.query("SELECT count(*) FROM runs WHERE status = 'FINISHED'")[0][0])
    journalled = sum(_journalled(path) for path in (home / "sweep").rglob(FILE))
    delivered = store.rows()
    per_minute = f"{runs / seconds * 60:.0f}"
    return [store.name, f"{ended}", f"{seconds:.0f}", per_minute, f"{delivered:,}", f"{journalled - delivered:,}"]


def _journalled(path: Path) -> int:
    return sum(len(entry.value.keys) for entry in Reader(path).entries() if entry.kind == "rows")


def delivery(folder: Path, store: Store, runs: int, steps: int, groups: int, at_once: int) -> list[str]:
    """One row of the table: `runs` journals delivered."""
    home = folder / store.name.replace(" ", "_")
    keys = [f"lr/{i:03d}_group" for i in range(groups)]
    for i in range(runs):
        tracker = start(
            NoTrackingConfig(name="none"), folder=home / str(i), run_name=str(i), params={}, tags={}, description=""
        )
        rates = torch.rand(steps, groups, dtype=torch.float64).tolist()
        for step, row in enumerate(rates):
            tracker.log(dict(zip(keys, row, strict=True)), step)
        tracker.finish("FINISHED")
    Delivery(home / "0", store.uri, patience=60.0).run()  # makes the tables and imports mlflow
    before, size, began = store.rows(), store.size(), time.monotonic()
    cpu, own = children_cpu(), time.process_time()
    waiting = iter(range(1, runs))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i = next(waiting, None)
            if i is None:
                return
            Delivery(home / str(i), store.uri, patience=60.0).run()

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, rows = time.monotonic() - began, store.rows() - before
    lost = (runs - 1) * steps * groups - rows
    bytes_a_row = (store.size() - size) / rows
    used = (time.process_time() - own) + (children_cpu() - cpu)
    return [
        store.name, f"{rows:,}", f"{seconds:.0f}", f"{rows / seconds:,.0f}", f"{lost}", f"{used / rows * 1e6:.0f}",
        f"{bytes_a_row:.0f}", f"{GOAL / (rows / seconds) / 86400:.1f}", f"{GOAL * bytes_a_row / 1e12:.2f}",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sweep", "delivery"])
    parser.add_argument("--runs", type=int)
    parser.add_argument("--launcher", default="basic")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--groups", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=2)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as name, stores(Path(name)) as found:
        folder = Path(name)
        if given.what == "sweep":
            rows = [sweep(folder, store, given.runs or 200, given.launcher) for store in found]
            print(table(["store", "runs finished", "s", "runs a minute", "rows", "lost"], rows))
        else:
            rows = [
                delivery(folder, store, 1 + (given.runs or 4), given.steps, given.groups, given.at_once)
                for store in found
            ]
            header = ["store", "rows", "s", "rows/s", "lost", "µs CPU a row", "bytes a row", "days", "TB"]
            print(table(header, rows))


if __name__ == "__main__":
    main()
