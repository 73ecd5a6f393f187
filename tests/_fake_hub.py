"""A hub on this machine: what `huggingface_hub` asks when a folder is pushed, answered as the hub does, and kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml


class FakeHub:
    """What was asked of it, and which files it has."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.branches: list[str] = []
        self.files: dict[str, bytes] = {}
        self.endpoint = ""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        where = path.partition("?")[0].split("/")
        if path.endswith("/repos/create"):
            self.made.append(json.loads(body))
            return {"url": f"{self.endpoint}/{self.made[-1].get('organization', 'you')}/{self.made[-1]['name']}"}
        if path.endswith("/validate-yaml"):
            yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            return {"errors": [], "warnings": []}
        if "branch" in where:
            self.branches.append(where[-1])
            return {}
        if "preupload" in where:
            return {"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]}
        assert "commit" in where, path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitOid": "0" * 40, "commitUrl": f"{self.endpoint}/you/forgotten/commit/0"}


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run one, until the block is left."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            answer = json.dumps(hub.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            whole = b""
            while size := int(self.rfile.readline(), 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole

        def log_message(self, *given: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
