"""Which roles are up, as far as the web role can tell without asking for long."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

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


def _dispatcher(settings: Settings) -> dict[str, Any]:
    try:
        told = json.loads((settings.home / "run" / "dispatcher.json").read_text())
        age_s = time.time() - float(told["at"])
    except FileNotFoundError:
        return {"state": "starting"}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "stopped"}
    state = "ready" if age_s < BEAT_LIMIT_S else "stopped"
    return {"state": state, "running": len(told.get("running") or []), "beat_age_s": round(age_s, 1)}


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
