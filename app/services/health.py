"""Which roles are up, as far as the web role can tell without asking for long."""

import json
import time
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
    return {"web": {"state": "ready"}, "dispatcher": _dispatcher(settings), "inference": inference_state(settings)}


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


def _dispatcher(settings: Settings) -> dict[str, Any]:
    try:
        told = json.loads((settings.home / "run" / "dispatcher.json").read_text())
        age_s = time.time() - float(told["at"])
    except FileNotFoundError:
        return {"state": "starting"}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "stopped"}
    state = "ready" if age_s < BEAT_LIMIT_S else "stopped"
    fault = {"fault": told["fault"]} if told.get("fault") else {}
    return {"state": state, "running": len(told.get("running") or []), "beat_age_s": round(age_s, 1), **fault}


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
