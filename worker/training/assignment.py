"""What a trainer is told to do: one attempt of one job, written `JOB:ATTEMPT`."""

import re
from dataclasses import dataclass

PATTERN = re.compile(r"([0-9a-zA-Z]{1,64}):([0-9]{1,9})")


@dataclass(frozen=True)
class Assignment:
    """One attempt of a job.

    Attributes:
        job_id: The job.
        attempt: The fencing token of the attempt.
    """

    job_id: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.job_id}:{self.attempt}"

    @classmethod
    def parse(cls, text: str) -> "Assignment":
        """Reads `JOB:ATTEMPT`.

        Raises:
            ValueError: It is not of that form.
        """
        match = PATTERN.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no assignment; expected JOB:ATTEMPT.")
        return cls(match[1], int(match[2]))
