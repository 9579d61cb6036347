"""The trainer role in a process that answers a few batches and then none, until somebody ends it: a place to kill."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from worker import trainer
from worker.answering import answerer
from worker.engine.generate import GenerationRow, TokenEvent, stream
from worker.training import recorder

NUM_BATCHES = 4
LOOK_S = 0.01
calls = count()


def halting(base: Any, bank: Any, rows: Sequence[GenerationRow], end: Callable[[], bool]) -> Iterator[list[TokenEvent]]:
    """Answers the first batches as the model does, and waits for the wish to end in the one behind them."""
    if next(calls) < NUM_BATCHES:
        yield from stream(base, bank, rows, end)
        return
    while not end():
        time.sleep(LOOK_S)


if __name__ == "__main__":
    answerer.stream = halting
    recorder.FLUSH_S = recorder.MAX_FLUSH_S = (
        0.0  # each batch shows in the job's row, or the last would wait here to be told
    )
    code = trainer.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
