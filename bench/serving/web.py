"""What the web role adds to 50 streams at once: the same streams straight from the role and through its proxy."""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.services.health import read_address
from bench.serving.paper_role import NUM_TOKENS
from storage.migrate import migrate
from storage.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
NUM_STREAMS = 50
START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Streamed:
    """One stream: seconds to its first piece and to its end, and whether all of it came."""

    first_s: float
    total_s: float
    is_whole: bool


def measure(rounds: int) -> dict[str, Any]:
    """Lets 50 clients stream at once, straight and through the web role in turn.

    Returns:
        `web_overhead_p95_s` (whole streams), `web_first_overhead_p95_s` and `web_errors`.
    """
    with tempfile.TemporaryDirectory() as folder, _roles(Path(folder)) as (direct, web):
        asyncio.run(_round(web, 2))  # Connections and imports are there before anything counts.
        straight: list[Streamed] = []
        through: list[Streamed] = []
        for _ in range(rounds):
            straight += asyncio.run(_round(direct, NUM_STREAMS))
            through += asyncio.run(_round(web, NUM_STREAMS))
    total = statistics.median(stream.total_s for stream in straight)
    first = statistics.median(stream.first_s for stream in straight)
    return {
        "web_overhead_p95_s": _p95([stream.total_s - total for stream in through]),
        "web_first_overhead_p95_s": _p95([stream.first_s - first for stream in through]),
        "direct_total_s": total,
        "web_errors": sum(not stream.is_whole for stream in through),
    }


async def _round(url: str, num_streams: int) -> list[Streamed]:
    limits = httpx.Limits(max_connections=num_streams)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120, limits=limits) as client:
        return await asyncio.gather(*(_stream(client) for _ in range(num_streams)))


async def _stream(client: httpx.AsyncClient) -> Streamed:
    began = time.perf_counter()
    first_s, num_pieces, is_done = 0.0, 0, False
    body = {"model": "base", "prompt": "a", "stream": True}
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                first_s = first_s or time.perf_counter() - began
                num_pieces += line.startswith("data: {")
                is_done = is_done or line == "data: [DONE]"
    except httpx.HTTPError:
        is_done = False
    return Streamed(first_s, time.perf_counter() - began, is_done and num_pieces == NUM_TOKENS)


@contextmanager
def _roles(folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses of a paper role and of a web role before it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"PREFIX_STUDIO_HOME": str(folder), "PREFIX_STUDIO_PORT": str(port)}
    settings = read_settings(given)
    migrate(settings)
    environment = {**os.environ, **given}
    commands = (["bench.serving.paper_role", str(settings.inference_file)], ["app.web"])
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            web = f"http://127.0.0.1:{port}"
            yield _wait(settings, web, folder / "log"), web
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=30)


def _wait(settings: Settings, web: str, log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        address = read_address(settings)
        try:
            if address is not None and httpx.get(f"{web}/healthz", trust_env=False).is_success:
                return address.url
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"The roles did not start: {log.read_text()[-2000:]}")


def _p95(values: list[float]) -> float:
    return sorted(values)[max(0, int(0.95 * len(values) + 0.5) - 1)]
