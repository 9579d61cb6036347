"""What the queue should do, said once more in plain Python: no database, no statements, no processes."""

from dataclasses import dataclass, field

from storage.lease import MAX_LOST_ATTEMPTS
from storage.schema.job import JobStatus, StopRequest

ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass
class ModelJob:
    """One job, and everything about it that was acknowledged."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    lost: int = 0
    asked: StopRequest | None = None
    priority: int = 0
    after: tuple[str, str] | None = None
    states: list[str] = field(default_factory=lambda: ["queued"])
    steps: list[tuple[int, int]] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)

    def enter(self, status: JobStatus) -> None:
        self.status = status
        self.states.append(status.value)
        if status in ENDED or status == JobStatus.PAUSED:
            self.asked = None

    def lose(self) -> JobStatus:
        """The state after the death of its process."""
        self.lost += 1
        if self.asked == StopRequest.DISCARD:
            self.enter(JobStatus.CANCELLED)
        elif self.lost >= MAX_LOST_ATTEMPTS:
            self.enter(JobStatus.FAILED)
        else:
            self.enter(JobStatus.PAUSED if self.asked == StopRequest.PAUSE else JobStatus.QUEUED)
        return self.status

    def queue_again(self) -> None:
        if self.status == JobStatus.CANCELLED:
            self.checkpoints.clear()
        self.enter(JobStatus.QUEUED)
        self.asked, self.lost = None, 0


class ModelQueue:
    """Every job, in the order of their places; `gone` are those that were deleted."""

    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.places: list[str] = []
        self.gone: set[str] = set()

    def add(self, job_id: str) -> None:
        self.jobs[job_id] = ModelJob()
        self.places.append(job_id)

    def queued(self) -> list[str]:
        waiting = [job_id for job_id in self.places if self.jobs[job_id].status == JobStatus.QUEUED]
        return sorted(waiting, key=lambda job_id: -self.jobs[job_id].priority)

    def startable(self) -> list[str]:
        return [job_id for job_id in self.queued() if self.may_start(self.jobs[job_id].after)]

    def may_start(self, after: tuple[str, str] | None) -> bool:
        """Whether what a job waits for has happened; what was deleted never does."""
        if after is None:
            return True
        other, when = self.jobs.get(after[0]), after[1]
        return other is not None and other.status in (ENDED if when == "ended" else (JobStatus(when),))

    def may_wait(self, job_id: str, after: tuple[str, str]) -> bool:
        """Neither for what ended otherwise, nor in a circle."""
        other_id = after[0]
        if self.jobs[other_id].status in ENDED and not self.may_start(after):
            return False
        while other_id in self.jobs:
            if other_id == job_id:
                return False
            link = self.jobs[other_id].after
            if link is None:
                break
            other_id = link[0]
        return True

    def to_the_end(self, job_id: str) -> None:
        self.places.remove(job_id)
        self.places.append(job_id)

    def move(self, job_id: str, place: int) -> None:
        """Only those that wait change places among themselves."""
        seats = [index for index, other in enumerate(self.places) if self.jobs[other].status == JobStatus.QUEUED]
        order = [other for other in self.queued() if other != job_id]
        order.insert(min(max(place, 0), len(order)), job_id)
        neighbours = order[order.index(job_id) + 1 :][:1] or order[-2:-1]
        self.jobs[job_id].priority = self.jobs[neighbours[0] if neighbours else job_id].priority
        for seat, other in zip(seats, order, strict=True):
            self.places[seat] = other

    def delete(self, job_id: str) -> None:
        for job in self.jobs.values():
            if job.after and job.after[0] == job_id and (job.after[1] == "ended" or self.may_start(job.after)):
                job.after = None
        del self.jobs[job_id]
        self.places.remove(job_id)
        self.gone.add(job_id)

    def is_live(self, job_id: str, attempt: int) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.status == JobStatus.RUNNING and job.attempt == attempt
