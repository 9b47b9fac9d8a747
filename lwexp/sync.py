"""`python -m lwexp.sync`: deliver to MLflow what earlier runs could not: store down, process killed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwexp.redaction import redact_addresses

from .config.command_options import Parser, tracking_config
from .config.schema import MLflowConfig
from .errors import ConfigError, LwexpError, RunError, nearest
from .host.lock import Lock
from .tracking.address import resolve_uri, uri_source
from .tracking.contact import check_store
from .tracking.delivery import DELIVERY_LOCK, RUN_LOCK, Delivery
from .tracking.delivery_state import read_place
from .tracking.journal import FILE, Reader

_OPTIONS = ["tracking.uri", "tracking.timeout", "tracking.flush_timeout"]
_LOOK_SECONDS = 2.0
_LOCK_SECONDS = 0.3  # a delivery that looks whether the run goes on holds the lock for a moment


@dataclass
class Left:
    """A run whose journal may hold what its store does not have; `record` is what the journal says of the run."""

    folder: Path
    record: dict[str, Any]
    rows: int
    length: int  # of the journal, in bytes
    damaged: int

    @property
    def delivered(self) -> bool:
        """Whether the store has everything."""
        place = read_place(self.folder)
        return place.status is not None and place.position >= self.length


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 when all is delivered, 1 when something is not, 2 for a mistake."""
    try:
        folders, config = _parse(sys.argv[1:] if arguments is None else arguments)
        return _sync(folders, config)
    except LwexpError as error:
        return _tell(error)
    except KeyboardInterrupt:
        return 130


def _sync(folders: Sequence[Path], config: MLflowConfig) -> int:
    named, code = bool(folders), 0
    runs: list[Left] = []
    for path in [path for folder in folders or [Path("outputs")] for path in _journals(folder, named)]:
        try:
            runs += _read(path)
        except (LwexpError, OSError) as error:
            code = _tell(RunError(f"{os.path.relpath(path)}: {error}"))
    if named and not runs and not code:
        raise ConfigError("folder", ", ".join(map(str, folders)), "holds no run's journal")
    left = [run for run in runs if not run.delivered and (config.uri is not None or run.record["where"] != "none")]
    if not left and not code:
        print(f"nothing is left to deliver ({len(runs)} runs looked at)" if runs else "there are no runs in outputs/")
    reachable: dict[str, str | None] = {}  # address -> why it cannot be used
    # the parents of sweeps first: their jobs need their ids
    for run in sorted(left, key=lambda run: len(run.folder.parts)):
        try:
            code = max(code, _deliver(run, config, reachable))
        except LwexpError as error:
            code = max(code, _tell(error))
    return code


def _tell(error: LwexpError) -> int:
    """One line on standard error; returns the exit code."""
    print(f"lwexp-sync: {redact_addresses(str(error))}", file=sys.stderr)
    return error.exit_code


def _journals(folder: Path, named: bool) -> list[Path]:
    """The journals in `folder` and below."""
    if not folder.is_dir():
        if named:
            siblings = [str(path) for path in folder.parent.glob("*/")] if folder.parent.is_dir() else []
            raise ConfigError("folder", folder, f"there is no such folder; {nearest(str(folder), siblings)}")
        return []
    return sorted(folder.rglob(FILE))


def _read(path: Path) -> list[Left]:
    """The run in a journal, or none where its process died before it had begun. Raises `RunError`."""
    reader, record, rows = Reader(path), None, 0
    for entry in reader.entries():
        if entry.kind == "run":
            record = entry.value
        elif entry.kind == "resumed" and record is not None:
            record["where"] = entry.value.get("where", record["where"])
        elif entry.kind == "rows":
            rows += len(entry.value.keys)
    if record is None and rows:
        raise RunError(f"the record that names the run is damaged; {rows} metric rows are in the journal")
    return [Left(path.parent, record, rows, reader.position, reader.damaged)] if record is not None else []


def _deliver(run: Left, config: MLflowConfig, reachable: dict[str, str | None]) -> int:
    """Deliver one run and print one line about it; returns 0, or 1 if something is left."""
    name = f"{run.record['run_name']} ({os.path.relpath(run.folder)})"
    with Lock(run.folder / RUN_LOCK) as lock:
        running = not lock.acquire(_LOCK_SECONDS)
    if running:
        print(f"{name}: still running, {read_place(run.folder).rows} of {run.rows} metric rows delivered so far")
        return 0
    uri = _uri(run, config)
    if uri not in reachable:
        reachable[uri] = None
        try:
            check_store(config.model_copy(update={"uri": uri}))
        except RunError as error:
            reachable[uri] = str(error)
    failed = reachable[uri]
    while failed is None:
        delivery = Delivery(run.folder, uri, patience=config.flush_timeout)
        # an interrupt ends the command at once
        worker = threading.Thread(target=_work, args=(delivery,), daemon=True)
        worker.start()
        while worker.is_alive():
            worker.join(_LOOK_SECONDS)
            if worker.is_alive() and sys.stderr.isatty():
                print(f"{name}: {delivery.place.rows} of {run.rows} metric rows", end="\r", file=sys.stderr)
        if delivery.taken_over:
            _wait_for_the_other(run.folder)
        elif read_place(run.folder).status is None:
            failed = delivery.place.problem or "its delivery ended without a word"
        if not delivery.taken_over or run.delivered:
            break
    place = read_place(run.folder)
    if failed is not None:
        print(f"lwexp-sync: {name}: {run.rows - place.rows} metric rows are left: {failed}", file=sys.stderr)
        return 1
    damage = f", {run.damaged} damaged bytes of its journal were passed over" if run.damaged else ""
    print(f"{name}: {place.rows} metric rows delivered to {redact_addresses(uri)}, {place.status}{damage}")
    return 0


def _wait_for_the_other(folder: Path) -> None:
    """Return when the process that has taken the delivery over has ended it."""
    time.sleep(_LOCK_SECONDS)  # until it has the lock
    with Lock(folder / DELIVERY_LOCK) as lock:
        while not lock.acquire(_LOOK_SECONDS):
            pass


def _work(delivery: Delivery) -> None:
    try:
        delivery.run()
    except Exception as error:  # told by the caller, which reads the place
        delivery.fail(error)


def _uri(run: Left, config: MLflowConfig) -> str:
    """The address to deliver to: as given, else the run's own, with its password from where a run would take it."""
    where = str(run.record["where"])
    given = resolve_uri(config, Path.cwd() if config.uri is not None else Path(run.record["base"]))
    if config.uri is not None or redact_addresses(given) == where:
        return given
    if "***" in where:
        why = f"its password is not kept in the run's folder; give tracking.uri=… or {uri_source(config)[0]} with it"
        raise ConfigError("tracking.uri", where, why)
    return where


def _parse(arguments: Sequence[str]) -> tuple[list[Path], MLflowConfig]:
    parser = Parser(
        prog="lwexp-sync", allow_abbrev=False,
        description="Deliver to MLflow what earlier runs could not.",
        epilog=f"Options as of lwexp.run, written the same: {', '.join(f'{name}=…' for name in _OPTIONS)}.",
    )  # fmt: skip
    parser.add_argument("folders", nargs="*", metavar="folder or tracking.key=value", help="runs (default: outputs/)")
    found = parser.parse_args(arguments).folders
    options = [text for text in found if "=" in text and not Path(text).is_dir()]
    return [Path(text) for text in found if text not in options], tracking_config(options, _OPTIONS)


if __name__ == "__main__":
    sys.exit(main())
