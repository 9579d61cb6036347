"""The launcher: what it refuses, in which order roles start, that dead ones come back and none is left behind."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app import launcher
from app.launcher import Launcher, page_url
from storage.settings import Settings
from tests.test_executor import is_alive, until

PROJECT = Path(__file__).parents[1]

ROLE = """
import os, sys, time
with open(os.environ["ROLES_TOLD"], "a") as told:
    told.write(f"{__NAME__} {os.getpid()}\\n")
"""
WEB = (
    ROLE
    + """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *words):
        pass
time.sleep(0.5)
HTTPServer(("127.0.0.1", int(os.environ["ROLES_PORT"])), Page).serve_forever()
"""
)
STAYS = ROLE + "time.sleep(60)"
DIES_ONCE = (
    ROLE
    + """
mark = os.environ["ROLES_TOLD"] + ".died"
if not os.path.exists(mark):
    open(mark, "w").close()
    sys.exit(1)
time.sleep(60)
"""
)
DIES = ROLE + "sys.exit(3)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class House:
    """Fake roles in a folder, and a launcher that starts them."""

    def __init__(self, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
        self.told = folder / "told"
        self.told.touch()
        self.asked_to_stop = threading.Event()
        port = free_port()
        for name, script in scripts.items():
            (folder / f"fake_{name}.py").write_text(script.replace("__NAME__", repr(name)))
        monkeypatch.setattr(launcher, "MODULES", {name: f"fake_{name}" for name in scripts})
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("ROLES_TOLD", str(self.told))
        monkeypatch.setenv("ROLES_PORT", str(port))
        self.launcher = Launcher(Settings(**{**vars(settings), "port": port}), self.asked_to_stop)

    def started(self) -> list[str]:
        return [line.split()[0] for line in self.told.read_text().splitlines()]

    def pids(self) -> list[int]:
        return [int(line.split()[1]) for line in self.told.read_text().splitlines()]

    def run_until(self, holds: Callable[[], bool]) -> int:
        def watch() -> None:
            try:
                until(holds, timeout_s=20.0)
            finally:
                self.asked_to_stop.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = self.launcher.run()
        watcher.join()
        return code


def test_page_comes_first_and_a_signal_ends_all_roles(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path, settings, monkeypatch, web=WEB, dispatcher=STAYS, inference=STAYS)
    assert house.run_until(lambda: len(house.started()) == 3) == 0
    assert house.started()[0] == "web"
    assert [pid for pid in house.pids() if is_alive(pid)] == []
    assert capfd.readouterr().out == f"Prefix Studio is ready at {page_url(house.launcher.settings)}\n"


def test_dead_role_comes_back(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path, settings, monkeypatch, web=WEB, dispatcher=DIES_ONCE, inference=STAYS)
    assert house.run_until(lambda: house.started().count("dispatcher") == 2) == 0
    assert house.started().count("inference") == 1


def test_role_that_dies_again_and_again_is_started_less_and_less_often(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, settings, monkeypatch, web=WEB, dispatcher=DIES, inference=STAYS)
    began = time.monotonic()
    house.run_until(lambda: house.started().count("dispatcher") == 3)
    assert time.monotonic() - began > 1.0 + 2.0


def test_web_that_dies_at_once_ends_the_start(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    house = House(tmp_path, settings, monkeypatch, web=DIES, dispatcher=STAYS, inference=STAYS)
    assert house.launcher.run() == 1
    assert house.started() == ["web"]
    assert "ended before its page answered" in capfd.readouterr().err


def start(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python app.py` where it is expected to refuse."""
    variables = {**os.environ, "PREFIX_STUDIO_HOME": str(home), **environment}
    command = [sys.executable, str(PROJECT / "app.py"), *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


def told(finished: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a start that was refused."""
    assert finished.returncode == code
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("\n") == 1
    return finished.stderr


def test_unknown_role_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    assert "expected nothing, or one of web, dispatcher, inference" in told(start(tmp_path, "worker"), 2)


def test_setting_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    assert "PREFIX_STUDIO_TOKEN" in told(start(tmp_path, PREFIX_STUDIO_HOST="0.0.0.0"), 2)
    assert "PREFIX_STUDIO_PORT is 'x'" in told(start(tmp_path, PREFIX_STUDIO_PORT="x"), 2)


def test_taken_port_stops_the_start_before_anything_runs(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        assert f"Port {port}" in told(start(tmp_path, PREFIX_STUDIO_PORT=port), 2)
    assert not (tmp_path / "studio.db").exists()


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:7860"), ("0.0.0.0", "http://127.0.0.1:7860"), ("::1", "http://[::1]:7860")],
)
def test_url_can_be_opened_on_this_machine(settings: Settings, host: str, url: str) -> None:
    assert page_url(Settings(**{**vars(settings), "host": host})) == url
