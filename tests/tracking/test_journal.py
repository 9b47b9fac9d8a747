"""The journal: what was written is read again, whatever happened to the file, the process or the disk."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lwexp.errors import RunError
from lwexp.tracking import has_run, run_status
from lwexp.tracking.journal import FILE, Journal, Reader
from tests.helpers.journals import RUN, contents, shown


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A journal with every kind of record."""
    journal = Journal(tmp_path)
    journal.write("run", RUN)
    for step in range(3):
        journal.rows({"a": step / 3, "b": -1.0}, step)
    journal.write("tags", {"é": "ü"})
    journal.rows({"val/loss": 0.5}, 2)
    journal.write("artifact", {"path": "x", "folder": None})
    journal.write("end", {"status": "FAILED", "reason": "because", "time_ms": 1})
    journal.close()
    return journal.path


# ------------------------------------------------------------------------------------------------------ what is read

texts = st.text(st.characters() | st.sampled_from("\ud800/*"), max_size=8)
metrics = st.dictionaries(texts.filter(bool), st.floats(), min_size=1, max_size=4)
records = st.lists(
    st.tuples(st.just("rows"), metrics)
    | st.tuples(st.sampled_from(["run", "tags", "artifact", "end"]), st.dictionaries(texts, texts, max_size=3))
    | st.just(("reopen", {})),
    max_size=12,
)


@given(records)
@example([("rows", {"a*": 1.0, "a_": 2.0}), ("reopen", {}), ("rows", {"a?": math.nan, "a_": 0.0})])
def test_what_is_written_is_read_in_order_with_names_that_stay_distinct(
    sequence: list[tuple[Any, Mapping[str, Any]]],
) -> None:
    with TemporaryDirectory() as name:
        journal = Journal(Path(name))
        expected: list[Any] = []
        keys: dict[str, str] = {}
        for step, (kind, value) in enumerate(sequence):
            if kind == "reopen":
                journal.close()
                journal = Journal(Path(name))
            elif kind == "rows":
                before = len(expected)
                journal.rows(value, step)
                expected.append(("rows", step, list(value), [struct.pack("<d", number) for number in value.values()]))
                assert journal.rows_written == sum(len(e[2]) for e in expected[: before + 1] if e[0] == "rows")
            else:
                content = {**value, "status": "FINISHED"} if kind == "end" else dict(value)
                journal.write(kind, content)
                expected.append((kind, content))
        journal.close()

        found: list[Any] = []
        reader = Reader(journal.path)
        for entry in reader.entries():
            if entry.kind == "rows":
                names = [{key: name for name, key in reader.names.items()}[key] for key in entry.value.keys]
                packed = [struct.pack("<d", number) for number in entry.value.values]
                found.append(("rows", entry.value.step, names, packed))
                keys.update(zip(names, entry.value.keys, strict=True))
            elif entry.kind != "keys":
                found.append((entry.kind, entry.value))
        assert found == expected
        assert len(set(keys.values())) == len(keys)
        assert (reader.damaged, reader.position) == (0, journal.path.stat().st_size)


def test_odd_names_never_become_one_in_whatever_order_they_come(tmp_path: Path) -> None:
    names = ["a*", "a_", "a?", "a__5289f1df", "..", "../a", "__/a", "a" * 300, "a" * 301, "A*", "é/ü", "/a", "a/"]
    for order in (names, names[::-1], random.Random(0).sample(names, len(names))):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for step, name in enumerate(order):  # as if the run was resumed before each
            journal = Journal(folder)
            journal.rows({name: step}, step)
            journal.close()
        rows = [value for kind, value in contents(journal.path) if kind == "rows"]
        assert [step for step, _ in rows] == list(range(len(order)))
        assert len({key for _, values in rows for key in values}) == len(names)


def test_names_that_mlflow_takes_stay_as_they_are(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.rows({"lr/a*": 1.0, "lr/a_": 2.0, "lr/00_conv1.weight": 3.0}, 0)
    journal.close()
    ((_, (_, values)),) = contents(journal.path)
    assert values["lr/a_"] == 2.0
    assert values["lr/00_conv1.weight"] == 3.0
    assert sorted(values.values()) == [1.0, 2.0, 3.0]


def test_sets_of_names_that_change_are_read_with_their_own_values(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    expected = []
    for step in range(60):
        values = {f"m{index}": float(step) for index in range(step % 7)}
        values |= {"last": 1.0} if step % 2 else {}
        journal.rows(values, step)
        expected.append(("rows", (step, values)))
    journal.close()
    assert contents(journal.path) == expected
    assert sum(entry.kind == "keys" for entry in Reader(journal.path).entries()) == len(
        {tuple(e[1][1]) for e in expected}
    )


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    reader = Reader(journal.path)
    assert list(reader.entries()) == []
    for step in range(20):
        journal.rows({"a": step}, step)
        assert [shown(entry)[1] for entry in reader.entries() if entry.kind == "rows"] == [(step, {"a": step})]
    content = journal.path.read_bytes()
    journal.rows({"a": 20.0}, 20)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-3])  # as if only a part were on the disk yet
    assert list(reader.entries()) == []
    assert reader.position == len(content)
    journal.path.write_bytes(whole)
    assert [shown(entry) for entry in reader.entries()] == [("rows", (20, {"a": 20.0}))]
    journal.close()


