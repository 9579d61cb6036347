"""A Hugging Face Hub in a thread: the few endpoints that look-ups and downloads use, with faults on request."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler

from tests.loopback_server import LoopbackServer

CONVERTED = "refs%2Fconvert%2Fparquet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = re.compile(r"(/datasets)?/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>[^?]+)")
API = re.compile(r"/api/(models|datasets)/(?P<id>[^/]+/[^/]+?)(/revision/(?P<revision>[^?]+))?(\?.*)?")


class HubServer(LoopbackServer):
    """Serves one repository.

    Args:
        hub_id: The repository's id.
        files: Name to content.

    Attributes:
        converted: Files of the Parquet copy that the hub keeps of a dataset.
        gated: Whether file downloads are refused for want of consent.
        drops: Name to how many more transfers of that file break off halfway.
        requests: What was asked, as "METHOD path range".
        stall: Where set, transfers of large files wait for it in their middle.
    """

    def __init__(self, hub_id: str, files: dict[str, bytes]) -> None:
        self.hub_id = hub_id
        self.files = files
        self.converted: dict[str, bytes] = {}
        self.gated = False
        self.drops: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.requests: list[str] = []
        self.stall: threading.Event | None = None
        self.halfway = threading.Event()
        super().__init__(self._handler())

    def info(self, is_converted: bool = False) -> dict[str, object]:
        """What the API says of the repository."""
        siblings = []
        for name, data in (self.converted if is_converted else self.files).items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if name.endswith((".safetensors", ".parquet")):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 130}
            siblings.append(entry)
        card = {"license": "apache-2.0"}
        return {
            "_id": "1",
            "id": self.hub_id,
            "sha": COMMIT,
            "gated": "manual" if self.gated else False,
            "siblings": siblings,
            "cardData": card,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
                found = API.fullmatch(self.path)
                if found:
                    if found["id"] != hub.hub_id:
                        return self._refuse(401, "RepoNotFound")
                    is_converted = found["revision"] == CONVERTED and bool(hub.converted)
                    if found["revision"] not in (None, "main", COMMIT) and not is_converted:
                        return self._refuse(404, "RevisionNotFound")
                    told = json.dumps(hub.info(is_converted)).encode()
                    return self._send(told, {"Content-Type": "application/json"})
                found = RESOLVE.fullmatch(self.path)
                if not found or found["id"] != hub.hub_id or found["name"] not in hub.files | hub.converted:
                    return self._refuse(404, "EntryNotFound")
                if hub.gated:
                    return self._refuse(403, "GatedRepo")
                return self._send_file(found["name"], with_body)

            def _refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _send(self, data: bytes, headers: dict[str, str]) -> None:
                self.send_response(200)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def _send_file(self, name: str, with_body: bool) -> None:
                data = (hub.files | hub.converted)[name]
                etag = hashlib.sha256(data).hexdigest()
                if name in hub.damaged:
                    data = bytes(len(data))
                start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
                self.send_response(206 if start else 200)
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(data) - start))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if with_body:
                    self._send_body(name, data, start)

            def _send_body(self, name: str, data: bytes, start: int) -> None:
                middle = (start + len(data)) // 2
                self.wfile.write(data[start:middle])
                self.wfile.flush()
                if hub.drops.get(name, 0) > 0:
                    hub.drops[name] -= 1
                    self.close_connection = True
                    return
                if hub.stall is not None and name.endswith(".safetensors"):
                    hub.halfway.set()
                    hub.stall.wait(20)
                try:
                    self.wfile.write(data[middle:])
                except OSError:
                    self.close_connection = True  # the client has hung up

        return Handler
