"""Sending a run's files and its model: what its store does not take is noted with the reason, and blocks no rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .address import kind
from .artifacts import RefusedError, artifact_path, check_destination, files_of, is_refusal, size
from .contact import ANSWER_SECONDS, SLOWEST, error_line, within
from .delivery_state import DeliveryState
from .journal import FILE as JOURNAL
from .journal import Reader
from .models import log_model
from .store import artifact_folder, is_transient

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0  # after which artifacts wait for the end, where the store answers and only they fail
_MODEL_SECONDS = 60.0  # to write MLflow's files of a model, beside sending it


class Sender(Protocol):
    """What the delivery of a run offers: its state, and calls that are repeated until the store answers."""

    folder: Path
    state: DeliveryState

    def attempt(self, action: Callable[[MlflowClient], T], seconds: float | None = ANSWER_SECONDS) -> T:
        """The result of `action`, repeated until the store answers."""

    def bounded(self, action: Callable[[], T], seconds: float | None) -> T:
        """The result of `action`, or `TimeoutError`."""

    def save(self) -> None:
        """Save the state."""


class ArtifactDelivery:
    """Sends the artifacts of one run; `trusted` as of `Delivery`."""

    def __init__(self, sender: Sender, uri: str, *, trusted: bool) -> None:
        """Send nothing yet."""
        self._sender, self._uri, self._trusted = sender, uri, trusted
        self._failing_since: float | None = None  # while the store answers

    def send(self, entry: Mapping[str, Any], patience: float = _PATIENCE_SECONDS) -> None:
        """Send the file, folder or model of a journal's `entry`, or note in the state why it is not kept.

        `patience`: seconds for which artifacts alone may fail, while the store answers.
        """
        sender, name, why = self._sender, entry["path"], None
        try:
            path = artifact_path(sender.folder, name, entry["folder"])
            if not self._trusted:
                self._check_destination(sender.attempt(lambda client: client.get_run(self._run_id)).info.artifact_uri)
            parts = [(path, entry["folder"])] if "model" in entry else files_of(path, entry["folder"])
            for part, place in parts:
                one = {**entry, "folder": place}
                why = why or sender.attempt(partial(self._send, path=part, entry=one, patience=patience), None)
                sender.save()  # the training process sees that it goes forward
        except (OSError, ValueError, TypeError, RefusedError) as error:  # a journal from elsewhere may name anything
            why = error_line(error, self._uri)
        sender.state.not_kept = {other: reason for other, reason in sender.state.not_kept.items() if other != name}
        if why is not None:
            sender.state.not_kept[name] = why

    def retry(self) -> None:
        """Send what could not be sent so far; one attempt each, as long as failures take no minute."""
        sender = self._sender
        left, begin = dict(sender.state.not_kept), time.monotonic()
        if not left:
            return
        for entry in Reader(sender.folder / JOURNAL).entries(until=sender.state.position):
            late = time.monotonic() - begin >= _PATIENCE_SECONDS
            if entry.kind == "artifact" and left.pop(entry.value["path"], None) is not None and not late:
                self._failing_since = None
                self.send(entry.value, patience=0.0)
        sender.save()

    @property
    def _run_id(self) -> str:
        return str(self._sender.state.run_id)

    def _send(self, client: MlflowClient, path: Path, entry: Mapping[str, Any], patience: float) -> str | None:
        """None if the store has taken the artifact, else why it does not; raises what is worth another attempt."""
        since = self._failing_since
        if since is not None and time.monotonic() - since >= patience:
            return f"the artifacts' storage has failed for {patience:g} s"
        seconds = ANSWER_SECONDS + size(path) / SLOWEST
        try:
            if isinstance(model := entry.get("model"), dict):
                by_server = kind(self._uri).startswith("http")
                log = partial(log_model, client, self._run_id, path, model, self._check_destination)
                self._sender.bounded(lambda: log(by_server=by_server), seconds + _MODEL_SECONDS)
            else:
                within(seconds, lambda: client.log_artifact(self._run_id, str(path), entry["folder"]))
        except RefusedError:
            raise
        except Exception as error:
            local = isinstance(error, (ImportError, FileNotFoundError, NotADirectoryError, PermissionError))
            if not local and is_transient(error) and not is_refusal(error):
                # raises where the whole store is away
                self._sender.bounded(lambda: client.get_run(self._run_id), ANSWER_SECONDS)
                self._failing_since = since or time.monotonic()
                if time.monotonic() - self._failing_since < patience:
                    raise
            return error_line(error, self._uri)
        self._failing_since = None
        return None

    def _check_destination(self, artifact_uri: str) -> None:
        """Raise `RefusedError` where files must not go there; the caller's own store may keep them anywhere."""
        if not self._trusted:
            allowed = None if self._uri.startswith("http") else artifact_folder(self._uri)
            check_destination(artifact_uri, allowed)
