"""Locks: one holder at a time, freed by the end of its process however it ends, not kept by its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwexp.host.lock import Lock

HOLDER = """
import os, sys, time
from pathlib import Path
from typing import Any
from lwexp.host.lock import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.acquire()
if "fork" in sys.argv:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


class Holder:
    """A process that holds a lock."""

    def __init__(self, path: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    process = Holder(tmp_path / "lock")
    assert process.line() == "held"
    yield process
    process.close()


def test_two_processes_exclude_each_other(holder: Holder, tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert not lock.free
    assert not lock.acquire()
    started = time.monotonic()
    assert not lock.acquire(0.2)
    assert time.monotonic() - started >= 0.2
    holder.go_on()
    assert holder.line() == "released"
    assert lock.free
    assert lock.acquire()

    other = subprocess.run(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], input="", capture_output=True, text=True, check=False
    )
    assert "AssertionError" in other.stderr
    lock.release()
    assert lock.free


def test_a_killed_process_frees_its_lock(holder: Holder, tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert not lock.free
    holder.process.send_signal(signal.SIGKILL)
    assert lock.acquire(20)
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_that_lives_on_does_not_keep_it(tmp_path: Path) -> None:
    process = Holder(tmp_path / "lock", "fork")
    try:
        child = int(process.line())
        assert process.line() == "held"
        assert not Lock(tmp_path / "lock").free
        process.process.kill()
        lock = Lock(tmp_path / "lock")
        assert lock.acquire(20)
        os.kill(child, 0)  # raises if it is gone
        lock.release()
    finally:
        os.kill(child, signal.SIGKILL)
        process.close()


def test_two_holders_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with Lock(tmp_path / "lock") as first:
        assert first.acquire()
        for path in (tmp_path / "lock", tmp_path / "link" / "lock"):
            assert not Lock(path).free
            assert not Lock(path).acquire()
        process = Holder(tmp_path / "lock")  # looking has not freed it
        assert process.line() == ""
        process.close()
    assert Lock(tmp_path / "lock").free


def test_threads_of_one_process_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, opened, together = [], os.open, threading.Barrier(4)

    def slow(*arguments: Any, **options: Any) -> int:
        descriptor = opened(*arguments, **options)
        time.sleep(0.05)
        return descriptor

    def work() -> None:
        together.wait()
        taken.append(Lock(tmp_path / "lock").acquire())

    monkeypatch.setattr(os, "open", slow)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False, False, False, True]


def test_a_file_that_cannot_be_made_is_the_callers_to_explain(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Lock(tmp_path / "nowhere" / "lock").acquire()
    assert Lock(tmp_path / "nowhere" / "lock").free
