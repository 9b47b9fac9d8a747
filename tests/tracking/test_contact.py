"""The first contact with a store: bounded in time, explained in one line."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.engine import default

from lwexp.errors import ConfigError
from lwexp.tracking import check_store, prepare
from lwexp.tracking.contact import UnreachableError
from lwexp.tracking.store import limit_retries
from tests.helpers.fake_mlflow import FakeMLflow
from tests.helpers.tracked_runs import (
    SECRET,
    Begin,
    begin_in,
    mlflow_config,
)


@pytest.fixture
def hung_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://anna:{SECRET}@127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def unreachable(uri: str, timeout: float = 8.0) -> str:
    """The one line that says why the store is not available, within ten seconds."""
    start = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        check_store(mlflow_config(uri, timeout=timeout))
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_server_that_never_answers_is_one_warning_and_the_run_continues(
    hung_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = mlflow_config(hung_server, timeout=0.5, flush_timeout=0.5)
    start = time.monotonic()
    answers = prepare(config)
    assert not answers
    (line,) = caplog.messages
    assert "http://anna:***@127.0.0.1" in line
    assert "no answer within 0.5 s" in line
    assert "tracking=none" in line
    tracker = begin_in(config, tmp_path / "run", answers=answers)
    assert time.monotonic() - start < 10
    tracker.log({"a": 1.0}, 0)
    tracker.finish("FINISHED")
    assert time.monotonic() - start < 20
    assert "1 of 1 metric rows not delivered" in caplog.messages[-1]
    for path in (tmp_path / "run").iterdir():
        assert SECRET.encode() not in path.read_bytes(), path
    assert all(SECRET not in message for message in caplog.messages)


def test_a_closed_port_is_reported(closed_port: int) -> None:
    assert "refused" in unreachable(f"http://127.0.0.1:{closed_port}")


def test_a_host_without_an_address_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in unreachable("http://no-such-host.invalid:5000")


class SilentDialect(default.DefaultDialect):
    """A driver whose server accepts a connection and never answers."""

    released = threading.Event()

    @classmethod
    def import_dbapi(cls) -> Any:
        return SimpleNamespace(paramstyle="named", Error=Exception)

    def connect(self, *_args: Any, **_kwargs: Any) -> Any:
        self.released.wait(30)
        raise ConnectionError


def test_a_database_that_blocks_is_reported() -> None:
    registry.register("postgresql.silent", __name__, "SilentDialect")
    try:
        assert "no answer within 0.5 s" in unreachable(f"postgresql+silent://anna:{SECRET}@db/runs", timeout=0.5)
    finally:
        SilentDialect.released.set()


def test_a_server_receives_the_user_and_password_of_its_address(server: FakeMLflow, tmp_path: Path) -> None:
    uri = server.uri.replace("http://", "http://anna:s3cr3t@")
    tracker = begin_in(mlflow_config(uri), tmp_path / "run")
    tracker.finish("FINISHED")
    assert server.authorizations == {"Basic YW5uYTpzM2NyM3Q="}
    assert tracker.where == server.uri.replace("http://", "http://anna:***@")


def test_a_server_in_trouble_is_asked_again(
    server: FakeMLflow, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail, server.body = 500, '{"error_code": "INTERNAL_ERROR", "message": "gone"}'
    tracker = begin_in(mlflow_config(server.uri, flush_timeout=0.5), tmp_path / "run")
    tracker.finish("FINISHED")
    assert "too many 500 error responses (the server's own log says why)" in caplog.messages[-1]
    assert "its end not delivered" in caplog.messages[-1]


def test_limits_set_for_mlflow_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # the user's own stays
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with limit_retries(), limit_retries():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"


def test_the_root_logger_is_the_users(begin: Begin) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    begin()
    assert (root.level, list(root.handlers)) == before


def test_a_file_that_is_no_database_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("these are notes, not a database" * 100)
    with pytest.raises(ConfigError, match="is not an SQLite database"):
        check_store(mlflow_config("sqlite:///notes.db"), tmp_path)
    with pytest.raises(ConfigError, match="cannot be made"):
        check_store(mlflow_config("sqlite:///notes.db/runs.db"), tmp_path)
    assert (tmp_path / "notes.db").read_text().startswith("these are notes")


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"anna:\*\*\*@host.*package .*no_such_driver"):
        check_store(mlflow_config(f"postgresql+no_such_driver://anna:{SECRET}@host/runs"), tmp_path)
