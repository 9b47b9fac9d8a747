"""The rigs do what they say; without that, the tests that use them would show nothing."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.faults.disk import fill, free_bytes, small_disk
from tests.system.faults.network import Host
from tests.system.faults.proxy import FaultyProxy, Mode
from tests.system.faults.training import TINY, Launcher, step_seconds, until

ECHO = """
import socket, sys

server = socket.create_server((sys.argv[1], 7000))
connection, _ = server.accept()
while data := connection.recv(9):
    connection.sendall(data)
"""


class Echo(BaseHTTPRequestHandler):
    """Answers a POST with its body."""

    protocol_version = "HTTP/1.1"
    seen = 0

    def do_POST(self) -> None:
        Echo.seen += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    Echo.seen = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.05,)).start()
    proxy = FaultyProxy("127.0.0.1", server.server_address[1])
    yield proxy
    proxy.close()
    server.shutdown()
    server.server_close()


def post(proxy: FaultyProxy, timeout: float = 10.0) -> bytes:
    request = urllib.request.Request(f"{proxy.url}/a", data=b"0123456789", method="POST")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize(
    ("mode", "error", "seen"),
    [
        ("refuse", urllib.error.URLError, 0),
        ("reset", (http.client.HTTPException, OSError), 0),
        ("hang", TimeoutError, 0),
        ("swallow", (http.client.HTTPException, OSError), 1),
        ("cut", (http.client.HTTPException, OSError), 1),
    ],
)
def test_a_broken_answer_reaches_the_server_or_not(
    proxy: FaultyProxy, mode: Mode, error: type[Exception], seen: int
) -> None:
    assert post(proxy) == b"0123456789"
    proxy.set(mode)
    with pytest.raises(error):
        post(proxy, timeout=0.5)
    assert Echo.seen == 1 + seen
    proxy.set("pass")
    assert post(proxy) == b"0123456789"


def test_a_status_comes_instead_of_the_answer_of_a_share_of_requests(proxy: FaultyProxy) -> None:
    proxy.set("status", status=429, retry_after=7, share=0.5)
    refusals = 0
    for _ in range(20):
        try:
            post(proxy)
        except urllib.error.HTTPError as error:
            refusals += (error.code, error.headers["Retry-After"]) == (429, "7")
            error.close()
    assert 4 < refusals < 16
    assert proxy.counts == {"pass": 20 - refusals, "status": refusals}
    assert Echo.seen == 20 - refusals


def test_only_chosen_requests_are_slow(proxy: FaultyProxy) -> None:
    proxy.set("slow", seconds=5.0, only=lambda method, path: method == "GET")
    start = time.monotonic()
    post(proxy)
    assert time.monotonic() - start < 4.0
    proxy.set("slow", seconds=0.3)
    start = time.monotonic()
    assert post(proxy) == b"0123456789"
    assert time.monotonic() - start >= 0.3


def test_a_full_disk_takes_no_more(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", 2) as disk:
            ballast = fill(disk, leave=1 << 16)
            assert 0 < free_bytes(disk) <= 1 << 16
            with pytest.raises(OSError, match="No space left"):
                (disk / "more").write_bytes(bytes(1 << 17))
            ballast.unlink()
            (disk / "more").write_bytes(bytes(1 << 17))
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_command_is_killed_at_the_step_asked_for(lwexp: Launcher, tmp_path: Path) -> None:
    times = tmp_path / "times"
    environment = {"FAULTS_KILL_AT": 7, "FAULTS_STEP_SECONDS": 0.01, "FAULTS_STEP_TIMES": times}
    plateau = ("policy=plateau", "~policy.warmup_steps")  # its simulated optimizer steps too
    command = lwexp("run", *TINY, *plateau, "tracking=none", environment=environment)
    assert command.wait(60) == -9
    seconds = step_seconds(times)
    assert len(seconds) == 6
    assert min(seconds) >= 0.01


def test_a_cut_cable_silences_a_host_without_a_word(host: Host) -> None:
    process = subprocess.Popen([*host.prefix, sys.executable, "-c", ECHO, host.address])
    try:

        def connect() -> socket.socket | None:
            try:
                return socket.create_connection((host.address, 7000), timeout=2)
            except ConnectionError:
                return None

        with until(connect, 10, "the host to listen") as connection:
            connection.sendall(b"a")
            assert connection.recv(9) == b"a"
            host.cut()
            connection.settimeout(0.5)
            connection.sendall(b"b")
            with pytest.raises(TimeoutError):
                connection.recv(9)
            host.mend()
            connection.settimeout(15)
            assert connection.recv(9) == b"b"
    finally:
        process.kill()
        process.wait()
