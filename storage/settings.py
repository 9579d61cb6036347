"""Every setting, read once from the environment into a frozen dataclass."""

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.errors import SettingsError

OWNER = "local"
"""The one user there is for now; every row of the database names its owner."""

MAX_UPLOAD_BYTES = 1_000_000_000
MAX_NAME_CHARACTERS = 80
MAX_COLUMNS_COMPARED = 6
MAX_SECONDS = 86_400
MAX_KEPT_CHECKPOINTS = 100


@dataclass(frozen=True)
class Settings:
    """What the roles are told from outside.

    Attributes:
        home: Folder of everything that is kept, created with mode 0700.
        database_url: SQLAlchemy URL of the database.
        artifacts: Folder (or fsspec URL) of the content-addressed files.
        models: Folder of local base models, one sub-folder each; None where there is none.
        host: Address that the web role binds.
        port: Port of the web role; the inference role takes a free one and tells the launcher.
        token: Access token of page and API; None leaves the loopback open.
        max_upload_bytes: Cap of one upload.
        lease_s: How long a job's lease lasts without a heartbeat.
        checkpoint_every_s: How much of a training a killed trainer may lose.
        busy_timeout_s: How long a writer waits for the database's lock before it is told to come again.
        kept_checkpoints: How many checkpoints of a job stay when it has succeeded.
    """

    home: Path
    database_url: str
    artifacts: str
    models: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    lease_s: float = 60.0
    checkpoint_every_s: float = 15.0
    busy_timeout_s: float = 10.0
    kept_checkpoints: int = 0

    @property
    def inference_file(self) -> Path:
        """Where the inference role writes its URL once it listens (mode 0600)."""
        return self.home / "run" / "inference.json"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings of this process.

    Args:
        environment: The variables to read; the process's own by default.

    Raises:
        SettingsError: A value cannot be used, or names a backend that is not built yet.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("PREFIX_STUDIO_HOME") or Path.home() / ".prefix-studio").expanduser().absolute()
    database_url = env.get("PREFIX_STUDIO_DATABASE_URL") or f"sqlite:///{home / 'studio.db'}"
    artifacts = env.get("PREFIX_STUDIO_ARTIFACTS") or str(home / "artifacts")
    models = env.get("PREFIX_STUDIO_MODELS")
    settings = Settings(
        home=home,
        database_url=database_url,
        artifacts=artifacts,
        models=Path(models).expanduser().absolute() if models else None,
        host=env.get("PREFIX_STUDIO_HOST") or "127.0.0.1",
        port=_read_port(env.get("PREFIX_STUDIO_PORT") or "7860"),
        token=env.get("PREFIX_STUDIO_TOKEN") or None,
        lease_s=_read_seconds(env, "PREFIX_STUDIO_LEASE_S", Settings.lease_s),
        checkpoint_every_s=_read_seconds(env, "PREFIX_STUDIO_CHECKPOINT_EVERY_S", Settings.checkpoint_every_s),
        busy_timeout_s=_read_seconds(env, "PREFIX_STUDIO_BUSY_TIMEOUT_S", Settings.busy_timeout_s),
        kept_checkpoints=_read_count(env, "PREFIX_STUDIO_KEPT_CHECKPOINTS", Settings.kept_checkpoints),
    )
    _refuse_unbuilt(settings, env.get("PREFIX_STUDIO_EXECUTOR") or "local")
    if settings.token is not None and not (settings.token.isascii() and settings.token.isprintable()):
        raise SettingsError(
            "PREFIX_STUDIO_TOKEN holds characters that no header can carry; expected printable ASCII. Choose another."
        )
    if settings.token is None and not is_loopback(settings.host):
        raise SettingsError(
            f"PREFIX_STUDIO_HOST is {settings.host}, which other machines can reach, and there is no access token. "
            "Set PREFIX_STUDIO_TOKEN to a long secret, or bind 127.0.0.1."
        )
    return settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"PREFIX_STUDIO_PORT is {text!r}; expected a number from 1 to 65535.")
    return int(text)


def _read_seconds(env: Mapping[str, str], name: str, usual: float) -> float:
    text = env.get(name) or str(usual)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise SettingsError(f"{name} is {text!r}; expected seconds, more than 0 and at most {MAX_SECONDS:,}.")
    return seconds


def _read_count(env: Mapping[str, str], name: str, usual: int) -> int:
    text = env.get(name) or str(usual)
    if not (text.isascii() and text.isdecimal() and int(text) <= MAX_KEPT_CHECKPOINTS):
        raise SettingsError(f"{name} is {text!r}; expected a number from 0 to {MAX_KEPT_CHECKPOINTS}.")
    return int(text)


def _refuse_unbuilt(settings: Settings, executor: str) -> None:
    if executor != "local":
        raise SettingsError(f"PREFIX_STUDIO_EXECUTOR is {executor!r}; only 'local' is built yet. Leave it unset.")
    if not settings.database_url.startswith("sqlite:///"):
        raise SettingsError(
            "PREFIX_STUDIO_DATABASE_URL names a database other than SQLite, which is not supported yet. Leave it unset."
        )
    if "://" in settings.artifacts:
        raise SettingsError("PREFIX_STUDIO_ARTIFACTS is a URL; only a local folder is supported yet. Give a path.")
