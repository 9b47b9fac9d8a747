"""Secrets reach nothing that is printed or written, odd names break nothing, files execute nothing, nobody listens."""

from __future__ import annotations

import csv
import html
import io
import json
import logging
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as searched
from hypothesis import strategies as st
from torch import nn

from lwexp import make_plan, redaction
from lwexp.errors import ConfigError
from lwexp.models.weights import load_checkpoint
from lwexp.plots.html import render_html
from lwexp.plots.rate_table import RateTable
from lwexp.plots.rates import write_plots
from lwexp.tracking import safe_keys
from tests.helpers.commands import Outcome

RunHere = Callable[..., Outcome]
SECRET = "S3cretPw"
SMALL = ["model=lstm", "model.hidden_size=8", "data.image_size=8", "batch_size=256", "max_steps=2", "progress=false"]


# ------------------------------------------------------------------------------------------------------------- secrets


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server, `host:port`, that answers every question with 403 and repeats who asked what."""

    class Refusing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps({"error_code": "PERMISSION_DENIED", "message": f"no {SECRET} at http://a:{SECRET}@host/"})
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def assert_hidden(outcome: Outcome, folder: Path) -> None:
    """The secret is neither in what was printed nor in any file, its name, or a link."""
    assert SECRET not in outcome.out
    assert SECRET not in outcome.err
    for path in folder.rglob("*"):
        assert SECRET not in str(path)
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


ADDRESSES = {
    "database": f"postgresql+psycopg2://anna:{SECRET}@127.0.0.1:1/runs",
    "no_driver": f"mssql+nodriver://anna:{SECRET}@127.0.0.1:1/runs",
    "server": f"http://anna:{SECRET}@127.0.0.1:1",
    "token": f"http://{SECRET}@127.0.0.1:1",
    "at_in_the_password": f"http://anna:p@{SECRET}/x@127.0.0.1:1",
    "malformed": f"http://anna:{SECRET}@127.0.0.1:x",
    "unknown_kind": f"mongodb://anna:{SECRET}@127.0.0.1/runs",
    "query": f"postgresql://127.0.0.1:1/runs?user=anna&password={SECRET}",
}
COMMANDS = {
    "run": ["run"],
    "sweep": ["run", "-m", "seed=0,1"],
    "preview": ["preview"],
    "failing": ["run", "loss.name=MSE"],
    "failing_sweep": ["run", "-m", "lr=0.1,-1"],
    "mistyped": ["run", "mutl=1"],
    "config": ["run", "--cfg", "all"],
    "information": ["run", "--info", "all"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("address", ["database", "server"])
def test_a_typed_password_reaches_no_output(
    command: str, address: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    name, *options = COMMANDS[command]
    limits = ["tracking.timeout=1", "tracking.flush_timeout=0"]
    outcome = lwexp_here(name, *options, *SMALL, f"tracking.uri={ADDRESSES[address]}", *limits)
    assert_hidden(outcome, tmp_path)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_the_environment_reaches_no_output(
    address: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESSES[address])
    for command in ("preview", "run"):
        limits = ["tracking.timeout=1", "tracking.flush_timeout=0"]
        assert_hidden(lwexp_here(command, *SMALL, *limits), tmp_path)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
def test_mlflows_own_secrets_reach_no_output_though_the_server_repeats_them(
    variable: str, refusing: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv(variable, SECRET)
    limits = ["tracking.timeout=2", "tracking.flush_timeout=0"]
    outcome = lwexp_here("run", *SMALL, f"tracking.uri=http://{refusing}", *limits)
    assert outcome.out + outcome.err
    assert_hidden(outcome, tmp_path)


def test_hydras_files_are_there_with_the_address_hidden(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    typed = f"tracking.uri={ADDRESSES['database']}"
    assert lwexp_here("preview", *SMALL, typed).code == 0
    (folder,) = (tmp_path / "outputs" / "previews").iterdir()
    for name in ("config", "hydra", "overrides"):
        assert "postgresql+psycopg2://anna:***@127.0.0.1:1/runs" in (folder / ".hydra" / f"{name}.yaml").read_text()
    assert_hidden(Outcome(0, "", ""), tmp_path)


@pytest.mark.parametrize(("address", "shown"), [
    ("database", "postgresql+psycopg2://anna:***@127.0.0.1:1/runs"),
    ("token", "http://***@127.0.0.1:1"),
])  # fmt: skip
@pytest.mark.parametrize("jobs", ["seed=0,1", "loss.name=NLLLoss,MSE"], ids=["complete", "failing"])
def test_a_sweeps_own_file_and_lines_have_the_address_hidden(
    jobs: str, address: str, shown: str, lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    outcome = lwexp_here("preview", "-m", *SMALL, jobs, f"tracking.uri={ADDRESSES[address]}")
    assert "#1 : " in outcome.out
    assert f"tracking.uri={shown}\n" in outcome.out
    (folder,) = (tmp_path / "outputs" / "previews").iterdir()
    assert shown in (folder / "multirun.yaml").read_text(encoding="utf-8")
    assert (folder / "1" / ".hydra" / "overrides.yaml").is_file()
    if "MSE" in jobs:
        assert outcome.code == 2
        assert "error: loss.name=MSE" in outcome.err
    else:
        assert outcome.code == 0, outcome.err
    assert_hidden(outcome, tmp_path)


def test_no_file_of_a_sweep_that_trains_has_the_address(
    lwexp_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lwexp.plots.process.write_plots", lambda *_, **__: [])
    options = [*SMALL, "max_steps=1", "mult=0.9,-1", "sweep.isolate=false", "hydra.sweep.dir=mine"]
    limits = ["tracking.timeout=1", "tracking.flush_timeout=0"]
    outcome = lwexp_here("run", "-m", *options, *limits, f"tracking.uri={ADDRESSES['token']}")
    assert "3 jobs: 2 finished, 1 failed" in outcome.out
    assert "http://***@127.0.0.1:1" in (tmp_path / "mine" / "multirun.yaml").read_text(encoding="utf-8")
    assert_hidden(outcome, tmp_path)


def test_an_unexpected_error_is_shown_without_the_secrets_in_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    with redaction.redacted_output():
        pass
    try:
        raise ValueError(f"no route to {ADDRESSES['server']}")
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "ValueError: no route to http://anna:***@127.0.0.1:1" in shown
    assert SECRET not in shown


def test_log_lines_and_logged_tracebacks_have_no_secrets() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(redaction.RedactingFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("apart")
    logger.addHandler(handler)
    try:
        raise OSError(ADDRESSES["token"])
    except OSError:
        logger.exception("at %s", ADDRESSES["server"])
    assert "ERROR at http://anna:***@127.0.0.1:1" in stream.getvalue()
    assert "OSError: http://***@127.0.0.1:1" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_a_disk_that_is_full_does_not_make_the_log_print_tracebacks(
    lwexp_here: RunHere, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    lwexp_here("run", "lr=0")

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    handler = logging.StreamHandler(Full())
    handler.handle(logging.LogRecord("x", logging.INFO, "f", 1, "a line", None, None))
    assert capfd.readouterr().err == ""


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4).map(lambda text: f"<{text}>"))
@example("<a'b\"c: #d>")
@example("<${oc.env:HOME}>")
def test_nested_values_are_hidden_wherever_they_stand(secret: str) -> None:
    address = f"http://anna:{secret}@host:5000/x"
    found = redaction.redact_values({"a": [address, {"b": f"see {address}"}], "c": 1, "d": None})
    assert secret not in str(found)
    assert found["c"] == 1
    assert found["d"] is None


# --------------------------------------------------------------------------------------------------------------- names

HOSTILE = [
    "</script><img src=x onerror=alert(1)>", "\"'><b>", "&lt;i&gt;", "../../etc/passwd", "a/b", "a\\b", "=1+1", "+1",
    "-1", "@sum(A1)", "$x^2$", r"$\frac{", "`rm`", "|a|b|", "# x", "[x](javascript:alert(1))", "x" * 300, "\u202eabc",
    "\u2028", "ä ö", "  ", "%s %d {0}", "\x00\x1b[31m", "NUL", "a\nb", "\r", "\t=1", "a,b;c", "😀", "..", ".",
]  # fmt: skip
names = st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=40)


class Named(nn.Module):
    """Linear layers under names that torch takes: anything without a dot."""

    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        for label in labels:
            self.add_module(label, nn.Linear(1, 1))


def legal(labels: list[str]) -> list[str]:
    """What torch takes as names of modules."""
    return list(dict.fromkeys(label.replace(".", "_") for label in labels if not hasattr(nn.Module(), label)))


@given(st.lists(names, min_size=1, max_size=6).map(legal).filter(bool))
@example(legal(HOSTILE))
@example(["A", "a", "ﬁ", "fi"])
def test_odd_names_break_no_table_and_no_two_become_one(labels: list[str]) -> None:
    plan = make_plan(Named(labels), lr=0.1)
    assert len(set(plan.labels)) == len(labels)
    keys = safe_keys([f"lr/{label}" for label in plan.labels])
    assert len({key.lower() for key in keys}) == len(labels), "the index sets them apart where case does not count"
    assert all(len(key) <= 250 and ".." not in key.split("/") for key in keys)
    table = list(csv.DictReader(io.StringIO(plan.to_csv(), newline="")))
    assert len(table) == len(labels)
    for row, label in zip(table, labels[::-1], strict=True):
        assert row["name"].isprintable()
        assert row["name"] == label or not label.isprintable() or row["name"] == f"'{label}"
        assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert [group["name"] for group in json.loads(plan.to_json())["groups"]] == labels[::-1]
    assert plan.to_markdown(10**6).count("```") == 2, "a name must not end the block of code"
    assert "".join(str(plan).split("\n")).isprintable(), "nothing that a terminal obeys"
    assert str(plan).count("\n") == bool(plan.no_layerwise_rates) + len(plan.notes) + 4 + len(labels)


class _Page(HTMLParser):
    """The tags of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.data = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(key for key, _ in attrs)))
        self._inside = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def rates_of(labels: list[str]) -> RateTable:
    count = len(labels)
    rates = np.full((2, count), 0.1)
    return RateTable(labels[0], labels, list(range(count)), [False] * count, rates, np.arange(2))


