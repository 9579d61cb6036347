"""The launcher: checks, migrates, starts the roles, keeps them running and stops them together."""

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import httpx

from app.home import ALL_ROLES, check_port, claim_home, prepare_home
from storage.children import spawn, stop
from storage.errors import SettingsError, StudioError
from storage.logs import set_up_logging
from storage.migrate import migrate
from storage.settings import Settings, read_settings

logger = logging.getLogger(__name__)

MODULES = {"web": "app.web", "dispatcher": "worker.dispatcher", "inference": "worker.inference.server"}
"""The module that each role runs as; started by name, so that the launcher imports none of them."""

PROJECT = Path(__file__).resolve().parents[1]
PAGE_TIMEOUT_S = 180.0
"""How long the page may take to come up: a minute is too little where others have all cores; a death shows at once."""

STOP_TIMEOUT_S = 20.0
POLL_S = 0.1
MAX_BACK_OFF_S = 30.0
HEALTHY_AFTER_S = 60.0


@dataclass
class Role:
    """A role and the process that runs it at the moment."""

    name: str
    child: Popen[bytes]
    started_at: float
    failures: int = 0
    restart_at: float | None = None


class Launcher:
    """Starts the roles and looks after them until it is asked to stop.

    Args:
        settings: Where to listen and what to keep where.
        asked_to_stop: Set by the signal handlers.
    """

    def __init__(self, settings: Settings, asked_to_stop: threading.Event) -> None:
        self.settings = settings
        self.asked_to_stop = asked_to_stop
        self.roles: list[Role] = []

    def run(self) -> int:
        """Runs until a signal comes; returns the exit code."""
        try:
            self._start("web")
            if not self._page_answers():
                return 0 if self.asked_to_stop.is_set() else 1
            print(f"Prefix Studio is ready at {page_url(self.settings)}", flush=True)
            # These two load torch, so they wait until the page is there.
            self._start("dispatcher")
            self._start("inference")
            while not self.asked_to_stop.wait(POLL_S):
                for role in self.roles:
                    self._look_after(role)
            return 0
        finally:
            stop([role.child for role in self.roles], timeout_s=STOP_TIMEOUT_S)

    def _start(self, name: str) -> None:
        self.roles.append(Role(name, _spawn_role(name), time.monotonic()))

    def _page_answers(self) -> bool:
        web = self.roles[0].child
        headers = {"Authorization": f"Bearer {self.settings.token}"} if self.settings.token else {}
        deadline = time.monotonic() + PAGE_TIMEOUT_S
        while time.monotonic() < deadline and not self.asked_to_stop.wait(POLL_S):
            if web.poll() is not None:
                print("The web role ended before its page answered; the lines above say why.", file=sys.stderr)
                return False
            try:
                httpx.get(page_url(self.settings) + "/healthz", headers=headers, timeout=5.0, trust_env=False)
                return True
            except httpx.TransportError:
                continue
        if not self.asked_to_stop.is_set():
            print(f"The page did not answer within {PAGE_TIMEOUT_S:.0f} seconds, so all is stopped.", file=sys.stderr)
        return False

    def _look_after(self, role: Role) -> None:
        """Starts a dead role again, after a pause that doubles with every early death."""
        now = time.monotonic()
        if role.restart_at is not None:
            if now >= role.restart_at:
                role.child, role.started_at, role.restart_at = _spawn_role(role.name), now, None
            return
        code = role.child.poll()
        if code is None:
            return
        role.failures = 0 if now - role.started_at > HEALTHY_AFTER_S else role.failures + 1
        pause_s = min(MAX_BACK_OFF_S, 0.5 * 2**role.failures)
        role.restart_at = now + pause_s
        logger.warning("the %s role ended with code %s; it starts again in %.1f s", role.name, code, pause_s)


def page_url(settings: Settings) -> str:
    """The address to open in a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{settings.port}"


def main(arguments: list[str] | None = None) -> int:
    """Starts what the command line names; returns the exit code, with any fault told in one sentence."""
    wanted = sys.argv[1:] if arguments is None else arguments
    role = wanted[0] if wanted else ALL_ROLES
    if len(wanted) > 1 or role not in (ALL_ROLES, *MODULES):
        print(f"{' '.join(wanted)!r} is not a role; expected nothing, or one of {', '.join(MODULES)}.", file=sys.stderr)
        return 2
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    # The roles find the packages wherever the command was given.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    try:
        settings = _prepare(role)
    except StudioError as error:
        print(error.message, file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    if role != ALL_ROLES:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", MODULES[role]])
    return Launcher(settings, asked_to_stop).run()


def _prepare(role: str) -> Settings:
    settings = read_settings()
    set_up_logging("launcher")
    # It tells each of its steps; the one line of storage.migrate says what happened.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    prepare_home(settings.home)
    claim_home(settings.home, role)
    if role in (ALL_ROLES, "web"):
        check_port(settings.host, settings.port)
    migrate(settings)
    if role == ALL_ROLES:
        # What roles that were killed left behind would pass for their state.
        for name in ("inference.json", "dispatcher.json"):
            (settings.home / "run" / name).unlink(missing_ok=True)
    return settings


def _spawn_role(name: str) -> Popen[bytes]:
    return spawn([sys.executable, "-m", MODULES[name]])
