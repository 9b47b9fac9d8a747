"""What lwexp uses of MLflow and SQLAlchemy beyond their documented interfaces; nothing else of it is used elsewhere.

Tried with MLflow 3.4.0 on SQLAlchemy 2.0 and MLflow 3.17.2 on SQLAlchemy 2.1. `tests/tracking/test_mlflow_internals.py`
has one test for each, and names what a new version changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from mlflow.entities import Run

# The tag and value that make MLflow's UI show an experiment as model training: constants of its JavaScript alone
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
# Links without this parameter open in the GenAI view, whatever the experiment's kind (MLflow 3.4 ignores it)
TRAINING_VIEW = "?workflowType=machine_learning"
# Without it the server starts a job runner and several workers as well (MLflow 3.4 has neither)
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# Python code that runs the `mlflow` command, to start it where its script is not on the path
RUN_COMMAND = "from mlflow.cli import cli; cli(prog_name='mlflow')"
# Logs every database error with a traceback, and raises it as well
DATABASE_LOGGER = "mlflow.store.db.utils"
# Limits of MLflow's validation: characters of a key, of values, of a run's name; rows and params of a call
MAX_KEY, MAX_PARAM, MAX_TAG, MAX_NAME, MAX_ROWS = 250, 6000, 8000, 250, 1000

_AUTOFLUSH = re.compile(r"^\(raised as a result of [^)]*\)\s*")  # SQLAlchemy's prefix to the database's message
_CAUSE = re.compile(r"Caused by \w+\((.*)\)")  # urllib3's reason in the message of MLflow's HTTP client
_HINTS = (  # by what the message of MLflow's HTTP client has
    (
        re.compile(r"error code 40[13]|UNAUTHENTICATED|PERMISSION_DENIED"),
        " (access: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN)",
    ),
    (re.compile(r"error responses"), " (the server's own log says why)"),
    (re.compile(r"error code 404"), " (what answers there may not be an MLflow server)"),
)


def last_steps(run: Run) -> dict[str, int]:
    """The last step of each metric of `run`, which only its protobuf message has."""
    return {metric.key: metric.step for metric in run.data.to_proto().metrics}


def reason_of(message: str) -> str:
    """The part of an error's message that names the reason, on one line, with a hint where there is one.

    >>> reason_of("(raised as a result of Query-invoked autoflush) no such table: metrics\\n[SQL: SELECT 1]")
    'no such table: metrics'
    """
    text = _AUTOFLUSH.sub("", message).strip()
    caused = _CAUSE.search(text)
    text = " ".join((caused[1].strip("'\")") if caused else text.partition("\n")[0]).split())
    return text + next((hint for pattern, hint in _HINTS if pattern.search(text)), "")


def database_path(written: str) -> str:
    """The file that the path `written` in an SQLite address names: SQLAlchemy decodes %xx in it from 2.1 on."""
    return unquote(written) if "%" in written and _decodes_paths() else written


def path_in_address(path: str) -> str | None:
    """`path` as written in an SQLite address; None where it cannot be, for SQLAlchemy 2.0 and a question mark.

    From the first part on that needs %xx, slashes are written so as well: MLflow makes the folders of a path without
    decoding it.
    """
    odd = min((path.index(mark) for mark in "%?" if mark in path), default=None)
    if odd is None:
        return path
    if not _decodes_paths():
        return None if "?" in path else path
    folder, slash, rest = path[:odd].rpartition("/")
    return folder + slash + quote(rest + path[odd:], safe=" +:&=;@,!$'()*~")


def _decodes_paths() -> bool:
    from sqlalchemy.engine import make_url

    return make_url("sqlite:///%25").database == "%"


def missing_dialect(error: Exception) -> str:
    """The dialect and driver that SQLAlchemy's `NoSuchModuleError` is about: `Can't load plugin: group:name`."""
    return str(error).rpartition(":")[2]
