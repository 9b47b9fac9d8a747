"""The record of a run: a journal in the run's folder, and its delivery to MLflow by a separate process.

Nothing in the training process waits for the store: `run.start` returns a `Tracker` that appends to the journal
(`journal`), and the delivery process (`delivery_process`, started by `delivery_client`) reads it and sends batches to
MLflow (`delivery`). This is the only package that imports mlflow; of lwexp it imports errors, formatting, redaction,
host and config. Begin with `run.py`, then read `tracker.py` (the training's side) and `delivery.py` (the store's side).
"""

from .address import absolute as absolute_uri
from .address import resolve_uri
from .base import NoTracker, Status, Tracker
from .contact import check_store
from .copies import original_of
from .inputs import DatasetRecord
from .journal import has_journal as has_run
from .journal import logged_params, run_status
from .keys import safe_key, safe_keys
from .run import amend, deliver_rest, open_hint, prepare, start, started_in
from .tracker import JournalTracker
from .trust import check_folders_address, why_untrusted

__all__ = [
    "DatasetRecord", "JournalTracker", "NoTracker", "Status", "Tracker", "absolute_uri", "amend",
    "check_folders_address", "check_store", "deliver_rest", "has_run", "logged_params", "open_hint",
    "original_of", "prepare", "resolve_uri", "run_status", "safe_key", "safe_keys", "start", "started_in",
    "why_untrusted",
]  # fmt: skip
