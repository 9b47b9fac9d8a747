"""Folders whose names mean something else inside an address: rows and files stay in the folder of the command."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from lwexp.errors import ConfigError
from lwexp.tracking import check_store, prepare, resolve_uri
from lwexp.tracking.address import is_missing, sqlite_path
from tests.helpers.tracked_runs import begin_in, mlflow_config

ODD = [
    "My%20Project", "100%", "%41", "a%2Fb", "a#b", "a?b", "a+b", "a b", "Übung ß", "a:b@c", "a;b&c=d", "'q\"", "~x",
    "file:x", "%C3%28", "a%00b", "q?password=1#x",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("name", ODD)
def test_the_default_store_is_below_the_folder_of_the_command(name: str, tmp_path: Path) -> None:
    wanted = tmp_path / name / "outputs" / "mlflow.db"
    uri = resolve_uri(mlflow_config(None), tmp_path / name)
    assert sqlite_path(uri) == wanted
    assert make_url(uri).database == str(wanted), "what MLflow opens"
    assert is_missing(uri)
    wanted.parent.mkdir(parents=True)
    sqlite3.connect(wanted).close()
    assert not is_missing(uri)
    assert resolve_uri(mlflow_config(uri), Path("/")) == uri, "the address as printed names the same file"


@pytest.mark.parametrize("name", ["My%20Project", "a?b#c+ü", "%25"])
def test_rows_and_files_of_a_run_are_in_its_own_folder(
    name: str, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "top" / name
    (here / "outputs").mkdir(parents=True)
    shutil.copy(empty_store, here / "outputs" / "mlflow.db")
    monkeypatch.chdir(here)
    config = mlflow_config(None, experiment="mine")
    prepare(config)
    tracker = begin_in(config, here / "outputs" / "run")
    tracker.log({"a": 1.0}, 7)
    (here / "outputs" / "run" / "notes.txt").write_text("mine")
    tracker.artifact(here / "outputs" / "run" / "notes.txt")
    tracker.finish("FINISHED")
    with closing(sqlite3.connect(here / "outputs" / "mlflow.db")) as database:
        assert database.execute("SELECT key, step FROM metrics").fetchall() == [("a", 7)]
    assert [path.read_text() for path in (here / "outputs" / "mlartifacts").rglob("notes.txt")] == ["mine"]
    assert [path.name for path in (tmp_path / "top").iterdir()] == [name], "and nowhere else"


def test_a_percent_sign_that_was_meant_as_it_stands_is_explained(tmp_path: Path) -> None:
    (tmp_path / "My%20Project").mkdir()
    with pytest.raises(ConfigError) as caught:
        resolve_uri(mlflow_config("sqlite:///My%20Project/runs.db"), tmp_path)
    assert str(caught.value).endswith(f"write sqlite:///{tmp_path}/My%2520Project%2Fruns.db")
    (tmp_path / "My Project").mkdir()
    uri = resolve_uri(mlflow_config("sqlite:///My%20Project/runs.db"), tmp_path)
    assert sqlite_path(uri) == tmp_path / "My Project" / "runs.db", "an address as MLflow reads it"


def test_a_file_address_inside_an_address_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write the path itself: sqlite:///outputs/mlflow\.db"):
        resolve_uri(mlflow_config("sqlite:///file:outputs/mlflow.db?mode=ro&uri=true"), tmp_path)


def test_a_path_that_sqlite_cannot_open_is_a_mistake_at_once(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["x" * 100] * 5)
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI=.* opens no file whose path has \d+ bytes"):
        check_store(mlflow_config(None), deep)
    with pytest.raises(ConfigError, match="cannot be made: File name too long"):
        check_store(mlflow_config(None), tmp_path / ("x" * 300))
