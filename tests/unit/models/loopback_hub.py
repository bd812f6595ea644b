"""A hub of one repository on the loopback interface, enough of it for the hub's own client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "org/name"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin")


class LoopbackHub(ThreadingHTTPServer):
    """Serves ``files`` at ``COMMIT``. ``lied`` replaces the sha256 that the hub gives for a file;
    ``requests`` are the paths that were asked for."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.commit = COMMIT
        self.lied: dict[str, str] = {}
        self.requests: list[str] = []
        self.gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloaded(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.requests if path.startswith("GET /org")}


@contextmanager
def loopback_hub(files: Mapping[str, bytes]) -> Iterator[LoopbackHub]:
    server = LoopbackHub(files)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            return
        commit = self.server.commit
        prefix = f"/api/models/{REPOSITORY}"
        if path in (prefix, f"{prefix}/revision/main", f"{prefix}/revision/{commit}"):
            self._json(self._info())
        elif path.startswith(f"{prefix}/tree/{commit}"):
            self._json([self._entry(name) for name in self.server.files])
        elif path.startswith(f"{prefix}/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/{REPOSITORY}/resolve/{commit}/"):
            self._file(path.removeprefix(f"/{REPOSITORY}/resolve/{commit}/"))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _info(self) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name in self.server.files:
            entry = self._entry(name)
            sibling = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
            if "lfs" in entry:
                sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"],
                                  "pointerSize": 134}  # fmt: skip
            siblings.append(sibling)
        return {"_id": "1", "id": REPOSITORY, "modelId": REPOSITORY, "sha": self.server.commit,
                "private": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": siblings}  # fmt: skip

    def _entry(self, name: str) -> dict[str, Any]:
        data = self.server.files[name]
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data),
                                 "oid": hashlib.sha1(data).hexdigest()}  # fmt: skip
        if name.endswith(LFS_SUFFIXES):
            digest = self.server.lied.get(name, hashlib.sha256(data).hexdigest())
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, name: str) -> None:
        if name not in self.server.files:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        data = self.server.files[name]
        etag = (hashlib.sha256 if name.endswith(LFS_SUFFIXES) else hashlib.sha1)(data).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.commit}
        if name.endswith(LFS_SUFFIXES):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        self._send(200, data, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
