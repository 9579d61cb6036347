"""The state of a training as one file: whole or absent, and never read when damaged."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from worker.engine.errors import EngineError
from worker.engine.progress import Progress, progress_from_dict
from worker.engine.whole_file import write_whole

FORMAT_VERSION = 3


class DamagedCheckpointError(EngineError):
    """A checkpoint is not what was written."""

    code: ClassVar[str] = "damaged_checkpoint"


@dataclass(frozen=True)
class TrainingState:
    """Everything from which a training goes on exactly.

    Attributes:
        tensors: On the CPU; of slot i `i.best_numbers` (its best prefix), `i.parameters.…` (what is trained) and
            `i.moments.…` (the optimiser's state).
        progress: The rest.
    """

    tensors: Mapping[str, Tensor]
    progress: Progress

    @property
    def best_numbers(self) -> Tensor:
        """The best prefix so far, of the rate that leads."""
        return self.tensors[f"{self.progress.lead}.best_numbers"]

    def slot_tensors(self, index: int) -> dict[str, Tensor]:
        """The tensors of one slot under their own names."""
        start = f"{index}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def write_checkpoint(path: Path, state: TrainingState) -> None:
    """Writes a state; nobody ever sees half of it, and it survives a power cut once this returns.

    Args:
        path: The file; an older one under this name is replaced.
        state: Of a `Checkpointed` event.
    """
    progress = json.dumps(asdict(state.progress), sort_keys=True)
    metadata = {"version": str(FORMAT_VERSION), "progress": progress, "sha256": _digest(state.tensors, progress)}
    data = save({name: tensor.contiguous() for name, tensor in state.tensors.items()}, metadata)
    write_whole(path, data)
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
        return TrainingState(tensors, progress_from_dict(json.loads(progress)))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(
            f"The checkpoint {path.name} cannot be read ({error}); use an older one."
        ) from error


def _digest(tensors: Mapping[str, Tensor], progress: str) -> str:
    digest = hashlib.sha256(progress.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
