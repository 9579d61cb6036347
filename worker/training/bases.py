"""The base models that one trainer has in memory: jobs of one pass share theirs."""

import time

from worker.engine.base import LoadedBase
from worker.training.inputs import Task, load_task_base
from worker.training.recorder import Recorder

Key = tuple[str, str, str]
"""Folder, fingerprint of the weights, precision of the recipe."""


class Bases:
    """Loads base models, each once."""

    def __init__(self) -> None:
        self._loaded: dict[Key, LoadedBase] = {}

    def load(self, task: Task, recorder: Recorder) -> LoadedBase:
        """The base of a task, and a line for the job's log.

        Args:
            task: Of the job.
            recorder: Of the job.

        Raises:
            EngineError: It cannot take a prefix.
        """
        key = (str(task.folder), task.fingerprint, str(task.job.recipe.get("precision", "auto")))
        if key in self._loaded:
            recorder.log(f"{task.base_model.name} is loaded already, for another job of this pass.")
            return self._loaded[key]
        began = time.monotonic()
        base = load_task_base(task)
        recorder.log(
            f"{task.base_model.name} is loaded in {time.monotonic() - began:.1f} s: {base.num_parameters:,} "
            f"parameters, {base.number_format} on {base.device.type}."
        )
        self._loaded[key] = base
        return base
