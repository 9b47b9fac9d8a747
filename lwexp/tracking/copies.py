"""Copies of a run's folder: two folders must not write to one MLflow run.

A journal says in which folder its run started or was last resumed. Where that folder still holds the same run, this one
is a copy. A folder that was moved or renamed left nothing behind, and remains the run.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path
from typing import Any

from lwexp.errors import RunError
from lwexp.host.lock import Lock

from .delivery import DELIVERY_LOCK, DELIVERY_OWNER, RUN_LOCK
from .delivery_state import FILE as STATE
from .delivery_state import read_state
from .journal import FILE, Reader, has_journal, rewrite_run, run_record
from .mirror import recorded_mirrors, state_file
from .tensorboard_writer import FOLDER as TENSORBOARD

log = logging.getLogger(__name__)

LOCK_SECONDS = 10.0  # for a delivery that is under way to leave the folder


def original_of(folder: Path) -> Path | None:
    """The folder of which `folder` is a copy; None if there is no run, or if it has been here or was moved here."""
    record = run_record(folder)
    if record is None:
        return None
    last = record.get("folder", record["tags"].get("lwexp.folder"))  # the tag: of earlier versions of lwexp
    for entry in Reader(folder / FILE).entries():
        if entry.kind == "resumed":
            last = entry.value.get("folder", last)
    try:
        if last is None or Path(last).samefile(folder):
            return None
    except OSError:  # it is gone
        return None
    other = run_record(Path(last))
    return Path(last) if other is not None and other["id"] == record["id"] else None


def separate(folder: Path, original: Path) -> str:
    """Make the run in `folder`, a copy of that in `original`, a new one, to be delivered from its first entry on.

    Returns MLflow's id of the original, or its folder where it has none. Raises `RunError`, and changes nothing, where
    another process uses the folder or the disk is full.
    """

    def change(record: dict[str, Any]) -> dict[str, Any]:
        parent = record["parent"] if record["parent"] and has_journal(folder / record["parent"]) else None
        mlflows_own = {"run_id": None} if record.get("run_id") else {}  # MLFLOW_RUN_ID was for the original
        return {**record, "id": uuid.uuid4().hex, "parent": parent, **mlflows_own}

    with Lock(folder / RUN_LOCK) as run, Lock(folder / DELIVERY_LOCK) as delivery:
        if not (run.acquire(LOCK_SECONDS) and delivery.acquire(LOCK_SECONDS)):
            raise RunError(f"another process is running in {folder}")
        before = read_state(folder)
        try:
            # first: killed after this, the run is still a copy
            for name in (STATE, DELIVERY_OWNER, *map(state_file, recorded_mirrors(folder))):
                (folder / name).unlink(missing_ok=True)
            written = folder / TENSORBOARD  # it gets everything again
            if written.is_dir() and not written.is_symlink():
                shutil.rmtree(written)
            rewrite_run(folder, change)
        except OSError as error:
            raise RunError(f"{folder / FILE} cannot be written: {error.strerror or error}") from error
    log.warning(
        "%s is a copy of %s, which is still there: it resumes as a new MLflow run with everything recorded so far; "
        "to continue that of the original instead, resume the original, or remove it and resume here",
        folder, original,
    )  # fmt: skip
    return before.run_id or str(original)
