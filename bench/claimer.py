"""Processes that claim jobs for `bench.queue` until none is left: `python -m bench.claimer DATABASE_URL COUNT`.

They are forked from one that has done the imports, open connections of their own, and begin at one moment. Printed is
one JSON object: `elapsed_s` from that moment to the last claim, and `claims_s`, the seconds of each claim.
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from storage.database import Database
from storage.queue import claim_next, has_queued

FORK = multiprocessing.get_context("fork")


def claim(url: str, name: str, start: Barrier, told: Any) -> None:
    """Claims, each in a transaction of its own, as a dispatcher does."""
    database, claims_s = Database(url), []
    with database.write() as session:
        has_queued(session)
    start.wait()
    while True:
        started = time.perf_counter()
        with database.write() as session:
            lease = claim_next(session, name)
        if lease is None:
            break
        claims_s.append(time.perf_counter() - started)
    told.put(claims_s)
    database.close()


def main() -> None:
    """Starts the claimers, and says what they took."""
    url, count = sys.argv[1], int(sys.argv[2])
    start, told = FORK.Barrier(count + 1), FORK.Queue()
    claimers = [FORK.Process(target=claim, args=(url, f"claimer {number}", start, told)) for number in range(count)]
    for claimer in claimers:
        claimer.start()
    start.wait()
    started = time.perf_counter()
    claims_s = [seconds for _ in claimers for seconds in told.get()]
    elapsed_s = time.perf_counter() - started
    for claimer in claimers:
        claimer.join()
    print(json.dumps({"elapsed_s": elapsed_s, "claims_s": sorted(claims_s)}))


if __name__ == "__main__":
    main()
