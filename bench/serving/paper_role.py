"""An inference role without a model: it streams tokens by the clock, so that whatever comes later is the way's doing.

`python -m bench.serving.paper_role FOLDER` serves on a free port and writes the address as the real role does.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

NUM_TOKENS = 64
TOKEN_S = 0.05
"""Twenty tokens a second in each stream, faster than one reads."""


def create_app() -> FastAPI:
    """One route, which streams."""
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(_tokens(), media_type="text/event-stream")

    return app


async def _tokens() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(NUM_TOKENS):
        await asyncio.sleep(max(0.0, began + number * TOKEN_S - loop.time()))
        chunk = {"object": "text_completion", "choices": [{"index": 0, "text": f" word{number}", "logprobs": None}]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


class AnnouncingServer(uvicorn.Server):
    """Writes down where it listens.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(uvicorn.Config(create_app(), port=0, log_level="error"))
        self._path = path

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, then says so."""
        await super().startup(sockets)
        address = self.servers[0].sockets[0].getsockname()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"url": f"http://127.0.0.1:{address[1]}", "secret": "paper"}))


if __name__ == "__main__":
    AnnouncingServer(Path(sys.argv[1])).run()