def test_reading_resumes_at_any_position(small: Path) -> None:
    everything = [entry for entry in Reader(small).entries() if entry.kind != "keys"]
    for position in range(small.stat().st_size + 100):
        reader = Reader(small)
        reader.skip_to(position)
        rest = [entry for entry in reader.entries() if entry.kind != "keys"]
        assert rest == [entry for entry in everything if entry.end > position], position


def test_a_hundred_thousand_steps_of_62_groups_fit_in_60_megabytes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    names = [*(f"lr/{index:02d}_layer4.1.conv{index}.weight" for index in range(62)), "train/loss"]
    for step in range(2000):
        journal.rows(dict.fromkeys(names, 0.1), step)
    journal.close()
    assert journal.path.stat().st_size / 2000 * 100_000 < 60e6


def test_a_reader_holds_a_part_of_a_large_journal_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    names = [f"m{index}" for index in range(1000)]
    for step in range(1700):
        journal.rows(dict.fromkeys(names, 1.0), step)
    journal.close()
    assert journal.path.stat().st_size > 13e6
    tracemalloc.start()
    steps = [entry.value.step for entry in Reader(journal.path).entries() if entry.kind == "rows"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert steps == list(range(1700))
    assert peak < 10e6


def test_a_record_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.rows({"a": 1.0}, 0)
    journal.write("tags", {"long": "x" * 5000})
    for step in range(1, 50):
        journal.rows({"a": 1.0}, step)
    journal.close()
    assert [kind for kind, _ in contents(journal.path, chunk=64)] == ["rows", "tags", *["rows"] * 49]


# ------------------------------------------------------------------------------------------------------------- damage


def test_a_journal_truncated_at_any_byte_keeps_whole_records_and_continues(small: Path, tmp_path: Path) -> None:
    content = small.read_bytes()
    whole = [(entry.end, shown(entry), entry.kind) for entry in Reader(small).entries()]
    folder = tmp_path / "cut"
    folder.mkdir()
    for length in range(len(content)):
        (folder / FILE).write_bytes(content[:length])
        kept = [entry for end, entry, kind in whole if end <= length and kind != "keys"]
        assert contents(folder / FILE) == kept
        assert has_run(folder) == (("run", RUN) in kept)
        assert run_status(folder) is None
        journal = Journal(folder)
        assert journal.run == (RUN if ("run", RUN) in kept else None)
        journal.rows({"a": 7.0, "new": 8.0}, 9)
        journal.close()
        assert contents(folder / FILE) == [*kept, ("rows", (9, {"a": 7.0, "new": 8.0}))]
        assert Reader(folder / FILE).damaged == 0


def test_a_flipped_bit_costs_one_record_and_is_counted(small: Path) -> None:
    content = small.read_bytes()
    whole = list(Reader(small).entries())
    starts = [len(b"lwexp journal 1\n"), *(entry.end for entry in whole)]
    for position in range(starts[0], len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        small.write_bytes(damaged)
        hit = next(index for index, entry in enumerate(whole) if entry.end > position)
        lost = {hit}
        if whole[hit].kind == "keys":  # the values of this set have no names any more
            keys = tuple(whole[hit].value["keys"])
            lost |= {index for index, entry in enumerate(whole) if entry.kind == "rows" and entry.value.keys == keys}
        reader = Reader(small)
        left = [shown(entry) for entry in reader.entries()]
        assert left == [shown(entry) for index, entry in enumerate(whole) if index not in lost], position
        if hit < len(whole) - 1:  # at the very end it may be a record that is still being written
            assert reader.damaged >= starts[hit + 1] - starts[hit]


def test_a_damaged_journal_continues_with_new_keys(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.rows({"a": 1.0}, 0)
    journal.close()
    content = bytearray(journal.path.read_bytes())
    content[content.index(b'"a"')] ^= 1  # the record that says that the values are those of a
    journal.path.write_bytes(content)
    journal = Journal(tmp_path)
    journal.rows({"b": 2.0}, 1)
    journal.close()
    assert contents(journal.path) == [("rows", (1, {"b": 2.0}))]


@pytest.mark.parametrize("content", [b"notes", b"lwexp journal 9\nsomething later", b"\0" * 100])
def test_a_file_that_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"journal\.lwexp is not a metrics journal of this version of lwexp$"):
        Journal(tmp_path)
    assert not has_run(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
