"""Processes that contend for one database, forked from one that has done the imports so that many cost little.

`python -m tests.rivals claim URL COUNT` lets so many claim until no job is left; it prints `JOB ATTEMPT` of each claim.
`python -m tests.rivals end URL JOB ...` lets one process publish each running job at the moment at which another
discards it; each line says `JOB discarded` where that was acknowledged.
"""

import multiprocessing
import sys
from multiprocessing.synchronize import Barrier
from typing import Any

from storage.database import Database
from storage.errors import ConflictError
from storage.jobs import request_stop
from storage.lease import DiscardedError, Lease
from storage.queue import claim_next
from tests.stored import PREFIX_FIELDS

FORK = multiprocessing.get_context("fork")


def claim_all(url: str, start: Barrier, told: Any) -> None:
    """Claims until the queue is empty, each job in a transaction of its own."""
    database, claimed = Database(url), []
    start.wait()
    while True:
        with database.write() as session:
            lease = claim_next(session, multiprocessing.current_process().name)
        if lease is None:
            break
        claimed.append(f"{lease.job_id} {lease.attempt}")
    database.close()
    told.put(claimed)


def publish_each(url: str, start: Barrier, told: Any, job_ids: list[str]) -> None:
    """Ends each job as a trainer does whose training is done."""
    database = Database(url)
    for job_id in job_ids:
        lease = Lease(job_id, 1)
        start.wait()
        try:
            with database.write() as session:
                lease.succeed(session, PREFIX_FIELDS)
        except DiscardedError:
            with database.write() as session:
                lease.cancel(session)
    database.close()
    told.put([])


def discard_each(url: str, start: Barrier, told: Any, job_ids: list[str]) -> None:
    """Discards each job, as the web role does for its user; what had succeeded already stays."""
    database, discarded = Database(url), []
    for job_id in job_ids:
        start.wait()
        try:
            with database.write() as session:
                request_stop(session, job_id, keep=False)
            discarded.append(f"{job_id} discarded")
        except ConflictError:
            continue
    database.close()
    told.put(discarded)


def main(what: str, url: str, *rest: str) -> int:
    """Starts the processes, and prints what they told once all have ended well."""
    told = FORK.Queue()
    if what == "claim":
        start = FORK.Barrier(int(rest[0]))
        rivals = [FORK.Process(target=claim_all, args=(url, start, told)) for _ in range(int(rest[0]))]
    else:
        start = FORK.Barrier(2)
        rivals = [FORK.Process(target=each, args=(url, start, told, [*rest])) for each in (publish_each, discard_each)]
    for rival in rivals:
        rival.start()
    for line in [line for _ in rivals for line in told.get()]:
        print(line)
    for rival in rivals:
        rival.join()
    return max(rival.exitcode or 0 for rival in rivals)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
