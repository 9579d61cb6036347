"""Starts child processes that end together with the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

PR_SET_PDEATHSIG = 1
POLL_S = 0.05
PARENT_NAME = "PREFIX_STUDIO_PARENT"
LOOK_S = 1.0

Stream = int | IO[bytes] | None


def spawn(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own, which gets SIGTERM when this process ends.

    Call it from the main thread: Linux sends the signal when the *thread* that started the child ends.

    Args:
        arguments: The command, one entry an argument; no shell reads it.
        environment: Variables set beside this process's own.
        stdin: Where the child reads from; nothing by default.
        stdout: Where it writes to; this process's own by default.
        stderr: The same for its errors.
    """
    return subprocess.Popen(
        list(arguments),
        env={**os.environ, **(environment or {}), PARENT_NAME: str(os.getpid())},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )


def end_with_parent(look_s: float = LOOK_S) -> None:
    """Sends this process SIGTERM once the one that started it by `spawn` is gone; to be called once it hears signals.

    Linux does so by itself and at once. Other systems tell a child nothing, which then sees by who its parent is now.

    Args:
        look_s: Seconds between two looks.
    """
    started_by, parent = os.environ.get(PARENT_NAME), os.getppid()
    if started_by is None:
        return
    # Process 1 takes over orphans; in a container it may be the parent itself. Any other may stand in between.
    is_orphan = parent == 1 and started_by != "1"

    def watch() -> None:
        while not is_orphan and os.getppid() == parent:
            time.sleep(look_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def stop(children: Sequence[subprocess.Popen[bytes]], *, timeout_s: float) -> None:
    """Ends children: SIGTERM to all at once, SIGKILL to the groups of those that are left after `timeout_s`."""
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(child.poll() is None for child in children):
        time.sleep(POLL_S)
    for child in children:
        if child.poll() is None:
            _signal_group(child, signal.SIGKILL)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if child.poll() is None:
        child.send_signal(number)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        child.send_signal(number)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
