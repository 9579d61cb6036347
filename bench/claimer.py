"""A process that claims jobs for `bench.queue` until none is left: `python -m bench.claimer DATABASE_URL NAME`.

It opens its connection, says `ready`, waits for a line, and prints the seconds that each claim took as JSON.
"""

import json
import sys
import time

from storage.database import Database
from storage.queue import claim_next, has_queued


def main() -> None:
    """Claims, each in a transaction of its own, as a dispatcher does."""
    database = Database(sys.argv[1])
    with database.write() as session:
        has_queued(session)
    print("ready", flush=True)
    sys.stdin.readline()
    claims_s = []
    while True:
        started = time.perf_counter()
        with database.write() as session:
            lease = claim_next(session, sys.argv[2])
        if lease is None:
            break
        claims_s.append(time.perf_counter() - started)
    print(json.dumps(claims_s))
    database.close()


if __name__ == "__main__":
    main()
