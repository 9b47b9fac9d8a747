"""The journal of a resumed run, and on a full disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lwexp.errors import RunError
from lwexp.tracking import has_run, run_status
from lwexp.tracking.journal import Journal, Reader
from tests.helpers.journals import RUN, contents


def test_a_resumed_run_does_not_write_again_what_the_journal_has(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(5):
        journal.rows({"train/loss": 1.0, "lr/0": 0.1}, step)
    journal.rows({"val/loss": 1.0}, 2)
    journal.close()

    journal = Journal(tmp_path)
    assert journal.rows_written == 11
    for step in range(3, 7):
        journal.rows({"train/loss": 2.0, "lr/0": 0.2}, step)
        journal.rows({"val/loss": 2.0, "new": 3.0}, step)
    journal.close()
    by_key: dict[str, list[tuple[int, float]]] = {}
    for kind, value in contents(journal.path):
        assert kind == "rows"
        for key, number in value[1].items():
            by_key.setdefault(key, []).append((value[0], number))
    assert by_key["train/loss"] == [*((step, 1.0) for step in range(5)), (5, 2.0), (6, 2.0)]
    assert by_key["lr/0"] == [*((step, 0.1) for step in range(5)), (5, 0.2), (6, 0.2)]
    assert by_key["val/loss"] == [(2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    assert by_key["new"] == [(step, 3.0) for step in range(3, 7)]
    assert Journal(tmp_path).rows_written == 11 + 4 + 8


def test_the_end_of_a_run_is_that_of_its_last_part(tmp_path: Path) -> None:
    assert run_status(tmp_path) is None
    journal = Journal(tmp_path)
    journal.write("run", RUN)
    assert (journal.status, run_status(tmp_path)) == (None, None)
    journal.write("end", {"status": "KILLED"})
    assert (journal.status, run_status(tmp_path)) == ("KILLED", "KILLED")
    journal.close()
    journal = Journal(tmp_path)
    assert journal.status == "KILLED"
    journal.write("resumed", {})
    assert (journal.status, run_status(tmp_path)) == (None, None)
    journal.write("end", {"status": "FINISHED"})
    journal.close()
    assert run_status(tmp_path) == "FINISHED"


# ---------------------------------------------------------------------------------------------------------- full disk


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None, int], None]]:
    """Sets how many more bytes journals may take (None: any number), and how many one call takes at most."""
    write, unlink = os.write, Path.unlink
    room: list[int | None] = [None]
    most: list[int] = [1 << 30]

    def limited(descriptor: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, bytes(data)[: min(most[0], len(data) if room[0] is None else room[0])])
        room[0] = None if room[0] is None else room[0] - count
        return count

    def freeing(path: Path, missing_ok: bool = False) -> None:
        if room[0] is not None and path.exists():
            room[0] += path.stat().st_size
        unlink(path, missing_ok=missing_ok)

    def fill(left: int | None, at_once: int = 1 << 30) -> None:
        room[0], most[0] = left, at_once

    monkeypatch.setattr(os, "write", limited)
    monkeypatch.setattr(Path, "unlink", freeing)
    yield fill
    fill(None)


@pytest.mark.parametrize("left", [0, 1, 20, 100, 1000])
def test_a_full_disk_is_one_line_and_what_was_written_stays_whole(
    left: int, tmp_path: Path, disk: Callable[..., None]
) -> None:
    journal = Journal(tmp_path)
    journal.write("run", RUN)
    journal.rows({"a": 0.0, "b": 1.0}, 0)
    disk(left)
    step = 0

    def train() -> None:
        nonlocal step
        for step in range(1, 1000):
            journal.rows({"a": float(step), "b": 1.0}, step)

    line = r"^the metrics journal .*journal\.lwexp cannot be written: No space left"
    with pytest.raises(RunError, match=line) as caught:
        train()
    assert "\n" not in str(caught.value)
    expected = [("run", RUN), *(("rows", (s, {"a": float(s), "b": 1.0})) for s in range(step))]
    assert contents(journal.path) == expected
    assert journal.rows_written == 2 * step

    journal.write("end", {"status": "FAILED", "reason": str(caught.value)})  # there is room kept for it
    journal.close()
    assert contents(journal.path) == [*expected, ("end", {"status": "FAILED", "reason": str(caught.value)})]

    disk(None)  # space again: the run continues
    journal = Journal(tmp_path)
    journal.write("resumed", {})
    journal.rows({"a": 9.0}, 2000)
    journal.close()
    assert contents(journal.path)[-1] == ("rows", (2000, {"a": 9.0}))
    assert Reader(journal.path).damaged == 0


def test_a_disk_that_takes_a_few_bytes_at_a_time(tmp_path: Path, disk: Callable[..., None]) -> None:
    disk(None, 7)
    journal = Journal(tmp_path)
    journal.write("run", RUN)
    journal.rows({"a": 1.0}, 0)
    journal.close()
    assert contents(journal.path) == [("run", RUN), ("rows", (0, {"a": 1.0}))]


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, disk: Callable[..., None]) -> None:
    disk(5)
    with pytest.raises(RunError, match="cannot be written: No space left"):
        Journal(tmp_path)
    assert not has_run(tmp_path)
    assert run_status(tmp_path) is None
    disk(None)
    journal = Journal(tmp_path)
    journal.rows({"a": 1.0}, 0)
    journal.close()
    assert contents(journal.path) == [("rows", (0, {"a": 1.0}))]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written: No such file or directory$"):
        Journal(tmp_path / "nowhere")
