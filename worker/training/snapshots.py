"""The prefix of every evaluation, kept while the training goes on."""

import numpy as np

from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.disk import DiskFullError
from storage.errors import BusyError
from storage.snapshots import NewSnapshot, forget_after, keep_snapshot
from worker.engine.events import Event, Looked, Started
from worker.engine.prefix_file import prefix_bytes
from worker.engine.rendering import Rendering
from worker.training.recorder import Recorder


class Snapshots:
    """Hears the events of a training, and keeps the prefix of each of its evaluations.

    Numbers are rounded to fp16: a training has about ten snapshots, so in fp32 they would be most of what a prefix
    takes on the disk, and what rounding changes is less than what a base in bf16 does to the same numbers. The
    published prefix stays as it is, at its own step too.

    Args:
        database: The open database.
        store: Keeps the files.
        recorder: Holds the lease; told what could not be kept.
        base_fingerprint: Of the weights that the training learns on.
        rendering: How its rows become prompts, with its kind decided.
    """

    def __init__(
        self, database: Database, store: ArtifactStore, recorder: Recorder, base_fingerprint: str, rendering: Rendering
    ) -> None:
        self._database = database
        self._store = store
        self._recorder = recorder
        self._base_fingerprint = base_fingerprint
        self._rendering = rendering.to_dict()

    def hear(self, event: Event) -> None:
        """Keeps what an evaluation looked at; a full disk or a busy database costs that snapshot, not the training.

        Raises:
            LeaseLostError: Another attempt owns the job.
        """
        try:
            if isinstance(event, Started):
                with self._database.write() as session:
                    forget_after(session, self._recorder.lease, event.first_step or None)
            elif isinstance(event, Looked) and np.isfinite(event.prefix.values).all():
                self._keep(event)
        except (BusyError, DiskFullError) as error:
            self._recorder.log(f"A snapshot is left out: {error.message}", level="warning")

    def _keep(self, event: Looked) -> None:
        data = prefix_bytes(event.prefix, is_rounded=True)
        loss = event.validation_loss
        new = NewSnapshot(
            step=event.step,
            validation_loss=loss if loss is not None and np.isfinite(loss) else None,
            artifact_hash=self._store.put_bytes(data),
            size_bytes=len(data),
            num_virtual_tokens=event.prefix.num_virtual_tokens,
            base_fingerprint=self._base_fingerprint,
            rendering=self._rendering,
        )
        with self._database.write() as session:
            keep_snapshot(session, self._recorder.lease, new)
            # The first statement took the lock that sweeps hold too: what is here from now on has its row in time.
            if not self._store.exists(new.artifact_hash):
                self._store.put_bytes(data)
