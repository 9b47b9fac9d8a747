"""`python -m lwexp.sync`: deliver what earlier runs could not: store down, process killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .config.command_options import Parser, tracking_config
from .config.schema import MLflowConfig
from .errors import ConfigError, LwexpError, RunError
from .experiment.find import NO_RUNS
from .redaction import redact_addresses
from .tracking.contact import check_store
from .tracking.journal import FILE
from .tracking.mirror import NAMES, how_to_look
from .tracking.redelivery import (
    RecordedRun,
    delivery_address,
    find_journals,
    read_run,
    redeliver,
    rest_of_mirrors,
    write_mirror,
)

_WORD_SECONDS = 8.0  # between two lines about what is waited for
_OPTIONS = ["tracking.uri", "tracking.timeout", "tracking.flush_timeout"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 if all is delivered, 1 if something is not, 2 for invalid arguments."""
    try:
        folders, config, renew = _parse(sys.argv[1:] if arguments is None else arguments)
        return _sync(folders, config, renew)
    except LwexpError as error:
        return _print_error(error)
    except KeyboardInterrupt:
        return 130


def _sync(folders: Sequence[Path], config: MLflowConfig, renew: bool) -> int:
    named, code = bool(folders), 0
    runs: list[RecordedRun] = []
    for path in [path for folder in folders or [Path("outputs")] for path in find_journals(folder, named)]:
        run, failed = _read(path)
        runs += [run] if run is not None else []
        code = failed or code
    if named and not runs and not code:
        raise ConfigError("folder", ", ".join(map(str, folders)), "holds no run's journal")
    rest = [
        run
        for run in runs
        if (renew or not run.delivered) and (config.uri is not None or run.record["where"] != "none")
    ]
    failures: dict[str, str | None] = {}  # by address: why the store cannot be used
    # the parents of sweeps first: their jobs need their ids
    for run in sorted(rest, key=lambda run: len(run.folder.parts)):
        try:
            code = max(code, _deliver(run, config, failures, renew))
        except LwexpError as error:
            code = max(code, _print_error(error))
    mirrored = False
    for folder in [run.folder for run in runs if not run.running and run.original is None]:
        run, failed = _read(folder / FILE)  # again: a delivery ends the journal of a killed run
        code = max(code, failed)
        for kind in rest_of_mirrors(run) if run is not None else []:
            assert run is not None
            mirrored, code = True, max(code, _mirror(run, kind))
    if not rest and not mirrored and not code:
        print(f"nothing is left to deliver ({len(runs)} runs checked)" if runs else NO_RUNS)
    return code


def _read(path: Path) -> tuple[RecordedRun | None, int]:
    """The run of a journal, if it has one, and 0; an exit code where it cannot be read."""
    try:
        return read_run(path), 0
    except (LwexpError, OSError) as error:
        return None, _print_error(RunError(f"{os.path.relpath(path)}: {error}"))


def _mirror(run: RecordedRun, kind: str) -> int:
    """Write the rest of one mirror and print one line about it; returns 0, or 1 if something is left."""
    name = f"{run.record['run_name']} ({os.path.relpath(run.folder)})"
    state = write_mirror(run, kind)
    if state.problem is not None:
        print(f"lwexp-sync: {name}: {NAMES[kind]}: {redact_addresses(state.problem)}", file=sys.stderr)
        return 1
    if state.position < run.length:  # its lock could not be taken
        print(f"lwexp-sync: {name}: {NAMES[kind]}: another process is writing it", file=sys.stderr)
        return 1
    print(f"{name}: {NAMES[kind]} has {state.rows} metric rows: {how_to_look(kind, state.where)}")
    return 0


def _deliver(run: RecordedRun, config: MLflowConfig, failures: dict[str, str | None], renew: bool) -> int:
    """Deliver one run and print one line about it; returns 0, or 1 if something is left."""
    name = f"{run.record['run_name']} ({os.path.relpath(run.folder)})"
    if run.running:
        print(f"{name}: still running, {run.state.rows} of {run.rows} metric rows delivered so far")
        return 0
    if run.original is not None:
        print(f"{name}: a copy of {run.original}, which delivers this run; resumed, the copy becomes a run of its own")
        return 0
    uri, trusted = delivery_address(run, config)
    if uri not in failures:
        try:
            check_store(config.model_copy(update={"uri": uri}))
            failures[uri] = None
        except RunError as error:
            failures[uri] = str(error)

    begin = last = time.monotonic()

    def show_progress(rows: int) -> None:
        nonlocal last
        line = f"{name}: {rows} of {run.rows} metric rows"
        if sys.stderr.isatty():
            print(line, end="\r", file=sys.stderr)
        elif time.monotonic() - last >= _WORD_SECONDS:
            last = time.monotonic()
            why = f": {redact_addresses(run.state.problem)}" if run.state.problem else ""
            print(f"{line}, waiting for {redact_addresses(uri)} since {last - begin:.0f} s{why}", file=sys.stderr)

    failure = failures[uri] or redeliver(run, uri, config.flush_timeout, show_progress, trusted=trusted, renew=renew)
    if failure is not None:
        rest = run.rows - run.state.rows
        print(f"lwexp-sync: {name}: {rest} metric rows are left: {failure}", file=sys.stderr)
        return 1
    damage = f", skipped {run.damaged} damaged bytes of its journal" if run.damaged else ""
    print(f"{name}: {run.state.rows} metric rows delivered to {redact_addresses(uri)}, {run.state.status}{damage}")
    for artifact, why in run.state.not_kept.items():
        print(f"lwexp-sync: {name}: the file {artifact} was not delivered: {redact_addresses(why)}", file=sys.stderr)
    return 1 if run.state.not_kept else 0


def _print_error(error: LwexpError) -> int:
    """Print one line on standard error; returns the exit code."""
    print(f"lwexp-sync: {redact_addresses(str(error))}", file=sys.stderr)
    return error.exit_code


def _parse(arguments: Sequence[str]) -> tuple[list[Path], MLflowConfig, bool]:
    parser = Parser("lwexp-sync", "Deliver to MLflow what earlier runs could not.", _OPTIONS)
    parser.add_argument("folders", nargs="*", metavar="folder or tracking.key=value", help="runs (default: outputs/)")
    why = "runs that their store has no more (it was emptied): deliver them as new ones, with everything"
    parser.add_argument("--new-run", action="store_true", help=why)
    parsed = parser.parse_args(arguments)
    found = parsed.folders
    options = [text for text in found if "=" in text and not Path(text).is_dir()]
    return [Path(text) for text in found if text not in options], tracking_config(options, _OPTIONS), parsed.new_run


if __name__ == "__main__":
    sys.exit(main())
