"""One side of the comparison in a process of its own: it loads a base, then answers lines on stdin with lines of JSON.

`python -m bench.training.side SIDE SHAPE DTYPE LAYERS THREADS CLOCK`. Each line
`{"task", "seed", "steps", "batch_size"}` trains once and answers `{"tokens", "seconds", "peak_bytes"}`; the peak is
above the process with its base loaded.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from bench.training.limit import flops_per_token, matrix_rate
from bench.training.rows import make_rows
from bench.training.shapes import SHAPES, build_model
from bench.training.timing import CLOCKS
from worker.engine.base import DTYPES, choose_device

NUM_VIRTUAL_TOKENS = 64
"""What our automatic recipe takes for short instructions; the same for both sides."""


class PeakMemory:
    """Peak memory above the moment of its making: of the device on a GPU, else resident memory of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.loaded = torch.cuda.memory_allocated() if device.type == "cuda" else _status_bytes("VmRSS")

    def restart(self) -> None:
        """Forgets peaks so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")

    def read(self) -> int:
        """Bytes."""
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else _status_bytes("VmHWM")
        return peak - self.loaded


_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def answer(trainer: Any, memory: PeakMemory, vocab_size: int, wish: dict[str, Any]) -> dict[str, float]:
    """Trains once as wished."""
    rows = make_rows(wish["task"], vocab_size, wish["seed"])
    memory.restart()
    timed = trainer.run(rows, steps=wish["steps"], batch_size=wish["batch_size"], seed=wish["seed"])
    return {"tokens": timed.tokens, "seconds": timed.seconds, "peak_bytes": memory.read()}


def main() -> None:
    """Loads, says that it is ready with the model's count of FLOPs, and answers until stdin ends."""
    side, name, dtype_name, layers, threads, clock = sys.argv[1:7]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Libraries print to stdout; only answers may stand there.
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device, dtype = choose_device(), DTYPES[dtype_name]
    shape = SHAPES[name].with_layers(int(layers) or None)
    model = build_model(shape, dtype).to(device)
    if side == "peft":
        from bench.training.peft_trainer import PeftTrainer as Trainer
    else:
        from bench.training.ours import OurTrainer as Trainer  # type: ignore[assignment]
    trainer = Trainer(model, NUM_VIRTUAL_TOKENS, CLOCKS[clock])
    vocab_size = model.config.vocab_size
    per_token = {task: flops_per_token(model, make_rows(task, vocab_size, 0)) for task in ("e2e", "gsm8k")}
    rate = matrix_rate(dtype, device, CLOCKS[clock])
    memory = PeakMemory(device)
    answers.write(json.dumps({"flops_per_token": per_token, "matrix_rate": rate, "device": str(device)}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(trainer, memory, vocab_size, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
