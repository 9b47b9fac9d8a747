"""Secrets are hidden where addresses have them, and words that happen to be a password stay where they stand."""

from __future__ import annotations

import pytest

from lwexp.redaction import redact, redact_addresses, redact_answer, redact_values

SECRET = "S3CR3T-x"

ADDRESSES = {
    "at_in_the_user": f"mssql+pyodbc://anna@server:{SECRET}@host.de/runs",
    "at_in_user_and_password": f"postgresql+psycopg2://anna@corp.de:p@ss:{SECRET}/w@db.corp:5432/runs",
    "at_in_the_user_of_a_server": f"https://anna@corp.de:{SECRET}@mlflow.corp.de:5000/prefix",
    "blank": f"postgresql://anna:my {SECRET} word@host:5432/db",
    "blank_and_no_path": f"postgresql://anna:my {SECRET}@host",
    "blank_in_quotes": f"'postgresql://anna:a b {SECRET}@[::1]:5000/x'",
    "odbc": f"mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC+18%7D%3BUID%3Danna%3BPWD%3D{SECRET}%3BDATABASE%3Druns",
    "odbc_first": f"mssql+pyodbc:///?odbc_connect=PWD%3D{SECRET}%3BUID%3Danna&x=1",
    "odbc_plain": f"mssql+pyodbc:///?odbc_connect=DRIVER={{x}};UID=anna;PWD={SECRET};DATABASE=r",
    "odbc_encoded_twice": f"mssql+pyodbc:///?odbc_connect=UID%253Da%253BPWD%253D{SECRET}%253BX%253D1",
    "odbc_braces": f"mssql+pyodbc:///?odbc_connect=UID=a;Pwd={{a;{SECRET};x}};Y=1",
    "odbc_braces_encoded": f"mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3D%7Bx%3B{SECRET}%7D%3BY%3D1",
    "odbc_blank": f"mssql+pyodbc:///?odbc_connect=UID%3Da%3BPassword+%3D+my+{SECRET}",
    "odbc_token": f"mssql+pyodbc:///?odbc_connect=UID=a;Access Token={SECRET};b=1",
}
PLAIN = [
    "sqlite:////data/a:b@c.db", "postgresql://anna@host/runs", "http://host:5000 mail@me", "lr=0.1", "/home/mlflow/x",
    "PWD=/home/anna", "http://anna:***@host: refused, mail bob@x.de", "optimizer.key=3", "http://a:5000, mail bob@x",
    "lr_overrides={fc: 0.01}", "a=1;key=2",
]  # fmt: skip


@pytest.mark.parametrize("around", ["{}", "tracking.uri={}", "failed: {} (timeout)", '["a=1", "uri={}"]'])
@pytest.mark.parametrize("kind", ADDRESSES)
def test_a_secret_in_its_place_is_hidden(kind: str, around: str) -> None:
    text = around.format(ADDRESSES[kind])
    for hidden in (redact(text), redact_addresses(text), str(redact_values({"a": [text]}))):
        assert SECRET not in hidden
        assert "***" in hidden


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("word", ["mlflow", "digits", "resnet18", "password", "20240101", "root"])
def test_an_ordinary_word_as_password_is_cut_out_of_nothing(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", word)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", word)
    text = f"/home/{word}/outputs/{word}.db model={word} and {word}"
    assert redact(text) == text
    assert redact_values({word: [text]}) == {word: [text]}
    assert redact_answer(text, word) == text
    assert redact(f"http://anna:{word}@{word}.de/{word}") == f"http://anna:***@{word}.de/{word}"


def test_what_a_server_repeats_of_a_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    assert redact_answer(f"no access for {SECRET}, nor with a-b-c1 x", "a-b-c1") == "no access for ***, nor with *** x"
    assert redact_answer(f"the folder {SECRET}s stays") == f"the folder {SECRET}s stays"
