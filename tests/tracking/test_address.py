"""Addresses of stores, and the secrets in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lwexp.errors import ConfigError
from lwexp.redaction import redact_addresses
from lwexp.tracking import open_hint, resolve_uri
from lwexp.tracking.journal import FILE as JOURNAL
from tests.helpers.tracked_runs import (
    SECRET,
    Begin,
    mlflow_config,
)

MALFORMED = {
    "": "is empty",
    "outputs": "not an address",
    "./mlruns": "plain folders",
    "/data/mlruns": "plain folders",
    "file:///data/mlruns": "plain folders",
    "localhost:5000": "http://localhost:5000",
    "127.0.0.1:5000/x": "begins with http://",
    "htp://host:5000": "did you mean http",
    f"postgres://anna:{SECRET}@host/runs": "did you mean postgresql",
    f"anna:{SECRET}@host:5000": "not an address",
    "ftp://host": "no such kind of store",
    "http:/host:5000": "followed by slashes",
    "sqlite:outputs/mlflow.db": "followed by slashes",
    "sqlite://": "names no file",
    "sqlite:///": "names no file",
    "sqlite:///:memory:": "gone when the run ends",
    "sqlite://outputs/mlflow.db": "three slashes",
    "sqlite:///outputs/": "is a folder",
    "http://": "names no host",
    "http://:5000": "names no host",
    "http://host:abc": "port must be",
    f"http://anna:{SECRET}@host:99999": "port must be",
    "http://host:0": "port must be",
    "http://my host:5000": "cannot be the name of a host",
    f"http://anna:{SECRET} x@my_host?:5000": "***",
    "http://[::1:5000": "not a valid address",
    "http://host:5000/#/experiments/1": "without what follows",
    f"postgresql://anna:{SECRET}@host:port/runs": "not a valid database address",
    f"postgresql://anna:{SECRET}@host:99999/runs": "port must be",
    f"mysql+pymysql://anna:{SECRET}@host": "names no database",
}


@pytest.mark.parametrize(("uri", "why"), MALFORMED.items(), ids=lambda text: text or "empty")
def test_a_malformed_address_is_a_mistake_in_one_line_without_its_secret(uri: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_uri(mlflow_config(uri), tmp_path)
    message = str(caught.value)
    assert message.startswith("tracking.uri=")
    assert why in message
    assert "\n" not in message
    assert SECRET not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000", "https://mlflow.example.org/prefix", "http://[::1]:5000", "http://my_host",
        f"http://anna:{SECRET}@host:5000", f"postgresql+psycopg2://anna:{SECRET}@host:5432/runs",
        "postgresql:///runs", "mssql+pyodbc://host/runs?driver=x",
    ],
)  # fmt: skip
def test_an_address_of_a_server_stays_as_it_is(uri: str, tmp_path: Path) -> None:
    assert resolve_uri(mlflow_config(uri), tmp_path) == uri


def test_a_relative_database_counts_from_where_the_command_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_uri(mlflow_config(None), tmp_path) == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert resolve_uri(mlflow_config("sqlite:///my runs/a.db?timeout=5"), tmp_path) == (
        f"sqlite:///{tmp_path}/my runs/a.db?timeout=5"
    )
    assert resolve_uri(mlflow_config("sqlite:////data/../a.db"), tmp_path) == "sqlite:////a.db"


def test_the_environment_chooses_the_store_unless_the_config_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert resolve_uri(mlflow_config(None), tmp_path) == "http://from-environment:5000"
    assert resolve_uri(mlflow_config("http://from-config"), tmp_path) == "http://from-config"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    with pytest.raises(ConfigError, match=r"^MLFLOW_TRACKING_URI=nonsense"):
        resolve_uri(mlflow_config(None), tmp_path)


def test_the_hint_names_both_ways_to_open_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    elsewhere = open_hint(mlflow_config(None), tmp_path)
    assert elsewhere.startswith(
        f"open MLflow: python -m lwexp.ui tracking.uri=sqlite:///{tmp_path}/outputs/mlflow.db\n"
    )
    monkeypatch.chdir(tmp_path)
    assert open_hint(mlflow_config(None), tmp_path) == (
        "open MLflow: python -m lwexp.ui\n"
        f"         or: mlflow ui --backend-store-uri sqlite:///{tmp_path}/outputs/mlflow.db"
    )
    hint = open_hint(mlflow_config(f"postgresql+psycopg2://anna:{SECRET}@db/runs", experiment="my own"), tmp_path)
    assert SECRET not in hint
    assert "'tracking.experiment=my own'" in hint


# ------------------------------------------------------------------------------------------------------------ secrets


@given(
    user=st.text("abcxyz0._-", max_size=5),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(lambda text: f"<{text}>"),
    scheme=st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql"]),
    around=st.sampled_from(["{}", "tracking.uri={}", "failed: {} (timeout)", '["a=1", "uri={}"]']),
)
@example(user="anna", secret="p@ss:w/rd@", scheme="http", around="{}")
def test_no_password_survives_redaction(user: str, secret: str, scheme: str, around: str) -> None:
    hidden = redact_addresses(around.format(f"{scheme}://{user}:{secret}@host:5000/runs"))
    assert secret not in hidden
    assert "***@host:5000/runs" in hidden


def test_tokens_are_hidden_and_what_is_no_secret_stays() -> None:
    assert redact_addresses("https://t0ken@host/x?api_key=abc&a=1") == "https://***@host/x?api_key=***&a=1"
    for text in ("sqlite:////data/a:b@c.db", "postgresql://anna@host/runs", "http://host:5000 mail@me", "lr=0.1"):
        assert redact_addresses(text) == text


def test_a_password_is_written_to_no_store_and_no_file(begin: Begin, tmp_path: Path) -> None:
    uri = f"postgresql://anna:{SECRET}@host/runs"
    tracker = begin(
        run_name=f"tracking.uri={uri}", params={"tracking.uri": uri, "all": {"uri": uri}},
        tags={"overrides": f"tracking.uri={uri} lr=1"}, description=f"`{uri}`",
    )  # fmt: skip
    tracker.tag({"later": uri})
    tracker.finish("FAILED", f"could not reach {uri}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tracker.folder / JOURNAL in files
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in tracker.run_name
