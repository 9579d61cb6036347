"""The state of a training as one file: whole or absent, and never read when damaged."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from worker.engine.errors import EngineError

FORMAT_VERSION = 3


class DamagedCheckpointError(EngineError):
    """A checkpoint is not what was written."""

    code: ClassVar[str] = "damaged_checkpoint"


@dataclass(frozen=True)
class Progress:
    """Where a training stands, beside its tensors. Nothing in a step is random, so there is no random state.

    Attributes:
        step: Updates so far; the next step's rows follow from it and the seed.
        best_step: Step of the best state.
        best_loss: Its validation loss.
        base_loss: Validation loss of the untouched base.
        evaluated_step: Last step that was evaluated.
        bad_evaluations: Evaluations since the best one.
        rate_scale: Factor on the learning rate, lowered when the loss diverged.
        micro_batch_size: Rows that are computed at once.
        is_checkpointing: Whether activations are computed again to save memory.
        num_train: Rows that are trained on.
        recipe: The settings that it runs under.
        base_fingerprint: Of the weights that it learns on, filled in by whoever keeps the state beyond this process.
    """

    step: int
    best_step: int
    best_loss: float | None
    base_loss: float | None
    evaluated_step: int
    bad_evaluations: int
    rate_scale: float
    micro_batch_size: int
    is_checkpointing: bool
    num_train: int
    recipe: Mapping[str, Any]
    base_fingerprint: str = ""


@dataclass(frozen=True)
class TrainingState:
    """Everything from which a training goes on exactly.

    Attributes:
        tensors: `best_numbers` (the best prefix), `parameters.…` (what is trained) and `moments.…` (the optimiser's
            state); on CPU.
        progress: The rest.
    """

    tensors: Mapping[str, Tensor]
    progress: Progress


def write_checkpoint(path: Path, state: TrainingState) -> None:
    """Writes a state; nobody ever sees half of it, and it survives a power cut once this returns.

    Args:
        path: The file; an older one under this name is replaced.
        state: Of a `Checkpointed` event.
    """
    progress = json.dumps(asdict(state.progress), sort_keys=True)
    metadata = {"version": str(FORMAT_VERSION), "progress": progress, "sha256": _digest(state.tensors, progress)}
    data = save({name: tensor.contiguous() for name, tensor in state.tensors.items()}, metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path) -> TrainingState:
    """Reads a state back.

    Raises:
        DamagedCheckpointError: The file is missing, cut, of another version, or a byte of it has changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = metadata["progress"]
        if metadata.get("version") != str(FORMAT_VERSION):
            raise DamagedCheckpointError(
                f"The checkpoint {path.name} has format {metadata.get('version')}, expected {FORMAT_VERSION}; "
                "use an older one of this format, or start anew."
            )
        if metadata.get("sha256") != _digest(tensors, progress):
            raise DamagedCheckpointError(f"The checkpoint {path.name} does not match its own hash; use an older one.")
        values = json.loads(progress)
        return TrainingState(tensors, Progress(**{field.name: values[field.name] for field in fields(Progress)}))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedCheckpointError(
            f"The checkpoint {path.name} cannot be read ({error}); use an older one."
        ) from error


def _digest(tensors: Mapping[str, Tensor], progress: str) -> str:
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
