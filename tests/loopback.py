"""Stand-ins for Hugging Face and ModelScope on this machine, from which repositories are fetched. No swift here."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

COMMIT = "0123456789012345678901234567890123456789"


class Hub(BaseHTTPRequestHandler):
    """The repository org/name. What is asked of it goes into `asked`.

    A file in `cut` breaks off half-way, once; one in `altered` comes with another last byte. A `mute` hub hangs up on
    whoever asks for more than its front page.
    """

    protocol_version = "HTTP/1.1"
    kind: str
    files: Mapping[str, bytes]
    asked: list[str]
    cut: set[str]
    altered: set[str]
    mute: bool

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if self.path == "/":
            return self._answer(b"ok", {})
        if self.mute:
            self.close_connection = True
            return
        if self.path.startswith(f"/api/{self.kind}/org/name"):
            return self._answer(json.dumps(self._about()).encode(), {"Content-Type": "application/json"})
        self._file(name)

    do_HEAD = do_GET

    def _file(self, name: str) -> None:
        if name not in self.files:
            return self._answer(b"", {}, 404)
        body = self.files[name]
        etag = hashlib.sha256(body).hexdigest()
        if name in self.altered:
            body = body[:-1] + bytes([body[-1] ^ 1])
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.asked.append(f"{self.command} {name}" + (" again" if start else ""))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._answer(body[start:], headers, 206 if start else 200, name in self.cut and self.command == "GET")

    def _about(self) -> Any:
        if "/tree/" not in self.path:
            files = [{"rfilename": name, "size": len(body), "blobId": "0"} for name, body in self.files.items()]
            return {"id": "org/name", "sha": COMMIT, "siblings": files, "tags": []}
        return [
            {
                **{"type": "file", "path": name, "size": len(body), "oid": "0"},
                "lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 100},
            }
            for name, body in self.files.items()
        ]

    def _answer(self, body: bytes, headers: Mapping[str, str], status: int = 200, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut:
            self.cut.clear()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class ModelScope(Hub):
    """The same for ModelScope, whose client asks other questions; a model or a data set, as it is asked."""

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if url.path == "/":
            return self._answer(b"ok", {})
        asked = re.fullmatch(r"/api/v1/(models|datasets)/org/name/repo(/files|/tree)?", url.path)
        if asked and not asked[2]:
            return self._file(parse_qs(url.query)["FilePath"][0])
        if asked:
            files = [
                {"Path": name, "Name": name, "Size": len(body), "Type": "blob", "Revision": COMMIT}
                | {"Sha256": hashlib.sha256(body).hexdigest(), "CommittedDate": 1_700_000_000}
                for name, body in self.files.items()
            ]
            return self._said({"Code": 200, "Success": True, "Data": {"Files": files}, "TotalCount": len(files)})
        self._said({"Code": 404, "Success": False, "Message": "not found"}, 404)

    do_HEAD = do_GET

    def _said(self, content: Any, status: int = 200) -> None:
        self._answer(json.dumps(content).encode(), {"Content-Type": "application/json"}, status)


@contextmanager
def serving(kind: str, files: Mapping[str, bytes], of: type[Hub] = Hub) -> Iterator[tuple[type[Hub], str]]:
    """The hub, with its address, as long as it is needed. `kind`: `models` or `datasets`."""
    state = {"kind": kind, "files": files, "asked": [], "cut": set(), "altered": set(), "mute": False}
    hub: type[Hub] = type("OneHub", (of,), state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
