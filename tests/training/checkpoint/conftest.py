"""What all tests of checkpoints share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests, and waiting for the disk takes most of their time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
