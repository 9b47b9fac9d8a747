"""A proxy in front of an HTTP server that gives it bad days."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

# pass     as if the proxy were not there
# refuse   nothing listens at the address
# reset    the connection breaks before the server sees the request
# status   an error of the given status instead of the server's answer; the server sees nothing
# slow     the answer comes `seconds` late
# swallow  the server does what it was asked, the connection breaks before its answer: the client cannot know
# cut      the connection breaks within the answer
# drip     the answer comes a byte at a time, `seconds` for each
# hang     the request is taken and never answered
Mode = Literal["pass", "refuse", "reset", "status", "slow", "swallow", "cut", "drip", "hang"]
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "accept-encoding"}


class FaultyProxy:
    """Listens on a free port of the loopback address from the start; `url` stays the same in every mode."""

    def __init__(self, host: str, port: int) -> None:
        """A proxy of the HTTP server at `host`:`port`, in mode "pass"."""
        self.upstream = host, port
        self.counts: Counter[str] = Counter()  # requests by what was done to them
        self.mode: Mode = "pass"
        self._chance = random.Random(0)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._server: _Server | None = None
        self._port = 0
        self.set("pass")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def set(
        self,
        mode: Mode,
        *,
        share: float = 1.0,
        only: Callable[[str, str], bool] | None = None,
        status: int = 500,
        retry_after: int | None = None,
        seconds: float = 2.0,
    ) -> None:
        """From now on treat requests so: the given share of those whose method and path `only` accepts, by chance."""
        with self._lock:
            self._changed.set()  # requests that hang are broken off
            self._changed = threading.Event()
            self.mode, self._share, self._only = mode, share, only
            self.status, self.retry_after, self.seconds = status, retry_after, seconds
        if mode == "refuse":
            self._close()
        elif self._server is None:
            self._open()

    def close(self) -> None:
        """End it; requests that hang are broken off."""
        self._changed.set()
        self._close()

    def treatment(self, method: str, path: str) -> tuple[Mode, threading.Event]:
        """What to do with this request, and the event of the next change; counted."""
        with self._lock:
            mode = self.mode
            if mode != "pass" and (
                (self._only is not None and not self._only(method, path)) or self._chance.random() >= self._share
            ):
                mode = "pass"
            self.counts[mode] += 1
            return mode, self._changed

    def _open(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.break_connections()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def break_connections(self) -> None:
        for connection in list(self.connections):
            _break(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is what happens here all the time


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server.proxy
        mode, changed = proxy.treatment(self.command, self.path)
        if mode in ("refuse", "reset"):
            return self._break()
        if mode == "hang":
            changed.wait()
            return self._break()
        if mode == "status":
            return self._answer(proxy.status, [], b'{"error_code": "INTERNAL_ERROR", "message": "a fault"}')
        try:
            status, headers, content = self._ask(body)
        except (OSError, http.client.HTTPException):
            proxy.counts["unreachable"] += 1
            return self._break()
        if mode == "swallow":
            return self._break()
        if mode == "slow":
            changed.wait(proxy.seconds)
        if mode == "drip":
            return self._drip(status, content, proxy.seconds, changed)
        return self._answer(status, headers, content, cut=mode == "cut")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        upstream = http.client.HTTPConnection(*self.server.proxy.upstream, timeout=300)
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status == self.server.proxy.status and self.server.proxy.retry_after is not None:
            self.send_header("Retry-After", str(self.server.proxy.retry_after))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if cut:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self._break()
        self.wfile.write(content)
        return None

    def _drip(self, status: int, content: bytes, seconds: float, changed: threading.Event) -> None:
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        for byte in head + content:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            if changed.wait(seconds):
                break
        self._break()

    def _break(self) -> None:
        self.close_connection = True
        _break(self.connection)


def _break(connection: socket.socket) -> None:
    """Reset the connection: with a linger time of 0, closing sends RST instead of FIN."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        connection.close()


# a tracking server's bad days
FAULTS: dict[str, Callable[[FaultyProxy], None]] = {
    "500": lambda proxy: proxy.set("status", status=500),
    "503": lambda proxy: proxy.set("status", status=503, retry_after=1),
    "429": lambda proxy: proxy.set("status", status=429, retry_after=2),
    "half_500": lambda proxy: proxy.set("status", status=500, share=0.5),
    "slow": lambda proxy: proxy.set("slow", seconds=2.0),
    "lost_answers": lambda proxy: proxy.set("swallow"),
    "half_lost_answers": lambda proxy: proxy.set("swallow", share=0.5),
    "cut_answers": lambda proxy: proxy.set("cut"),
    "reset": lambda proxy: proxy.set("reset"),
    "drip": lambda proxy: proxy.set("drip", seconds=1.0),
    "hang": lambda proxy: proxy.set("hang"),
    "refuse": lambda proxy: proxy.set("refuse"),
}
