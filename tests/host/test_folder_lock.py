"""The one owner of a folder: told at once who it is, and forgotten however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lwexp.errors import ConfigError
from lwexp.host import lock
from lwexp.host.lock import FOLDER_LOCK, OWNER, FolderLock, Lock
from tests.helpers.processes import owning


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns `tmp_path / "run"`."""
    with owning(tmp_path / "run") as process:
        yield process


def acquired(folder: Path) -> bool:
    try:
        FolderLock(folder).acquire("resume", "auto").release()
    except ConfigError:
        return False
    return True


def test_a_second_process_is_told_who_owns_the_folder(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        FolderLock(tmp_path / "run").acquire("resume", "auto")
    assert str(refused.value).startswith(
        f"resume=auto: {tmp_path}/run is in use by process {owner.pid} on {os.uname().nodename} since 20"
    )
    assert str(refused.value).endswith("; wait for it or stop it, or use another folder")
    (tmp_path / "link").symlink_to("run")
    assert not acquired(tmp_path / "link")


def test_the_end_of_the_owner_frees_the_folder_and_leaves_nothing(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    owner.communicate("\n")
    assert list((tmp_path / "run").iterdir()) == []
    assert acquired(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_owner_blocks_nobody(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert (tmp_path / "run" / OWNER).exists()
    assert acquired(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_stopped_owner_is_still_the_owner(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    owner.send_signal(signal.SIGSTOP)
    assert not acquired(tmp_path / "run")


def test_a_thread_may_take_its_folder_again_and_another_one_may_not(tmp_path: Path) -> None:
    outer = FolderLock(tmp_path).acquire("resume", "auto")
    with FolderLock(tmp_path).acquire("resume", "auto"):
        pass
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(acquired(tmp_path)))
    thread.start()
    thread.join()
    assert found == [False]
    outer.release()
    outer.release()
    assert not (tmp_path / OWNER).exists()
    assert acquired(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_neither_owns_the_folder_nor_frees_it(tmp_path: Path) -> None:
    with FolderLock(tmp_path).acquire("resume", "auto") as ours:
        child = os.fork()
        if child == 0:
            ours.release()
            os._exit(int(acquired(tmp_path)))
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / OWNER).exists()


# ------------------------------------------------- machines whose file system keeps locks on each of them for itself


def left_elsewhere(folder: Path, seconds_ago: float) -> None:
    """What a process on another machine leaves of which this one's locks know nothing."""
    folder.mkdir()
    (folder / FOLDER_LOCK).touch()
    (folder / OWNER).write_text(json.dumps({"pid": 4711, "host": "node3", "since": time.time() - 900}))
    os.utime(folder / OWNER, (time.time() - seconds_ago,) * 2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "SILENT_SECONDS", 0.6)


def test_an_owner_elsewhere_that_lives_is_heard(quick: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_elsewhere(tmp_path / "run", 0.0)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.1):
            os.utime(tmp_path / "run" / OWNER)

    beating = threading.Thread(target=live)
    beating.start()
    with pytest.raises(ConfigError, match="in use by process 4711 on node3 since 20"):
        FolderLock(tmp_path / "run").acquire("resume", "auto")
    ended.set()
    beating.join()
    assert "process 4711 on node3" in caplog.text
    assert Lock(tmp_path / "run" / FOLDER_LOCK).free


@pytest.mark.parametrize("seconds", [0.1, 3600.0, -3600.0])
def test_an_owner_elsewhere_that_is_silent_is_dead(
    quick: None, tmp_path: Path, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    left_elsewhere(tmp_path / "run", seconds)
    assert acquired(tmp_path / "run")
    assert ("sign of life" in caplog.text) == (seconds < 1), "after an hour there is nothing to wait for"


def test_an_owner_gives_signs_of_life(quick: None, tmp_path: Path) -> None:
    with FolderLock(tmp_path).acquire("resume", "auto"):
        os.utime(tmp_path / OWNER, (0, 0))
        deadline = time.monotonic() + 20
        while (tmp_path / OWNER).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# ------------------------------------------------------------------------------------- folders that cannot be locked


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def unsupported(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with pytest.raises(ConfigError) as refused:
        FolderLock(tmp_path).acquire("hydra.run.dir", "here")
    assert str(refused.value) == (
        f"hydra.run.dir=here: the folder {tmp_path} cannot be locked for this process: Function not implemented; "
        "use a folder on another disk"
    )


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^hydra.run.dir=x: the folder .*/file/run cannot be .*Not a directory"):
        FolderLock(tmp_path / "file" / "run").acquire("hydra.run.dir", "x")


def test_a_damaged_record_names_nobody(tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text("[")
    assert FolderLock(tmp_path).owner is None
    assert acquired(tmp_path)
