"""The rigs as fixtures. What is slow to make is made once; each test has a store or an experiment to itself."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.processes import WarmServer, clean_environment

from . import stores
from .network import Host
from .proxy import FaultyProxy
from .servers import MLflowServer, PostgreSQL
from .stores import Database, Postgres, SQLite
from .training import TINY, Launcher, step_seconds, weights
from .trial import PAUSE, STEPS, Reference, Trial

Served = tuple[MLflowServer, Database]


def make_tables(uri: str) -> None:
    """MLflow's tables, in a process of its own: PostgreSQL's driver and MLflow's engines do not stay with us."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    subprocess.run(command, env=clean_environment(), capture_output=True, check=True, timeout=300)


@pytest.fixture(scope="session")
def empty_file(empty_store: Path) -> Path:
    """An SQLite file with MLflow's tables."""
    return empty_store


@pytest.fixture
def file_store(empty_file: Path, tmp_path: Path) -> SQLite:
    """An SQLite file of the test's own."""
    return SQLite(Path(shutil.copy(empty_file, tmp_path / "mlflow.db")))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server with a database `template` that has MLflow's tables."""
    why_not = PostgreSQL.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    # not pytest's folder, which only we may enter: the server may have to run as another user
    with tempfile.TemporaryDirectory(prefix="lwexp-pg-") as folder, ExitStack() as stack:
        server = PostgreSQL(Path(folder))
        server.start()
        stack.callback(server.stop)
        server.create("template")
        make_tables(Postgres(server.port, "template", server.user).uri)
        yield server


@pytest.fixture(scope="module")
def sqlite_server(empty_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An MLflow server on an SQLite file, and that file."""
    folder = tmp_path_factory.mktemp("server")
    database = SQLite(Path(shutil.copy(empty_file, folder / "mlflow.db")))
    yield from _serve(database, folder)


@pytest.fixture(scope="module")
def postgres_server(postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An MLflow server on a PostgreSQL database, and that database."""
    name = f"mlflow_{uuid.uuid4().hex[:8]}"
    postgresql.create(name, "template")
    yield from _serve(Postgres(postgresql.port, name, postgresql.user), tmp_path_factory.mktemp("server"))


def _serve(database: Database, folder: Path) -> Iterator[Served]:
    server = MLflowServer(database.uri, folder)
    server.start()
    yield server, database
    server.stop()


@pytest.fixture
def proxied() -> Iterator[Callable[[MLflowServer], FaultyProxy]]:
    """Puts a proxy in front of a server."""
    with ExitStack() as stack:

        def put(server: MLflowServer) -> FaultyProxy:
            proxy = FaultyProxy("127.0.0.1", server.port)
            stack.callback(proxy.close)
            return proxy

        yield put


@pytest.fixture
def host() -> Iterator[Host]:
    """Another host, with a cable between that can be cut."""
    try:
        host = Host()
    except PermissionError as error:
        pytest.skip(str(error))
    with host:
        yield host


@pytest.fixture
def lwexp(warm_server: WarmServer | None, tmp_path: Path) -> Iterator[Launcher]:
    """Starts lwexp's commands in the test's folder, forked from a process that has their imports."""
    launcher = Launcher(tmp_path, warm_server)
    yield launcher
    launcher.close()


@pytest.fixture
def lwexp_cold(tmp_path: Path) -> Iterator[Launcher]:
    """Starts lwexp's commands in the test's folder as a shell does."""
    launcher = Launcher(tmp_path, None)
    yield launcher
    launcher.close()


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> str:
    """A name for an MLflow experiment that no other test uses."""
    return f"{request.node.originalname}-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="session")
def reference(warm_server: WarmServer | None, empty_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    launcher = Launcher(folder, warm_server)
    store = SQLite(folder / "mlflow.db")
    store.path.write_bytes(empty_file.read_bytes())
    pace = {"FAULTS_STEP_SECONDS": PAUSE, "FAULTS_STEP_TIMES": folder / "times"}
    untracked = launcher(
        "run", *TINY, "max_steps=30", "tracking=none", f"hydra.run.dir={folder}/untracked", environment=pace
    )
    where = [f"tracking.uri={store.uri}", "tracking.experiment=reference", f"hydra.run.dir={folder}/tracked"]
    launcher("run", *TINY, *where).succeeded()
    untracked.succeeded()
    run = stores.only_run(store, "reference")
    assert run.status == "FINISHED"
    assert len([place for place in run.rows if place[0] == "train/loss"]) == STEPS
    seconds = statistics.median(step_seconds(folder / "times")) - PAUSE
    return Reference(run.rows, weights(folder / "tracked"), stores.params(store, run.id), seconds)


@pytest.fixture
def trial(lwexp: Launcher, sqlite_server: Served, reference: Reference, experiment: str, tmp_path: Path) -> Trial:
    return Trial(lwexp, sqlite_server[1], reference, experiment, tmp_path / "run")


@pytest.fixture(params=["sqlite", "postgres"])
def any_server(request: pytest.FixtureRequest) -> Served:
    served: Served = request.getfixturevalue(f"{request.param}_server")
    return served


@pytest.fixture
def any_trial(lwexp: Launcher, any_server: Served, reference: Reference, experiment: str, tmp_path: Path) -> Trial:
    return Trial(lwexp, any_server[1], reference, experiment, tmp_path / "run")
