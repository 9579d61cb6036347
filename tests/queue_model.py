"""What the queue should do, said once more in plain Python: no database, no statements, no processes."""

from dataclasses import dataclass, field

from storage.queue import MAX_LOST_ATTEMPTS
from storage.schema.job import JobStatus, StopRequest

ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


@dataclass
class ModelJob:
    """One job, and everything about it that was acknowledged."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 0
    lost: int = 0
    asked: StopRequest | None = None
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
        return [job_id for job_id in self.places if self.jobs[job_id].status == JobStatus.QUEUED]

    def to_the_end(self, job_id: str) -> None:
        self.places.remove(job_id)
        self.places.append(job_id)

    def move(self, job_id: str, place: int) -> None:
        """Only those that wait change places among themselves."""
        seats = [index for index, other in enumerate(self.places) if self.jobs[other].status == JobStatus.QUEUED]
        order = [other for other in self.queued() if other != job_id]
        order.insert(min(max(place, 0), len(order)), job_id)
        for seat, other in zip(seats, order, strict=True):
            self.places[seat] = other

    def delete(self, job_id: str) -> None:
        del self.jobs[job_id]
        self.places.remove(job_id)
        self.gone.add(job_id)

    def is_live(self, job_id: str, attempt: int) -> bool:
        job = self.jobs.get(job_id)
        return job is not None and job.status == JobStatus.RUNNING and job.attempt == attempt
