"""Which roles are up, as far as the web role can tell without asking for long."""

import json
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from storage.disk import lack_of_room
from storage.settings import Settings

BEAT_LIMIT_S = 15.0
PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class InferenceAddress:
    """How to reach the inference role of this machine.

    Attributes:
        url: Its root, without a slash at the end.
        secret: What it wants to see as a bearer token.
    """

    url: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a call to it."""
        return {"Authorization": f"Bearer {self.secret}"}


def read_address(settings: Settings) -> InferenceAddress | None:
    """Where the inference role listens; None until it has written it down."""
    try:
        told = json.loads(settings.inference_file.read_text())
        return InferenceAddress(str(told["url"]).rstrip("/"), str(told["secret"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def roles(settings: Settings) -> dict[str, Any]:
    """The state of every role: `ready`, `starting` or `stopped`."""
    dispatcher = {name: value for name, value in _dispatcher(settings).items() if name != "waits"}
    return {"web": {"state": "ready"}, "dispatcher": dispatcher, "inference": inference_state(settings)}


def queue_notice(settings: Settings) -> str | None:
    """Why no job moves on at the moment, for the people who wait for theirs; None where nothing is wrong."""
    if fault := lack_of_room(settings):
        return fault
    found = _dispatcher(settings)
    if found["state"] == "stopped":
        return (
            "No job starts at the moment, because the dispatcher does not answer. It is started again by itself; "
            "if this stays here for minutes, its log says why."
        )
    return str(found["fault"]) if found.get("fault") else None


class HoldUps:
    """Why jobs whose turn it is do not start, as far as it is known.

    Args:
        settings: Of the home folder that dispatcher and jobs live in.
    """

    def __init__(self, settings: Settings) -> None:
        found = _dispatcher(settings)
        self._of_all: str | None = None
        if lack_of_room(settings):
            self._of_all = "Waits for room on the disk, of which next to none is left. It starts once some is freed."
        elif found["state"] == "stopped":
            self._of_all = "Waits for the dispatcher, which does not answer at the moment and is started again."
        elif found.get("fault"):
            self._of_all = f"Waits until work can go on. {found['fault']}"
        self._waits: dict[str, str] = found.get("waits", {})

    def sentence(self, job_id: str) -> str | None:
        """Why a queued job that waits for no other does not start; None where nothing but its turn is to come."""
        return self._of_all or self._waits.get(job_id)

    def tell(self, bodies: Iterable[dict[str, Any]], queue: Collection[str]) -> None:
        """Adds `waits_because` to jobs.

        Args:
            bodies: Jobs as REST answers with them.
            queue: Ids of those whose turn comes by itself.
        """
        for body in bodies:
            body["waits_because"] = self.sentence(body["id"]) if body["id"] in queue else None


def _dispatcher(settings: Settings) -> dict[str, Any]:
    try:
        told = json.loads((settings.home / "run" / "dispatcher.json").read_text())
        age_s = time.time() - float(told["at"])
    except FileNotFoundError:
        return {"state": "starting"}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "stopped"}
    state = "ready" if age_s < BEAT_LIMIT_S else "stopped"
    more = {name: told[name] for name in ("fault", "waits") if told.get(name)}
    return {"state": state, "running": len(told.get("running") or []), "beat_age_s": round(age_s, 1), **more}


def inference_state(settings: Settings) -> dict[str, Any]:
    """The state of the inference role, and what it says of itself."""
    address = read_address(settings)
    if address is None:
        return {"state": "starting"}
    try:
        with httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT_S) as client:
            answer = client.get(f"{address.url}/healthz", headers=address.headers)
            told = answer.json() if answer.is_success else {}
    except (httpx.HTTPError, ValueError):
        return {"state": "stopped"}
    more = {name: told[name] for name in ("device", "device_name", "loaded") if name in told}
    return {"state": "ready" if answer.is_success else "stopped", **more}
