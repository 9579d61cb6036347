"""Leases: an attempt is lost when its watch has seen it silent for long enough, whatever the time of day is."""

import inspect
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from storage.database import Database
from storage.jobs import events_after, get_job, request_stop
from storage.lease import MAX_LOST_ATTEMPTS, Lease, LeaseLostError, NewEvent, Progress
from storage.lease_watch import GONE, LeaseWatch, is_abandoned
from storage.schema.base import now
from storage.schema.job import Job, JobStatus, StopRequest
from storage.settings import Settings
from storage.sweep import Sweeper
from tests.paper_trainer import LOST
from tests.stored import add_job, claim
from worker.dispatcher import Dispatcher

ROOT = Path(__file__).parents[1]
LEASE_S = 60.0
LOOK_S = 10.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Watched:
    """A running job, a watch on it, and its clock."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = Clock()
        self.watch = LeaseWatch(LEASE_S, self.clock)
        with database.write() as session:
            self.job_id = add_job(session).id
        self.lease = claim(database)
        self.look()

    def look(self) -> list[tuple[Lease, JobStatus]]:
        self.watch.look(self.database)
        return self.watch.take_back(self.database)

    def watch_for(self, seconds: float) -> list[tuple[Lease, JobStatus]]:
        """Looks every ten seconds; what was taken, in order."""
        taken = []
        for _ in range(round(seconds / LOOK_S)):
            self.clock.seconds += LOOK_S
            taken += self.look()
        return taken

    def job(self) -> Job:
        with self.database.read() as session:
            return get_job(session, self.job_id)

    def renew(self) -> StopRequest | None:
        with self.database.write() as session:
            return self.lease.renew(session)


@pytest.fixture
def watched(database: Database) -> Watched:
    return Watched(database)


def test_silent_attempt_is_lost_after_its_lease_and_keeps_its_place(watched: Watched) -> None:
    with watched.database.write() as session:
        add_job(session, name="later")
    assert watched.watch_for(50) == []
    assert watched.watch_for(10) == [(watched.lease, JobStatus.QUEUED)]
    assert watched.job().lost_attempts == 1
    assert claim(watched.database) == Lease(watched.job_id, 2)


def test_attempt_that_renews_is_never_lost(watched: Watched) -> None:
    for _ in range(5):
        assert watched.watch_for(50) == []
        watched.renew()
    assert watched.job().status == JobStatus.RUNNING


def test_events_of_an_attempt_are_signs_of_life_too(watched: Watched) -> None:
    for step in range(5):
        assert watched.watch_for(50) == []
        with watched.database.write() as session:
            watched.lease.record(session, [NewEvent("step", {"loss": 1.0}, step)], Progress(step=step))


def test_renew_tells_what_was_asked(watched: Watched) -> None:
    assert watched.renew() is None
    with watched.database.write() as session:
        request_stop(session, watched.job_id, keep=True)
    assert watched.renew() == StopRequest.KEEP


@pytest.mark.parametrize("days", [-1, 1])
def test_wall_clock_that_jumps_a_day_loses_no_lease_and_keeps_none(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    monkeypatch.setattr("storage.lease.now", lambda: now() + timedelta(days=days))
    watched.renew()
    assert watched.watch_for(50) == []
    monkeypatch.setattr("storage.lease.now", now)
    watched.renew()
    assert watched.watch_for(60) == []
    assert watched.watch_for(10) == [(watched.lease, JobStatus.QUEUED)]


@pytest.mark.parametrize("watcher", [LeaseWatch, Sweeper, Dispatcher])
def test_whoever_watches_goes_by_a_clock_that_nobody_can_set(watcher: type) -> None:
    assert inspect.signature(watcher).parameters["clock"].default is time.monotonic


def test_watch_that_was_stopped_itself_gives_the_attempt_time_to_answer(watched: Watched) -> None:
    watched.watch_for(20)
    watched.clock.seconds += 86_400
    assert watched.look() == []
    watched.renew()
    assert watched.watch_for(60) == []


def test_watch_that_starts_anew_gives_the_whole_lease_again(watched: Watched) -> None:
    watched.watch_for(50)
    watched.watch = LeaseWatch(LEASE_S, watched.clock)
    watched.look()
    assert watched.watch_for(50) == []
    assert watched.watch_for(10) == [(watched.lease, JobStatus.QUEUED)]


def test_next_attempt_starts_with_a_whole_lease(watched: Watched) -> None:
    watched.watch_for(50)
    with watched.database.write() as session:
        watched.lease.release(session)
    assert claim(watched.database).attempt == 2
    assert watched.watch_for(60) == []


def test_renewal_between_the_look_and_the_taking_keeps_the_job(watched: Watched) -> None:
    watched.watch_for(50)
    watched.clock.seconds += LOOK_S
    assert watched.watch.look(watched.database) == [watched.lease]
    watched.renew()
    assert watched.watch.take_back(watched.database) == []
    assert watched.job().status == JobStatus.RUNNING


def test_attempt_whose_process_is_gone_is_taken_at_once(watched: Watched, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from storage.lease_watch import hold\n"
            "hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()",
            str(tmp_path),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert not is_abandoned(tmp_path)  # nobody has held it yet
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        watched.watch = LeaseWatch(LEASE_S, watched.clock, is_gone=lambda lease: is_abandoned(tmp_path))
        assert watched.look() == []
        holder.kill()
        holder.wait()
    assert watched.look() == [(watched.lease, JobStatus.QUEUED)]
    with watched.database.read() as session:
        assert events_after(session, watched.job_id)[-1].data["reason"] == GONE


def test_job_whose_trainers_fall_silent_is_set_aside_with_where_it_stood(watched: Watched) -> None:
    with watched.database.write() as session:
        add_job(session, name="next in line")
    for attempt in range(1, MAX_LOST_ATTEMPTS + 1):
        with watched.database.write() as session:
            Lease(watched.job_id, attempt).record(session, [], Progress(step=12))
        watched.watch_for(70)
        if attempt < MAX_LOST_ATTEMPTS:
            claim(watched.database)
    error = watched.job().error
    assert error is not None
    assert error["code"] == "quarantined"
    assert "broke off 3 times, last in attempt 3 at step 12, because its process stopped answering" in error["message"]
    assert claim(watched.database).job_id != watched.job_id


def until(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.02)


def stops_without_the_lock(trainer: subprocess.Popen[bytes], settings: Settings) -> bool:
    """Stops the process; where that was in the middle of a write it goes on, to be stopped at another moment."""
    trainer.send_signal(signal.SIGSTOP)
    try:
        with closing(sqlite3.connect(settings.home / "studio.db", timeout=0.2, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        trainer.send_signal(signal.SIGCONT)
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_trainer_that_was_stopped_past_its_lease_writes_nothing_and_exits(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        job_id = add_job(session).id
    lease = claim(database)

    def step() -> int:
        with database.read() as session:
            return get_job(session, job_id).step

    trainer = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.paper_trainer",
            "--steps",
            "100000",
            "--lease-s",
            "0.5",
            "--assign",
            f"{job_id}:1",
        ],
        cwd=ROOT,
        env={**os.environ, "PREFIX_STUDIO_HOME": str(settings.home)},
    )
    try:
        until(lambda: step() > 2)
        until(lambda: stops_without_the_lock(trainer, settings))
        watch = LeaseWatch(0.5)
        until(lambda: watch.look(database) == [lease])
        assert watch.take_back(database) == [(lease, JobStatus.QUEUED)]
        second = claim(database)
        with database.write() as session:
            second.record(session, [], Progress(step=1))
        trainer.send_signal(signal.SIGCONT)
        assert trainer.wait(timeout=20) == LOST
    finally:
        trainer.kill()
        trainer.wait()
    with database.read() as session:
        job = get_job(session, job_id)
    assert (job.status, job.attempt, job.step) == (JobStatus.RUNNING, 2, 1)
    with pytest.raises(LeaseLostError, match="Attempt 1 of the job"), database.write() as session:
        lease.renew(session)
