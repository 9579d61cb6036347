"""A whole Prefix Studio for tests: started as a user starts it, with a home folder and a port of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

PROJECT = Path(__file__).parents[1]
START_TIMEOUT_S = 200.0
STOP_TIMEOUT_S = 30.0


class Studio:
    """`python app.py` in a process of its own; use it in a `with` block.

    Args:
        home: Its home folder.
        models: Folder of base models, one sub-folder each.
        extra: Further environment variables.
    """

    def __init__(self, home: Path, models: Path | None = None, **extra: str) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home.parent / f"{home.name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFIX_STUDIO_")}
        self.environment = kept | {
            "PREFIX_STUDIO_HOME": str(home),
            "PREFIX_STUDIO_PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        if models is not None:
            self.environment["PREFIX_STUDIO_MODELS"] = str(models)
        self.environment |= extra
        self.started_in_s = 0.0

    def __enter__(self) -> "Studio":
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PROJECT / "app.py")],
                env=self.environment,
                stdout=log,
                stderr=log,
                cwd=self.home.parent,
            )
        while time.monotonic() - started < START_TIMEOUT_S:
            if self.process.poll() is not None:
                break
            try:
                httpx.get(f"{self.url}/healthz", timeout=2.0, trust_env=False)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            self.started_in_s = time.monotonic() - started
            return self
        self.stop()
        raise AssertionError(f"Prefix Studio did not start:\n{self.tail()}")

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is not None:
            print(f"\nThe end of the studio's log:\n{self.tail()}")

    def stop(self) -> int:
        """Stops all of it as Ctrl-C does and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def tail(self, characters: int = 6000) -> str:
        """The end of what all roles have logged."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def api(self, method: str, path: str, **options: Any) -> Any:
        """One REST call; anything but success fails the test with the answer."""
        answer = httpx.request(method, f"{self.url}/api/v1{path}", timeout=60.0, trust_env=False, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def wait_for_job(self, job_id: str, *, timeout_s: float = 120.0) -> dict[str, Any]:
        """Waits until a job has ended and returns it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.api("GET", f"/jobs/{job_id}")
            if job["status"] in ("succeeded", "failed", "cancelled"):
                return job
            time.sleep(0.2)
        raise AssertionError(f"job {job_id} did not end in {timeout_s:g} s: {job}\n{self.tail()}")


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
