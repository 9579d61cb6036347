"""What is kept of a training under way: a checkpoint every now and then, and what the prefix answers by now."""

import time

from storage.disk import DiskFullError
from storage.errors import BusyError
from worker.engine.checkpoint import TrainingState
from worker.engine.events import Checkpointed, Looked
from worker.training.checkpoints import Checkpoints
from worker.training.recorder import Recorder
from worker.training.samples import Samples


class Keeper:
    """Hears of every state of a training, and keeps what is worth its time.

    Args:
        checkpoints: Where states are written to.
        recorder: Told what could not be kept, and the answers.
        samples: Rows to answer.
        base_fingerprint: Of the base model's weights that the training learns on.
        every_s: Seconds between two checkpoints.

    Attributes:
        latest: The last state that was told, written or not.
    """

    def __init__(
        self, checkpoints: Checkpoints, recorder: Recorder, samples: Samples, base_fingerprint: str, every_s: float
    ) -> None:
        self.latest: TrainingState | None = None
        self._checkpoints = checkpoints
        self._recorder = recorder
        self._samples = samples
        self._base_fingerprint = base_fingerprint
        self._every_s = every_s
        self._kept_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for the next one."""
        return time.monotonic() - self._kept_at > self._every_s

    def keep(self, event: Checkpointed) -> None:
        """Writes the state where one is due."""
        self.latest = event.state
        if self.is_due():
            self.write(event.state)

    def look(self, event: Looked) -> None:
        """Shows what the prefix of an evaluation answers."""
        rows = self._samples.answer_in_time(event.prefix)
        self._recorder.add("samples", {"rows": rows}, event.step)
        self._recorder.progress(metrics={"samples": rows})

    def write_latest(self) -> None:
        """Writes the last state, so that an attempt that is ended after its training goes on behind it."""
        if self.latest is not None:
            self.write(self.latest)
            self._recorder.flush()

    def write(self, state: TrainingState) -> None:
        """Writes the state; a full disk or a busy database is told, and the checkpoint before it stands."""
        # The next attempt goes on behind this step: what was told up to it would be missing from the curve for good.
        self._recorder.flush()
        try:
            self._checkpoints.write(state, self._base_fingerprint)
        except (BusyError, DiskFullError) as error:
            self._recorder.log(f"This checkpoint is left out: {error.message}", level="warning")
        self._kept_at = time.monotonic()