@given(st.lists(names, min_size=1, max_size=5))
@example(HOSTILE)
def test_odd_names_add_no_element_to_the_page(labels: list[str]) -> None:
    page, plain = _Page(render_html(rates_of(labels))), _Page(render_html(rates_of(["a"] * len(labels))))
    assert page.tags == plain.tags
    found = json.loads(page.data)
    assert found["names"] == labels
    assert found["title"] == labels[0]


def test_the_page_sets_names_as_text_only_and_loads_nothing() -> None:
    page = render_html(rates_of(["a"]))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", page)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page)
    assert html.unescape(page).count("</script>") == page.count("</script>")


def test_odd_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    labels = [label for label in HOSTILE if label.isprintable() and label.isascii()]
    assert {path.name for path in write_plots(rates_of(labels), tmp_path)} == {
        "rates_heatmap.png", "rates_by_depth.png", "rates_by_step.png", "rates.html",
    }  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 4


@searched(max_examples=200)
@given(st.lists(names.map(lambda name: f"lr/{name}"), min_size=2, max_size=8, unique=True))
@example(["lr/a*", "lr/a?", "lr/a_"])
@example(["lr/" + "x" * 300, "lr/" + "x" * 301])
def test_metric_names_stay_apart(labels: list[str]) -> None:
    keys = safe_keys(labels)
    assert len(set(keys)) == len(labels)
    assert all(re.fullmatch(r"[\w./\- ]{1,250}", key) for key in keys)
    assert not [key for key in keys if key.startswith("/") or {"..", "."} & set(key.split("/"))]


# --------------------------------------------------------------------------------------------------------------- files


class Writes:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npz", ""])
@pytest.mark.parametrize("how", ["torch", "pickle", "pickle_protocol_5"])
def test_a_file_that_would_execute_code_is_refused_whatever_it_is_called(tmp_path: Path, suffix: str, how: str) -> None:
    path, trap = tmp_path / f"w{suffix}", {"head.weight": torch.zeros(1), "trap": Writes(tmp_path / "executed")}
    if how == "torch":
        torch.save(trap, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=5 if how.endswith("5") else 2))
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(nn.Linear(1, 1), path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
