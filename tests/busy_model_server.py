"""A model server in a thread that refuses comparisons as one does that has too much to do, or gives way half way."""

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.loopback_server import LoopbackServer

SENTENCE = "50 requests are open for 'tiny', as many as it takes at once. Try again in a few seconds."
BUSY = {"error": {"message": SENTENCE, "type": "server_error", "param": None, "code": "busy"}}


class BusyModelServer(LoopbackServer):
    """Refuses or answers comparisons.

    Args:
        num_refusals: So many comparisons are refused; None refuses all.
        begins: Whether a refused one begins to answer before.

    Attributes:
        num_asked: Comparisons so far.
    """

    def __init__(self, num_refusals: int | None = None, *, begins: bool = False) -> None:
        self.num_refusals = num_refusals
        self.begins = begins
        self.num_asked = 0
        super().__init__(self._handler())

    def announce(self, path: Path) -> None:
        """Writes its address where the web role looks for the inference role's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"url": self.url, "secret": "s"}))

    def events(self) -> list[dict[str, Any]]:
        """What the next comparison is answered with; a lone error is told before anything is streamed."""
        self.num_asked += 1
        start = {"prompt": "the prompt", "columns": []}
        if self.num_refusals is None or self.num_asked <= self.num_refusals:
            return [start, BUSY] if self.begins else [BUSY]
        end = {"done": True, "finish_reason": "stop", "tokens": 1, "tokens_per_second": 9.0}
        return [start, *({"column": column, **told} for column in (0, 1) for told in ({"text": "soup"}, end))]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, json.dumps({"device": "cpu"}).encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                events = server.events()
                if events == [BUSY]:
                    return self._answer(503, json.dumps(BUSY).encode())
                return self._answer(200, "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *told: Any) -> None:
                """Nothing of a test goes to its output."""

        return Handler
