"""`lwexp.sync` of a folder that came from somebody else: nothing of this machine leaves it, nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lwexp.sync import main
from lwexp.tracking.delivery_state import FILE as STATE
from lwexp.tracking.delivery_state import read_state
from lwexp.tracking.journal import FILE, Journal
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import NONE, begin_in

SECRET = "the-key-of-this-machine"
Foreign = Callable[..., Path]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a secret file, in it the current folder; nothing else of MLflow's in the environment."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def foreign(machine: Path) -> Foreign:
    """Makes the folder of a run as somebody else may have written it."""

    def make(where: str, artifacts: tuple[Any, ...] = (), name: str = "foreign", **changes: Any) -> Path:
        folder = machine / "work" / name
        begin_in(NONE, folder).close()
        (record,) = [entry.value for entry in _entries(folder) if entry.kind == "run"]
        (folder / FILE).unlink()
        journal = Journal(folder)
        journal.write("run", {**record, "where": where, **changes})
        journal.rows({"a": 1.0}, 0)
        for path in artifacts:
            journal.write("artifact", {"path": path, "folder": None})
        journal.rows({"a": 2.0}, 1)
        journal.write("end", {"status": "FINISHED", "reason": None, "time_ms": 1})
        journal.close()
        return folder

    return make


def _entries(folder: Path) -> list[Any]:
    from lwexp.tracking.journal import Reader

    return list(Reader(folder / FILE).entries())


def sync(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


# ----------------------------------------------------------------------------------------------------------- artifacts


def _link(folder: Path, name: str, target: Path | str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(target)


def _hard_link(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    os.link(folder.parents[1] / "secret.txt", folder / name)


# What somebody puts into a folder, and the path that its journal names
WAYS: dict[str, tuple[Callable[[Path], None], str]] = {
    "absolute": (lambda _: None, "/etc/hostname"),
    "dots": (lambda _: None, "../../secret.txt"),
    "dots_inside": (lambda folder: (folder / "a").mkdir(), "a/../../../secret.txt"),
    "link": (lambda folder: _link(folder, "plan.csv", folder.parents[1] / "secret.txt"), "plan.csv"),
    "relative_link": (lambda folder: _link(folder, "plan.csv", "../../secret.txt"), "plan.csv"),
    "link_to_a_link": (lambda folder: (_link(folder, "b", "../../secret.txt"), _link(folder, "a", "b"))[0], "a"),
    "linked_folder": (lambda folder: _link(folder, "pictures", folder.parents[1]), "pictures"),
    "link_above": (lambda folder: _link(folder, "pictures", folder.parents[1]), "pictures/secret.txt"),
    "link_in_a_folder": (lambda folder: _link(folder, "pictures/deep/x", "../../../../secret.txt"), "pictures"),
    "folder_in_a_folder": (lambda folder: _link(folder, "pictures/deep", folder.parents[1]), "pictures"),
    "hard_link": (lambda folder: _hard_link(folder, "plan.csv"), "plan.csv"),
    "hard_link_in_a_folder": (lambda folder: _hard_link(folder, "pictures/x"), "pictures"),
    "environment": (lambda folder: _link(folder, "plan.csv", "/proc/self/environ"), "plan.csv"),
    "all": (lambda _: None, "."),
    "pipe": (lambda folder: os.mkfifo(folder / "pipe"), "pipe"),
    "nul": (lambda _: None, "a\0b"),
    "loop": (lambda folder: _link(folder, "a", "a"), "a"),
}


def test_no_file_from_outside_the_runs_folder_is_sent(
    foreign: Foreign, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    for way, (prepare, path) in WAYS.items():
        (folder := Path(way)).mkdir()
        prepare(folder.absolute())
        foreign(server.uri, (path, "mine.txt"), name=way)
        (folder / "mine.txt").write_text("mine")
        assert sync(way) == 1, way
        captured = capsys.readouterr()
        assert captured.out == f"run ({way}): 2 metric rows delivered to {server.uri}, FINISHED\n"
        assert captured.err.count("\n") == 1, captured.err
        assert "was not delivered" in captured.err
        assert list(server.artifacts) == ["mine.txt"], "and what is inside is sent"
        assert SECRET not in str(server.artifacts)
        server.artifacts.clear()


def test_files_and_links_that_stay_inside_are_sent(foreign: Foreign, server: FakeMLflow) -> None:
    folder = foreign(server.uri, ("a.txt", "link.txt", "hard.txt", "pictures"))
    (folder / "a.txt").write_text("a")
    (folder / "link.txt").symlink_to("a.txt")
    os.link(folder / "a.txt", folder / "hard.txt")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "b.txt").symlink_to(folder / "a.txt")
    assert sync(folder) == 0
    assert set(server.artifacts) == {"a.txt", "link.txt", "hard.txt", "b.txt"}
    assert set(server.artifacts.values()) == {b"a"}


def test_what_a_run_itself_keeps_from_elsewhere_is_copied_into_its_folder(server: FakeMLflow, machine: Path) -> None:
    (machine / "plot.txt").write_text("plot")
    (machine / "many").mkdir()
    (machine / "many" / "1.txt").write_text("1")
    tracker = begin_in(NONE, machine / "run")
    tracker.artifact(machine / "plot.txt", "../plots")
    tracker.artifact(machine / "many")
    tracker.artifact(machine / "plot.txt")
    shutil.rmtree(machine / "many")
    tracker.finish("FINISHED")
    assert sync(machine / "run", f"tracking.uri={server.uri}") == 1, "no folder of artifacts has .."
    assert server.artifacts == {"plot.txt": b"plot", "1.txt": b"1"}


@pytest.mark.parametrize("name", [FILE, STATE, "delivery.owner", "delivery.lock", "journal.reserve"])
@pytest.mark.parametrize("how", ["link", "hard_link"])
def test_nothing_is_written_through_a_link(
    name: str, how: str, foreign: Foreign, server: FakeMLflow, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(server.uri)
    if name == FILE:
        shutil.copy(folder / FILE, machine / "secret.txt")
    before = (machine / "secret.txt").read_bytes()
    (folder / name).unlink(missing_ok=True)
    if how == "link":
        (folder / name).symlink_to(machine / "secret.txt")
    else:
        os.link(machine / "secret.txt", folder / name)
    assert sync(folder) == 1
    assert "is a link" in capsys.readouterr().err
    assert (machine / "secret.txt").read_bytes() == before
    assert server.runs == {}


# ----------------------------------------------------------------------------------------------------------- addresses


def test_credentials_go_to_no_server_that_only_the_folder_names(
    foreign: Foreign, server: FakeMLflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert sync(folder) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"lwexp-sync: tracking.uri={server.uri}: only the folder foreign names it; to send ")
    assert captured.err.endswith(f": python -m lwexp.sync tracking.uri={server.uri} foreign\n")
    assert server.runs == {}
    assert server.authorizations == set()
    assert sync(folder, f"tracking.uri={server.uri}") == 0
    assert len(server.authorizations) == 1
    assert [row["step"] for row in next(iter(server.runs.values()))["rows"]] == [0, 1]


@pytest.mark.parametrize("secret", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "file", "netrc"])
def test_every_kind_of_credentials_counts(
    secret: str, foreign: Foreign, server: FakeMLflow, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign(server.uri)
    if secret == "file":
        (machine / ".mlflow").mkdir()
        (machine / ".mlflow" / "credentials").write_text(f"[mlflow]\nmlflow_tracking_password = {SECRET}\n")
    elif secret == "netrc":
        (machine / ".netrc").write_text(f"default login anna password {SECRET}\n")
        (machine / ".netrc").chmod(0o600)
    else:
        monkeypatch.setenv(secret, SECRET)
    assert sync(folder) == 2
    assert server.runs == {}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)  # the caller's own settings
    if "CERT" not in secret:  # there is no such file
        assert sync(folder) == 0


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql", "mssql+pyodbc"])
def test_no_database_that_only_the_folder_names_is_contacted(
    scheme: str, foreign: Foreign, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        folder = foreign(f"{scheme}://anna@127.0.0.1:{listening.getsockname()[1]}/runs")
        assert sync(folder) == 2
        with pytest.raises(TimeoutError):
            listening.accept()
    assert "to connect to that database as you" in capsys.readouterr().err


def test_no_database_is_made_and_none_of_another_program_written(
    foreign: Foreign, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(foreign(f"sqlite:///{machine}/.ssh/authorized_keys")) == 2
    assert not (machine / ".ssh").exists()
    with closing(sqlite3.connect(machine / "cookies.sqlite")) as database:
        database.execute("CREATE TABLE cookies (name)")
    before = (machine / "cookies.sqlite").read_bytes()
    assert sync(foreign(f"sqlite:///{machine}/cookies.sqlite", base=str(machine))) == 2
    assert (machine / "cookies.sqlite").read_bytes() == before
    assert capsys.readouterr().err.count("to make or write that file") == 2


@pytest.mark.parametrize("uri", ["file:///{home}/.ssh", "{home}/.ssh", "s3://bucket/x", "http://other/x", "dbfs:/x"])
def test_a_server_that_only_the_folder_names_puts_files_nowhere_else(
    uri: str, foreign: Foreign, server: FakeMLflow, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.artifact_uri = uri.format(home=machine)
    folder = foreign(server.uri, ("authorized_keys",))
    (folder / "authorized_keys").write_text("mine")
    assert sync(folder) == 1
    assert "tracking.uri=… with the store's address allows that" in capsys.readouterr().err
    assert not (machine / ".ssh").exists()


def test_another_run_is_not_taken_along_as_the_parent(foreign: Foreign, server: FakeMLflow, machine: Path) -> None:
    begin_in(NONE, machine / "mine").finish("FINISHED")  # a run of this machine, meant for no store
    for parent in ("../../mine", str(machine / "mine"), "../.."):
        assert sync(foreign(server.uri, parent=parent)) in (0, 1)
        assert read_state(machine / "mine").run_id is None


@pytest.mark.parametrize("change", [{"where": None}, {"base": 3}, {"params": []}])
def test_a_record_that_lwexp_would_not_write_is_one_line(
    change: dict[str, Any], foreign: Foreign, server: FakeMLflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(foreign(change.get("where", server.uri), **{k: v for k, v in change.items() if k != "where"})) == 1
    assert "is not one of lwexp" in capsys.readouterr().err
