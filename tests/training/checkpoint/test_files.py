"""The files of checkpoints: whole or not at all, the newest few, damaged ones passed over."""

from __future__ import annotations

import logging
import os
import random
import resource
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lwexp.errors import RunError
from lwexp.training.checkpoint.files import CheckpointFiles
from tests.helpers.tiny_training import flat

STATE = {"step": 3, "weights": torch.arange(1000.0), "names": ["ä", "b"], "config": {"lr": 0.1}}


def folder_of(path: Path, keep: int = 2, **due: Any) -> CheckpointFiles:
    return CheckpointFiles(path / "checkpoints", **{"every_steps": None, "every_minutes": None, **due}, keep=keep)


def test_one_is_due_after_so_many_steps_or_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    both = folder_of(tmp_path, every_steps=10, every_minutes=2.0)
    assert [step for step in range(1, 12) if both.due(step)] == [10, 11]
    now += 119
    assert not both.due(3)
    now += 1
    assert both.due(3)
    both.save(STATE, 3)
    assert [step for step in range(4, 15) if both.due(step)] == [13, 14]
    never = folder_of(tmp_path)
    now += 10**6
    assert not never.due(10**6)


def test_newest_few_are_kept_and_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path)
    assert checkpoints.newest() is None
    best = tmp_path / "best.safetensors"
    best.write_bytes(b"weights")
    for step in (2, 10, 9, 11):
        checkpoints.save({**STATE, "step": step}, step, best)
        (checkpoints.folder / ".writing-1-abc").write_bytes(b"half")
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == [
        ".writing-1-abc", "step_00000009.best.safetensors", "step_00000009.ckpt",
        "step_00000011.best.safetensors", "step_00000011.ckpt",
    ]  # fmt: skip
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 11
    assert torch.equal(newest["weights"], STATE["weights"])  # type: ignore[arg-type]
    assert best.stat().st_nlink == 3, "the best weights take no space of their own"


def damaged_ways() -> dict[str, Callable[[bytes], bytes]]:
    return {
        "empty": lambda data: b"",
        "truncated": lambda data: data[: len(data) // 2],
        "without its end": lambda data: data[:-1],
        "not a zip": lambda data: b"x" * len(data),
        "bit of a weight": lambda data: flipped(data, len(data) // 2),
    }


def flipped(data: bytes, position: int, bit: int = 3) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("way", damaged_ways())
def test_damaged_newest_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save({**STATE, "step": 1}, 1)
    path = checkpoints.save({**STATE, "step": 2}, 2)
    path.write_bytes(damaged_ways()[way](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 1
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "\n" not in record.getMessage()
    checkpoints.save({**STATE, "step": 3}, 2)  # the training comes there again
    assert len(checkpoints.paths()) == 2


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    data, whole, found = path.read_bytes(), flat(checkpoints.newest()), 0
    draw = random.Random(5)
    for _ in range(300):
        path.write_bytes(flipped(data, draw.randrange(len(data)), draw.randrange(8)))
        state = checkpoints.newest()
        found += state is None
        assert state is None or flat(state) == whole
    assert found > 200, "most of the file are weights"


def test_another_format_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    torch.save({**STATE, "format": 99}, path)
    assert checkpoints.newest() is None
    assert "its format is 99" in caplog.text


def test_a_file_with_code_in_it_is_not_executed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    checkpoints = folder_of(tmp_path)
    path = checkpoints.save(STATE, 1)
    torch.save({"format": 1, "evil": Evil()}, path)
    assert checkpoints.newest() is None
    assert not (tmp_path / "executed").exists()
    assert path.name in caplog.text


def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    checkpoints = folder_of(tmp_path)
    with pytest.raises(RunError, match=r"could not be loaded again: .*Path"):
        checkpoints.save({**STATE, "what": tmp_path}, 1)
    assert list(checkpoints.folder.iterdir()) == []


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A file that grows beyond `size` bytes is refused by the system."""
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 100_000, 3_000_000])
def test_what_the_disk_does_not_take_is_one_line_and_the_earlier_ones_stay(tmp_path: Path, size: int) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save(STATE, 1)
    big = {"step": 2, "weights": [torch.zeros(100_000) for _ in range(10)]}
    with pytest.raises(RunError) as caught, files_up_to(size):
        checkpoints.save(big, 2)
    assert str(caught.value).startswith(f"cannot write the checkpoint {checkpoints.folder / 'step_00000002.ckpt'}: ")
    assert str(caught.value).endswith("File too large; step_00000001.ckpt is intact")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000001.ckpt"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest["step"] == 3


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*: (File exists|Not a directory)"):
        folder_of(tmp_path).save(STATE, 1)


def test_a_save_that_is_killed_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = folder_of(tmp_path)
    checkpoints.save(STATE, 1)

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save({**STATE, "step": 9}, 2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000001.ckpt"]


def test_the_file_is_a_zip_of_checksummed_records_that_torch_reads(tmp_path: Path) -> None:
    path = folder_of(tmp_path).save(STATE, 12)
    assert path.name == "step_00000012.ckpt"
    assert zipfile.ZipFile(path).testzip() is None
    assert torch.load(path, weights_only=True)["names"] == ["ä", "b"]
