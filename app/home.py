"""What must hold before anything starts: a private home folder, one instance on it, room on its disk, a free port."""

import fcntl
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from storage.errors import SettingsError

MIN_FREE_BYTES = 200_000_000
ALL_ROLES = "all"


@dataclass(frozen=True)
class HomeLock:
    """The claim on a home folder; it lasts as long as the process, or what it turns into, keeps the files open."""

    descriptors: tuple[int, ...]

    def release(self) -> None:
        """Gives the folder back."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def prepare_home(home: Path) -> None:
    """Creates the home folder, which only its owner can read.

    Raises:
        SettingsError: It cannot be created or written, or its disk is full.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        (home / "run").mkdir(mode=0o700, exist_ok=True)
        free_bytes = shutil.disk_usage(home).free
    except OSError as error:
        raise SettingsError(
            f"The home folder {home} cannot be used ({error.strerror or error}). "
            "Give a folder that you may write in PREFIX_STUDIO_HOME."
        ) from error
    if free_bytes < MIN_FREE_BYTES:
        raise SettingsError(
            f"The disk of {home} has {free_bytes / 1e6:,.0f} MB left; Prefix Studio needs "
            f"{MIN_FREE_BYTES / 1e6:,.0f} MB to start. Free some room, or give another folder in PREFIX_STUDIO_HOME."
        )


def claim_home(home: Path, role: str = ALL_ROLES) -> HomeLock:
    """Claims the home folder for this process.

    All roles together exclude every other instance; a single role excludes its like and an instance of all roles.

    Raises:
        SettingsError: Another instance holds it, with that one's process id.
    """
    everything = home / "run" / "studio.lock"
    if role == ALL_ROLES:
        return HomeLock((_lock(everything, fcntl.LOCK_EX, home),))
    shared = _lock(everything, fcntl.LOCK_SH, home)
    try:
        return HomeLock((shared, _lock(home / "run" / f"{role}.lock", fcntl.LOCK_EX, home)))
    except SettingsError:
        os.close(shared)
        raise


def check_port(host: str, port: int) -> None:
    """Refuses a port that something else listens on.

    Raises:
        SettingsError: The port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(
            f"Port {port} on {host} cannot be used ({error.strerror or error}). Stop what listens there, "
            "or give another port in PREFIX_STUDIO_PORT."
        ) from error


def _lock(path: Path, kind: int, home: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip()
        os.close(descriptor)
        raise SettingsError(
            f"Prefix Studio already runs on {home} (process {holder or 'unknown'}). Use its page, stop it first, "
            "or give another folder in PREFIX_STUDIO_HOME."
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    # A single role replaces this process (exec); the claim goes on with it.
    os.set_inheritable(descriptor, True)
    return descriptor
