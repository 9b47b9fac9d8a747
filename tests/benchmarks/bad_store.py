"""What a bad day of the tracking server costs a training step: nothing, the journal stands between them.

    python tests/benchmarks/bad_store.py [--rounds 5] [--epochs 6]

Trains a small ResNet (one thread) in a process of its own with `tracking=none`, then against an MLflow server on
SQLite that is well, slow (2 s an answer), answers 500, never answers, and refuses connections; each in turn, so that a
busy minute of the machine does not fall on one alone. One row for each: the median step of every round, the median of
the rounds, and its ratio to `tracking=none`. "well" has the delivery process at work beside it, niced.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.processes import WarmServer
from tests.system.faults.conftest import make_tables
from tests.system.faults.proxy import FAULTS, FaultyProxy
from tests.system.faults.servers import MLflowServer
from tests.system.faults.training import Launcher, delivery_processes, step_seconds, until

TRAINING = ("model=test_resnet", "data.image_size=32", "grouping=per_parameter", "progress=false", "device=cpu")
STORES = ("none", "well", "slow", "500", "hang", "refuse")


def measure(folder: Path, rounds: int, epochs: int) -> dict[str, list[float]]:
    """The median step in seconds of each round, by store."""
    medians: dict[str, list[float]] = {name: [] for name in STORES}
    uri = f"sqlite:///{folder}/mlflow.db"
    make_tables(uri)
    server = MLflowServer(uri, folder)
    server.start()
    with closing(WarmServer()) as warm, closing(Launcher(folder, warm)) as lwexp:
        proxy = FaultyProxy("127.0.0.1", server.port)
        try:
            for turn in range(rounds):
                for name in STORES:
                    proxy.set("pass")
                    if name in FAULTS:
                        FAULTS[name](proxy)
                    tracked = ["tracking.flush_timeout=1", f"tracking.uri={proxy.url}"]
                    where = [f"hydra.run.dir={folder}/{name}-{turn}", f"epochs={epochs}"]
                    times = folder / f"{name}-{turn}.times"
                    options = ["tracking=none"] if name == "none" else tracked
                    lwexp("run", *TRAINING, *where, *options, environment={"FAULTS_STEP_TIMES": times}).succeeded(600)
                    until(lambda: not delivery_processes(folder), 120, "the delivery process to end")
                    medians[name].append(statistics.median(step_seconds(times)))
        finally:
            proxy.close()
            server.stop()
    return medians


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        medians = measure(Path(folder), arguments.rounds, arguments.epochs)
    none = statistics.median(medians["none"])
    print("| store | each round, ms | median, ms | ratio |\n| --- | --- | --- | --- |")
    for name, seconds in medians.items():
        median = statistics.median(seconds)
        each = " ".join(f"{1000 * second:.1f}" for second in seconds)
        print(f"| {name} | {each} | {1000 * median:.1f} | {median / none:.2f} |")


if __name__ == "__main__":
    main()
