"""How long `lwexp.report` takes for a sweep of many runs: reading from MLflow, judging, drawing, attaching.

python tests/benchmarks/report_reading.py --runs 300
python tests/benchmarks/report_reading.py --store http://127.0.0.1:5000 --sweep <id>   a sweep that is there
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric
from report import machine, table

from lwexp.config.schema import MLflowConfig
from lwexp.report.analysis import analyze
from lwexp.report.files import write_report
from lwexp.report.reading import SweepReader
from lwexp.tracking.store import connect

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.helpers.report_sweeps import Job, make_sweep

SEEDS = 10


def fill(config: MLflowConfig, runs: int, steps: int, groups: int) -> str:
    """A sweep of so many runs with all their rates, in a new store."""
    connect(config)
    client = MlflowClient(tracking_uri=config.uri)
    random = np.random.default_rng(0)
    points = [{"mult": f"{1 - k / 100:g}", "seed": str(seed)} for k in range(runs // SEEDS) for seed in range(SEEDS)]
    jobs = [
        Job(point, val=sorted(random.uniform(0.5, 1, 20).tolist()), test=0.9, uniform=point["mult"] == "1")
        for point in points
    ]
    parent = make_sweep(client, jobs)
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=runs)
    for child in children:
        rows = [Metric(f"lr/{g:02d}_group", 0.1, 0, step) for step in range(steps) for g in range(groups)]
        for first in range(0, len(rows), 1000):
            client.log_batch(child.info.run_id, metrics=rows[first : first + 1000])
    return parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--store", help="address of a store with a sweep (default: a new SQLite file)")
    parser.add_argument("--sweep", help="its id (default: the latest)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = asked.store or f"sqlite:///{folder}/mlflow.db"
        config = MLflowConfig(
            name="mlflow", uri=uri, experiment="lwexp", timeout=8.0, flush_timeout=10.0, rates_every=1
        )
        if asked.store is None:
            fill(config, asked.runs, asked.steps, asked.groups)
        times = [time.perf_counter()]
        store = SweepReader(config, Path.cwd())
        times.append(time.perf_counter())
        sweep = store.read(store.find(*([asked.sweep] if asked.sweep else [])))
        times.append(time.perf_counter())
        found = analyze(sweep)
        times.append(time.perf_counter())
        write_report(found, Path(folder) / "report")
        times.append(time.perf_counter())
    parts = ["connect", "read", "judge", "draw and write"]
    rows = [[part, f"{1000 * (end - start):.0f}"] for part, start, end in zip(parts, times, times[1:], strict=False)]
    print(f"{machine()}\n{len(sweep.runs)} runs in {uri.partition(':')[0]}\n")
    print(table(["part", "ms"], rows))


if __name__ == "__main__":
    main()
