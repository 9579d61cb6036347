"""A disk that fills up under a job: what was to be kept waits for room, and for its user."""

import time
from collections.abc import Callable

from storage.disk import DiskFullError
from worker.training.mandate import Outcome
from worker.training.recorder import Recorder

WAIT_FOR_ROOM_S = 600.0
PAUSE_S = 1.0


def once_there_is_room(
    act: Callable[[], object], recorder: Recorder, ended_by: Callable[[], Outcome | None], *, keeping: str
) -> Outcome | None:
    """Does what takes room; on a full disk it says so and tries again, unless someone wishes otherwise meanwhile.

    Args:
        act: Leaves things as they were where it finds no room.
        recorder: Told what is waited for.
        ended_by: A wish that ends the wait.
        keeping: What is to be kept, such as "the answers".

    Returns:
        The wish that ended the wait, or None once it is done.

    Raises:
        DiskFullError: There was no room for too long; a retry goes on from what was kept last.
    """
    deadline = time.monotonic() + WAIT_FOR_ROOM_S
    while True:
        try:
            act()
            return None
        except DiskFullError:
            if time.monotonic() > deadline:
                raise
        recorder.progress(eta_s=0.0)
        recorder.stage(f"The disk is full: waiting for room to keep {keeping}")
        time.sleep(PAUSE_S)
        if (wish := ended_by()) is not None:
            return wish
