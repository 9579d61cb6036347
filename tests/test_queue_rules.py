"""The queue's rules, in whatever order users, trainers and deaths come; a plain model says what must hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from storage.checkpoints import add_checkpoint, list_checkpoints
from storage.jobs import (
    delete_job,
    duplicate_job,
    events_after,
    list_jobs,
    pause_job,
    queued_jobs,
    request_stop,
    resume_job,
    retry_job,
)
from storage.lease import DiscardedError, Lease, NewEvent, Progress
from storage.lease_watch import LeaseWatch
from storage.order import PRIORITIES, move_job, set_priority, start_after
from storage.queue import claim_next, has_queued
from storage.schema.job import JobStatus, StartCondition, StopRequest
from storage.schema.prefix import Prefix
from tests.queue_driver import ENDS, LEASE_S, QueueDriver
from tests.queue_model import ENDED
from tests.stored import add_job

WAITING = (JobStatus.QUEUED, JobStatus.PAUSED)
NOTHING = (None, None)


class QueueRules(QueueDriver):
    """What users, trainers and deaths do, in any order, and what holds after each of it."""

    @initialize(data=st.data(), priorities=st.lists(st.sampled_from(PRIORITIES), max_size=4))
    def submit_some(self, data: st.DataObject, priorities: list[int]) -> None:
        """Each with its priority, and waiting for the one before it or for nothing."""
        before = None
        for priority in priorities:
            with self.database.write() as session:
                job_id = add_job(session).id
                set_priority(session, job_id, priority)
                self.model.add(job_id)
                self.model.jobs[job_id].priority = priority
                if before and (when := data.draw(st.sampled_from([None, *StartCondition]))):
                    start_after(session, job_id, before, when)
                    self.model.jobs[job_id].after = (before, when.value)
            before = job_id

    @rule()
    def submit(self) -> None:
        with self.database.write() as session:
            self.model.add(add_job(session).id)

    @rule(count=st.integers(1, 3))
    def claim(self, count: int) -> None:
        for _ in range(count):
            job_id = next(iter(self.model.startable()), None)
            with self.database.write() as session:
                lease = claim_next(session, "trainer")
            if job_id is None:
                assert lease is None
                continue
            job = self.model.jobs[job_id]
            job.attempt += 1
            job.after = None
            job.enter(JobStatus.RUNNING)
            assert lease == Lease(job_id, job.attempt)
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        lease, is_live = self.a_lease(data)
        told: list[StopRequest | None] = []
        self.write_as(lease, is_live, lambda session: told.append(lease.renew(session)))
        assert told == ([self.model.jobs[lease.job_id].asked] if is_live else [])

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), step=st.integers(1, 9), checkpoints=st.booleans())
    def record(self, data: st.DataObject, step: int, checkpoints: bool) -> None:
        lease, is_live = self.a_lease(data)
        path = f"{lease.attempt}-{step}"

        def write(session: Any) -> None:
            lease.record(session, [NewEvent("step", {"loss": 1.0}, step)], Progress(step=step, metrics={"loss": 1.0}))
            if checkpoints:
                add_checkpoint(session, lease, step=step, path=Path(path), sha256="a" * 64, size_bytes=1)

        self.write_as(lease, is_live, write)
        if is_live:
            self.model.jobs[lease.job_id].steps.append((lease.attempt, step))
            self.model.jobs[lease.job_id].checkpoints += [path] if checkpoints else []

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), end=st.sampled_from(sorted(ENDS)))
    def end(self, data: st.DataObject, end: str) -> None:
        lease, is_live = self.a_lease(data)
        if is_live and end == "succeeded" and self.model.jobs[lease.job_id].asked == StopRequest.DISCARD:
            with pytest.raises(DiscardedError, match="discarded by its user"), self.database.write() as session:
                ENDS[end](lease, session)
            return
        self.write_as(lease, is_live, lambda session: ENDS[end](lease, session))
        if is_live:
            self.model.jobs[lease.job_id].enter(JobStatus(end))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        lease, is_live = self.a_lease(data)
        told: list[JobStatus] = []
        self.write_as(lease, is_live, lambda session: told.append(lease.lose(session, "it was killed")))
        assert told == ([self.model.jobs[lease.job_id].lose()] if is_live else [])

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def let_a_lease_pass(self, data: st.DataObject) -> None:
        """Of those that run some renew all the time, the others are stopped; exactly these lose their jobs."""
        live = [lease for lease in self.leases if self.model.is_live(lease.job_id, lease.attempt)]
        renewing = data.draw(st.sets(st.sampled_from(live))) if live else set()
        taken = {}
        for _ in range(5):
            with self.database.write() as session:
                for lease in renewing:
                    lease.renew(session)
            self.seconds += LEASE_S / 4
            self.watch.look(self.database)
            taken.update(self.watch.take_back(self.database))
        assert taken == {lease: self.model.jobs[lease.job_id].lose() for lease in live if lease not in renewing}

    @rule()
    def restart_the_dispatcher(self) -> None:
        self.watch = LeaseWatch(LEASE_S, lambda: self.seconds)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), keep=st.booleans())
    def stop(self, data: st.DataObject, keep: bool) -> None:
        job_id = self.a_job(data, JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.PAUSED)
        job = self.model.jobs[job_id]
        is_running = job.status == JobStatus.RUNNING
        is_allowed = is_running or (not keep and job.status not in ENDED)
        self.as_user(is_allowed, lambda session: request_stop(session, job_id, keep=keep))
        if is_running:
            job.asked = StopRequest.KEEP if keep else StopRequest.DISCARD
        elif is_allowed:
            job.checkpoints.clear()
            job.enter(JobStatus.CANCELLED)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        job_id = self.a_job(data, JobStatus.RUNNING, JobStatus.QUEUED)
        job = self.model.jobs[job_id]
        self.as_user(job.status in (JobStatus.RUNNING, JobStatus.QUEUED), lambda session: pause_job(session, job_id))
        if job.status == JobStatus.RUNNING:
            job.asked = StopRequest.PAUSE
        elif job.status == JobStatus.QUEUED:
            job.enter(JobStatus.PAUSED)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), call=st.sampled_from([resume_job, retry_job]))
    def queue_again(self, data: st.DataObject, call: Callable[[Any, str], object]) -> None:
        from_states = (JobStatus.PAUSED,) if call is resume_job else (JobStatus.FAILED, JobStatus.CANCELLED)
        job_id = self.a_job(data, *from_states)
        is_allowed = self.model.jobs[job_id].status in from_states
        self.as_user(is_allowed, lambda session: call(session, job_id))
        if is_allowed:
            self.model.jobs[job_id].queue_again()
            self.model.to_the_end(job_id)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), place=st.integers(-1, 5))
    def move(self, data: st.DataObject, place: int) -> None:
        job_id = self.a_job(data, JobStatus.QUEUED)
        is_allowed = self.model.jobs[job_id].status == JobStatus.QUEUED
        self.as_user(is_allowed, lambda session: move_job(session, job_id, place))
        if is_allowed:
            self.model.move(job_id, place)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), priority=st.sampled_from(PRIORITIES))
    def prefer(self, data: st.DataObject, priority: int) -> None:
        job_id = self.a_job(data, *WAITING)
        is_allowed = self.model.jobs[job_id].status in WAITING
        self.as_user(is_allowed, lambda session: set_priority(session, job_id, priority))
        if is_allowed:
            self.model.jobs[job_id].priority = priority

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), when=st.sampled_from(StartCondition))
    def wait_for(self, data: st.DataObject, when: StartCondition) -> None:
        job_id = self.a_job(data, *WAITING)
        ended = [other for other, job in self.model.jobs.items() if job.status in ENDED]
        waiting = [other for other, job in self.model.jobs.items() if job.after]
        on_this = [other for other in waiting if (self.model.jobs[other].after or ("",))[0] == job_id]
        groups = [group for group in (ended, waiting, on_this, list(self.model.jobs)) if group]
        other_id = data.draw(st.one_of(st.none(), *map(st.sampled_from, groups)))
        after = None if other_id is None else (other_id, when.value)
        is_allowed = self.model.jobs[job_id].status in WAITING and (not after or self.model.may_wait(job_id, after))
        self.as_user(is_allowed, lambda session: start_after(session, job_id, other_id, when))
        if is_allowed:
            self.model.jobs[job_id].after = after

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        job_id = self.a_job(data)
        with self.database.write() as session:
            self.model.add(duplicate_job(session, job_id).id)

    @precondition(lambda self: len(self.model.jobs) > 2)
    @rule(data=st.data(), is_awaited=st.booleans())
    def delete(self, data: st.DataObject, is_awaited: bool) -> None:
        awaited = [job.after[0] for job in self.model.jobs.values() if job.after and job.after[0] in self.model.jobs]
        job_id = data.draw(st.sampled_from(awaited)) if is_awaited and awaited else self.a_job(data)
        is_allowed = self.model.jobs[job_id].status != JobStatus.RUNNING
        self.as_user(is_allowed, lambda session: delete_job(session, job_id))
        if is_allowed:
            self.model.delete(job_id)

    @invariant()
    def jobs_are_where_they_should_be(self) -> None:
        with self.database.read() as session:
            assert has_queued(session) == bool(self.model.startable())
            found = list_jobs(session)
            queue = [job.id for job in queued_jobs(session)]
        assert {job.id for job in found} == set(self.model.jobs)
        assert queue == self.model.queued()
        for job in found:
            expected = self.model.jobs[job.id]
            assert (job.status, job.attempt) == (expected.status, expected.attempt)
            assert (job.lost_attempts, job.stop_request) == (expected.lost, expected.asked)
            assert (job.priority, job.starts_after, job.starts_when) == (
                expected.priority,
                *(expected.after or NOTHING),
            )
            assert (job.lease_holder is not None) == (job.status == JobStatus.RUNNING)
            assert (job.finished_at is not None) == (job.status in ENDED)
            assert (job.error is not None) == (job.status == JobStatus.FAILED)
            assert (job.prefix_id is not None) == (job.status == JobStatus.SUCCEEDED)

    @invariant()
    def nothing_acknowledged_is_lost_and_nothing_refused_is_kept(self) -> None:
        with self.database.read() as session:
            published = list(session.scalars(select(Prefix.job_id)))
            for job_id, job in self.model.jobs.items():
                events = events_after(session, job_id)
                assert [event.data["status"] for event in events if event.kind == "state"] == job.states
                assert [(event.attempt, event.step) for event in events if event.kind == "step"] == job.steps
                assert [row.path for row in list_checkpoints(session, job_id)] == job.checkpoints[::-1]
        of_jobs = [job_id for job_id in published if job_id in self.model.jobs]
        succeeded = [job_id for job_id, job in self.model.jobs.items() if job.status == JobStatus.SUCCEEDED]
        assert sorted(of_jobs) == sorted(succeeded)


def test_queue_keeps_its_rules_in_any_order_of_events(migrated_database: Path) -> None:
    # A story that fails is told as it was found: making it short would take longer than a test may.
    bounded = hypothesis_settings(
        max_examples=20,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(lambda: QueueRules(migrated_database), settings=bounded)
