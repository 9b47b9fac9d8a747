"""Passwords and tokens stay out of everything that is printed or written.

What in an address is a secret, and its removal from texts, nested values, log lines, tracebacks and the output of
`--cfg`. `config/hydra_files.py` does the same for the files that Hydra writes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
# Values that may stand in any text by chance: a word, a number, a word with a number (mlflow, resnet18)
_ORDINARY = re.compile(r"[^\W\d]*[\W_]?\d*", re.ASCII)
_SHORTEST = 6
_ADDRESS = re.compile(r"://|[?&;=][\w.-]+=|%3[BD]", re.IGNORECASE)  # without these there is nothing to redact
_ESCAPED = re.compile(r"\\([:=?&@/])")
_SHOWING = ("--cfg", "-c", "--info", "-i")  # flags of Hydra's that print the config
# `user:password@`; the greedy `@` also hides a password that itself has one, as long as no blank is in it
_PASSWORD = re.compile(r"(?P<before>://[^\s:/@]*:)[^\s]*@")
_PORT = r"(?!\d+(?:[/?#\s,;'\")\]]|$))"  # what follows a host's colon
_USER_WITH_AT = re.compile(rf"(?P<before>://[^\s:/]*@[^\s:/]*:){_PORT}[^\s]*@")
# A password with blanks: up to the last `@` with a host behind it, within quotes and the line
_HOST = r"(?:\[[\da-f:.%]+\]|[\w.-]+)(?::\d+)?(?:[/?\s,;)'\"\]]|$)"
_BLANKS = re.compile(rf"(?P<before>://[^\s:/]*:){_PORT}(?!\*\*\*@|\s)[^\n'\"]*@(?={_HOST})", re.IGNORECASE)
# a lone word before the host of a web address is a token, before that of a database a user's name
_TOKEN = re.compile(r"(?P<before>\bhttps?://)[^\s:/@]+@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<before>[?&][\w.-]*(?:passw(?:or)?d|pwd|token|secret|key)=)[^&\s]+", re.IGNORECASE)
# The pairs of an ODBC connection string, plain or encoded as part of an address: `odbc_connect=…%3BPWD%3D…`
_EQUALS, _END = r"(?:=|%(?:25)*3D)", r";|%(?:25)*3B"
_GAP = r"(?:\s|\+|%(?:25)*20)"
_ODBC_NAME = rf"(?:\w+{_GAP})?(?:passw(?:or)?d|pwd|token|secret){_GAP}*"
_ODBC_VALUE = rf"(?:\{{.*?\}}|%(?:25)*7B.*?%(?:25)*7D|(?!\*\*\*).)+?(?={_END}|[&\n\"']|$)"
_ODBC = re.compile(rf"(?P<before>(?:{_EQUALS}|{_END}|[&?\"']){_GAP}*{_ODBC_NAME}{_EQUALS}){_ODBC_VALUE}", re.IGNORECASE)


def redact(text: str) -> str:
    r"""`text` without the secrets that stand where addresses and connection strings have them.

    >>> redact("no route to http://anna:s3cret@host:5000")
    'no route to http://anna:***@host:5000'
    >>> redact(r"tracking.uri=http\://t0ken@host\:5000")
    'tracking.uri=http://***@host:5000'
    """
    bare = _ESCAPED.sub(r"\1", text)  # Hydra writes the options of a sweep's jobs so
    if not _ADDRESS.search(bare):
        return text
    return redact_addresses(text) if text == bare or redact_addresses(bare) == bare else redact_addresses(bare)


def redact_answer(text: str, *secrets: str) -> str:
    """`redact` for what a server or a library says, which may repeat `secrets` and MLflow's own anywhere.

    A secret that is an ordinary word is not looked for: where it stands by chance nothing would be left.
    """
    for secret in {*secrets, *(os.environ.get(variable, "") for variable in _VARIABLES)}:
        if len(secret) >= _SHORTEST and not _ORDINARY.fullmatch(secret):
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return redact(text)


def redact_addresses(text: str) -> str:
    """`text` with the password and token parts of every address in it replaced by `***`.

    >>> redact_addresses("postgresql://anna:s3cret@db:5432/runs"), redact_addresses("https://t0ken@host/x?api_key=abc&a=1")
    ('postgresql://anna:***@db:5432/runs', 'https://***@host/x?api_key=***&a=1')
    >>> redact_addresses("sqlite:///outputs/mlflow.db")
    'sqlite:///outputs/mlflow.db'
    >>> redact_addresses("mssql://anna@server:pass word@host/runs")
    'mssql://anna@server:***@host/runs'
    >>> redact_addresses("mssql+pyodbc:///?odbc_connect=UID%3Danna%3BPWD%3Ds3cret")
    'mssql+pyodbc:///?odbc_connect=UID%3Danna%3BPWD%3D***'
    """
    for pattern in (_USER_WITH_AT, _PASSWORD, _BLANKS):
        text = pattern.sub(r"\g<before>***@", text)
    text = _TOKEN.sub(r"\g<before>***@", text)
    text = _QUERY.sub(r"\g<before>***", text)
    return _ODBC.sub(r"\g<before>***", text)


def redact_values(values: Any, redact: Callable[[str], str] = redact) -> Any:
    """Nested mappings and lists with `redact` applied to every text; an interpolation around a secret is all secret."""
    if isinstance(values, Mapping):
        return {key: redact_values(value, redact) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [redact_values(value, redact) for value in values]
    if not isinstance(values, str):
        return values
    text = redact(values)
    return "***" if text != values and "${" in text else text


class RedactingFormatter(logging.Formatter):
    """A formatter whose lines, tracebacks included, have no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of `logging.Formatter` without its secrets."""
        return redact(super().format(record))


@contextlib.contextmanager
def redacted_output() -> Iterator[None]:
    """Around a command: no secrets in uncaught errors and in what `--cfg` prints; no traceback for a full disk."""
    logging.raiseExceptions = False  # a handler that cannot write would print a traceback for every line
    sys.excepthook = _excepthook
    with contextlib.ExitStack() as stack:
        if any(argument.partition("=")[0] in _SHOWING for argument in sys.argv[1:]):
            stack.enter_context(contextlib.redirect_stdout(_RedactingStream(sys.stdout)))
        yield


class _RedactingStream(io.TextIOBase):
    """Writes whole lines to another stream, without their secrets."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        self._stream.writelines(f"{redact(line)}\n" for line in lines)
        return len(text)

    def flush(self) -> None:
        self._stream.write(redact(self._line))
        self._line = ""
        self._stream.flush()


def _excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(redact_answer("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)
