"""The resumable state of a pre-training, kept outside the repository."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.starter.mixture import Mixture
from worker.starter.model import Decoder
from worker.starter.optimiser import Optimisers


@dataclass
class Counters:
    """How far the run has come.

    Attributes:
        step: Updates done.
        num_tokens: Tokens seen.
        progress: Share of the schedule that is over, 0 to 1.
        seconds: Wall time spent in training.
    """

    step: int = 0
    num_tokens: int = 0
    progress: float = 0.0
    seconds: float = 0.0


class Clock:
    """Turns wall-clock time into progress, so that the decay ends at the deadline however slow the machine is.

    A resumed run starts at the progress of its checkpoint and moves evenly to 1 at its own deadline.
    """

    def __init__(self, progress: float, deadline: float) -> None:
        self.first_progress = progress
        self.begin = time.time()
        self.deadline = deadline

    def progress(self) -> float:
        """Share of the schedule that is over now."""
        share = (time.time() - self.begin) / max(self.deadline - self.begin, 1e-9)
        return min(self.first_progress + (1.0 - self.first_progress) * share, 1.0)


def save_checkpoint(path: Path, decoder: Decoder, optimisers: Optimisers, mixture: Mixture, counters: Counters) -> None:
    """Writes the state under another name first, so that a run killed meanwhile keeps its last checkpoint."""
    state: dict[str, Any] = {
        "decoder": decoder.state_dict(),
        "optimisers": optimisers.state_dict(),
        "mixture": mixture.state_dict(),
        "counters": vars(counters),
    }
    unfinished = path.with_suffix(".unfinished")
    torch.save(state, unfinished)
    unfinished.rename(path)


def load_checkpoint(path: Path, decoder: Decoder, optimisers: Optimisers, mixture: Mixture) -> Counters:
    """Puts the saved state into the given objects; a missing file is a fresh start."""
    if not path.exists():
        return Counters()
    state = torch.load(path, weights_only=True)
    decoder.load_state_dict(state["decoder"])
    optimisers.load_state_dict(state["optimisers"])
    mixture.load_state_dict(state["mixture"])
    return Counters(**state["counters"])
