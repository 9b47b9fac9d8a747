"""A small MLflow server in a thread: stores a row as often as it receives it, fails and loses answers on request."""

from __future__ import annotations

import json
import threading
import time
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

_KIND = {"key": "mlflow.experimentKind", "value": "custom_model_development"}


class FakeMLflow:
    """`runs` by id: their `info`, `params`, `tags`, `rows` (in the order received), `calls` (rows in each)."""

    def __init__(self) -> None:
        """One experiment, whatever its name, without runs."""
        self.runs: dict[str, dict[str, Any]] = {}
        self.authorizations: set[str] = set()
        self.fail: int | None = None  # the status of every answer
        self.artifact_uri = "mlflow-artifacts:/"  # of every run
        self.artifacts: dict[str, bytes] = {}  # by path below the server's storage
        self.fail_artifacts: int | None = None  # the status of every answer to a file
        self.seconds_per_byte = 0.0  # of answers to what is asked by POST
        self.body = '{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "away"}'  # and its text
        self.lose_writes: set[int] = set()  # at which POST requests, counted from 1, the connection is closed
        self.lose = "after"  # "before" or "after" what was asked is done
        self.lost = 0
        self._writes = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if "Authorization" in self.headers:
                    fake.authorizations.add(self.headers["Authorization"])
                if fake.fail_artifacts is not None:
                    return self._send(fake.fail_artifacts, "not this file")
                fake.artifacts[urlsplit(self.path).path.partition("/artifacts/")[2]] = content
                return self._send(200, "{}")

            def _answer(self, asked: dict[str, Any]) -> None:
                if "Authorization" in self.headers:
                    fake.authorizations.add(self.headers["Authorization"])
                if fake.fail is not None:
                    return self._send(fake.fail, fake.body)
                with fake._lock:
                    fake._writes += self.command == "POST"
                    lose = self.command == "POST" and fake._writes in fake.lose_writes
                    fake.lost += lose
                    found = None
                    if not lose or fake.lose == "after":
                        found = fake._do(urlsplit(self.path).path.partition("/mlflow/")[2], asked)
                if lose:
                    self.close_connection = True
                    return None
                if found is None:
                    message = f"Run with id={asked.get('run_id')} not found"
                    return self._send(404, json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message}))
                return self._send(200, json.dumps(found))

            def _send(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                pause = fake.seconds_per_byte if self.command == "POST" else 0.0
                with suppress(OSError):  # the client may not wait for the end
                    for byte in text.encode() if pause else ():
                        self.wfile.write(bytes([byte]))
                        time.sleep(pause if fake.seconds_per_byte else 0.0)
                    self.wfile.write(b"" if pause else text.encode())

            def log_message(self, *_args: object) -> None:  # nothing on the terminal
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def uri(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeMLflow:
        """Answer from now on."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _do(self, what: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        if what in ("experiments/get-by-name", "experiments/get"):
            name = asked.get("experiment_name", "lwexp")
            return {"experiment": {"experiment_id": "1", "name": name, "lifecycle_stage": "active", "tags": [_KIND]}}
        if what == "runs/create":
            run_id = uuid.uuid4().hex  # MLflow remembers the storage of each run, whatever its server
            tags = {tag["key"]: tag["value"] for tag in asked.get("tags", [])}
            info = {
                "run_id": run_id,
                "experiment_id": "1",
                "status": "RUNNING",
                "user_id": "",
                "artifact_uri": self.artifact_uri,
            }
            info |= {"run_name": asked["run_name"], "start_time": asked["start_time"], "lifecycle_stage": "active"}
            self.runs[run_id] = {"info": info, "params": {}, "tags": tags, "rows": [], "calls": []}
            return {"run": self._run(run_id)}
        if what == "runs/search":
            wanted = asked["filter"].split("'")[1]
            return {"runs": [self._run(run_id) for run_id, run in self.runs.items() if wanted in run["tags"].values()]}
        run = self.runs.get(asked.get("run_id", ""))
        if run is None:
            return None
        if what == "runs/update":
            run["info"] |= {key: asked[key] for key in ("status", "end_time") if key in asked}
            return {"run_info": run["info"]}
        if what == "runs/log-batch":
            run["rows"] += asked.get("metrics", [])
            run["calls"] += [len(asked["metrics"])] if asked.get("metrics") else []
            run["params"] |= {param["key"]: param["value"] for param in asked.get("params", [])}
            run["tags"] |= {tag["key"]: tag["value"] for tag in asked.get("tags", [])}
        elif what == "runs/delete-tag":
            del run["tags"][asked["key"]]
        return {"run": self._run(asked["run_id"])} if what == "runs/get" else {}

    def _run(self, run_id: str) -> dict[str, Any]:
        run = self.runs[run_id]
        last: dict[str, Any] = {}
        for row in run["rows"]:
            if int(row["step"]) >= int(last.get(row["key"], row)["step"]):
                last[row["key"]] = row
        pairs = {name: [{"key": k, "value": v} for k, v in run[name].items()] for name in ("params", "tags")}
        return {"info": run["info"], "data": {**pairs, "metrics": list(last.values())}}
