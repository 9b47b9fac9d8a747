"""What a command shows while it works: words in a log, a line in place on a terminal."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from lwexp.host.console import ConsoleHandler, console

SLOW = """
import logging, sys, time
from lwexp.host.console import console, ConsoleHandler
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ConsoleHandler(sys.stdout)])
console.start("loading")
time.sleep(1.0)
with console.doing(lambda: "reading " + "files"):
    time.sleep({seconds})
logging.info("done")
console.stop()
"""


def lines_with_times(script: str) -> list[tuple[float, str]]:
    """Each line that a script prints into a pipe, and the seconds since the one before."""
    found, last = [], time.monotonic()
    with subprocess.Popen([sys.executable, "-u", "-c", script], text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.monotonic()
            found.append((now - last, line.rstrip()))
            last = now
    assert process.returncode == 0
    return found


def test_a_log_never_is_silent_for_more_than_five_seconds_while_something_is_slow() -> None:
    found = lines_with_times(SLOW.format(seconds=13))
    words = [line for _, line in found]
    assert words[-1] == "done"
    assert all(re.fullmatch(r"reading files …( \d+ s)?", word) for word in words[:-1])
    assert 3 <= len(words) <= 5
    assert max(gap for gap, _ in found) < 7  # five, and what a busy machine adds


def test_what_is_fast_says_nothing() -> None:
    assert [line for _, line in lines_with_times(SLOW.format(seconds=0.2))] == ["done"]


@pytest.mark.parametrize("columns", [80, 30])
def test_a_terminal_shows_the_activity_in_place_within_its_width(columns: int, tmp_path: Path) -> None:
    script = SLOW.format(seconds=2.5).replace('"files"', '"a file whose name is much longer than thirty columns"')
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 4096)
        except OSError:  # its end
            break
    os.close(ours)
    assert process.wait(20) == 0
    *shown, last = re.split(r"\r\x1b\[K", output.decode())
    assert last.strip() == "done"
    assert any("reading a file" in text for text in shown)
    assert max(map(len, shown)) <= columns
    assert "\n" not in "".join(shown)


def test_a_line_and_a_word_about_what_is_under_way_never_wait_for_each_other() -> None:
    handler = ConsoleHandler(io.StringIO())
    record = logging.LogRecord("lwexp", logging.INFO, "", 0, "a line", (), None)

    def lines() -> None:
        for _ in range(3000):
            handler.handle(record)

    def words() -> None:  # as the console's own thread writes them
        for _ in range(3000):
            with console.writing():
                handler.handle(record)

    threads = [threading.Thread(target=target, daemon=True) for target in (lines, words)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
