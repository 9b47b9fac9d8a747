"""What a step's 63 metrics (62 rates and the loss) cost, by every way to log them to MLflow in an SQLite file.

    python tests/benchmarks/tracking_cost.py [--rounds 7] [--steps 160] [--seconds 0.02] [--ways 'lwexp' 'log_batch']

"in the loop" is the time that a training waits at each step, in microseconds, "CPU" the processor time of all threads
of its process until everything is in the store, "with delivery" that of the processes it has started as well: lwexp
delivers in one of its own. `--seconds` is the time between two steps, in which the loop sleeps and
the processor forgets what it had at hand, as it does in a training; with 0 it has it all. Each way has a run of
its own in each of `--rounds` rounds (the slowest with a tenth of the steps); making and ending a run is no part of
the loop, ending it is part of the processor times. Median with quartiles; ratios are to lwexp, round by round.
Ways of packages that are not installed are omitted; they come with `pip install 'lwexp[benchmark]'`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from report import cell, children_cpu, interleave, machine, ratio, spread, table

from lwexp.config.schema import MLflowConfig, NoTrackingConfig
from lwexp.tracking import NoTracker, prepare, start

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

Log = Callable[[Mapping[str, float], int], object]
Way = Callable[[Path], AbstractContextManager[Log]]  # given a folder of its own
NAMES = ["train/loss", *(f"lr/{i:02d}_layer{4 - i // 16}.{i % 2}.conv{i % 3}.weight" for i in range(62))]


def _uri(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


@contextmanager
def _run(folder: Path) -> Iterator[str]:
    """A run of MLflow's, active; yields its id."""
    import mlflow

    mlflow.set_tracking_uri(_uri(folder))
    with mlflow.start_run() as run:
        yield run.info.run_id


@contextmanager
def nothing(folder: Path) -> Iterator[Log]:
    """lwexp's tracker that keeps nothing."""
    yield NoTracker("").log


@contextmanager
def lwexp(folder: Path, config: MLflowConfig | NoTrackingConfig | None = None) -> Iterator[Log]:
    """lwexp's tracker: a journal, delivered by a process of its own."""
    config = config or MLflowConfig(
        name="mlflow", uri=_uri(folder), experiment="lwexp", timeout=60.0, flush_timeout=60.0, rates_every=1
    )
    prepare(config, folder)
    run = Path(tempfile.mkdtemp(dir=folder))
    tracker = start(config, folder=run, run_name="cost", params={}, tags={}, description="", base=folder)
    yield tracker.log
    tracker.finish("FINISHED")


@contextmanager
def log_metric(folder: Path) -> Iterator[Log]:
    """A call for each metric."""
    import mlflow

    with _run(folder):
        yield lambda metrics, step: [mlflow.log_metric(name, value, step) for name, value in metrics.items()]


@contextmanager
def log_metrics(folder: Path, *, synchronous: bool) -> Iterator[Log]:
    """A call for each step; without `synchronous`, MLflow's own threads write."""
    import mlflow

    with _run(folder):
        yield lambda metrics, step: mlflow.log_metrics(metrics, step, synchronous=synchronous)
        mlflow.flush_async_logging()


@contextmanager
def log_batch(folder: Path, *, rows: int) -> Iterator[Log]:
    """MLflow's client: a call as soon as that many rows wait."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, waiting = MlflowClient(_uri(folder)), list[Metric]()
    with _run(folder) as run_id:

        def log(metrics: Mapping[str, float], step: int) -> None:
            now = time.time_ns() // 1_000_000
            waiting.extend(Metric(name, value, now, step) for name, value in metrics.items())
            if len(waiting) >= rows:
                send(rows)

        def send(count: int) -> None:
            client.log_batch(run_id, metrics=waiting[:count])
            del waiting[:count]

        yield log
        send(len(waiting))


@contextmanager
def lightning(folder: Path) -> Iterator[Log]:
    """Lightning's logger."""
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger("benchmark", tracking_uri=_uri(folder))
    assert logger.run_id is not None  # made on first use
    yield lambda metrics, step: logger.log_metrics(dict(metrics), step)
    logger.finalize("success")


@contextmanager
def ignite(folder: Path) -> Iterator[Log]:
    """pytorch-ignite's logger."""
    from ignite.handlers.mlflow_logger import MLflowLogger

    logger = MLflowLogger(_uri(folder))
    yield logger.log_metrics
    logger.close()


WAYS: dict[str, tuple[Way, float, str | None]] = {  # with the part of the steps that it makes, and its package
    "lwexp": (lwexp, 1.0, None),
    "lwexp, journal alone (tracking=none)": (partial(lwexp, config=NoTrackingConfig(name="none")), 1.0, None),
    "nothing": (nothing, 1.0, None),
    "log_metric, one by one": (log_metric, 0.1, None),
    "log_metrics": (partial(log_metrics, synchronous=True), 0.5, None),
    "log_metrics, asynchronous": (partial(log_metrics, synchronous=False), 0.5, None),
    "log_batch": (partial(log_batch, rows=1), 0.5, None),
    "log_batch, 1000 rows at once": (partial(log_batch, rows=1000), 1.0, None),
    "Lightning's MLFlowLogger": (lightning, 0.5, "lightning"),
    "ignite's MLflowLogger": (ignite, 0.5, "ignite"),
}


def measured(way: Way, folder: Path, steps: int, seconds: float) -> tuple[float, float, float]:
    """Microseconds for each of `steps` steps: in the loop, of processor time, of that with all processes started."""
    waited = 0.0
    with way(folder) as log:
        started, children = time.process_time(), children_cpu()
        for step in range(steps):
            metrics = dict.fromkeys(NAMES, 1e-3 / (step + 1))
            before = time.perf_counter()
            log(metrics, step)
            waited += time.perf_counter() - before
            time.sleep(seconds)
    own, total = time.process_time() - started, time.process_time() - started + children_cpu() - children
    return 1e6 * waited / steps, 1e6 * own / steps, 1e6 * total / steps


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=160, help="of each run")
    parser.add_argument("--seconds", type=float, default=0.02, help="between two steps")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {}
    print(machine() + "\n", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:

        def contestant(name: str) -> Callable[[], float]:
            way, part, _ = WAYS[name]
            folder = Path(root, str(len(found)))
            folder.mkdir()
            os.chdir(folder)  # where MLflow would put what has no place of its own
            measured(way, folder, 2, 0.0)  # imports, and the tables of the store
            found[name] = []

            def log() -> float:
                found[name].append(measured(way, folder, max(1, int(part * given.steps)), given.seconds))
                return found[name][-1][0]

            return log

        contestants = {}
        for name in dict.fromkeys(["lwexp", *given.ways]):
            package = WAYS[name][2]
            if package is None or importlib.util.find_spec(package) is not None:
                contestants[name] = contestant(name)
            else:
                print(f"{name} is omitted: {package} is not installed")
        interleave(contestants, given.rounds)
        os.chdir("/")
    rows = []
    for name, values in found.items():
        columns, ours = list(zip(*values, strict=True)), list(zip(*found["lwexp"], strict=True))
        ratios = [cell(ratio(columns[i], ours[i])) for i in (0, 2)]
        rows.append([name, *(cell(spread(column), 0) for column in columns), *ratios])
    print(table(["63 metrics a step", "µs in the loop", "CPU µs", "with delivery", "loop ratio", "CPU ratio"], rows))


if __name__ == "__main__":
    main()
