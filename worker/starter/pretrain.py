"""Pre-trains the starter: `python -m worker.starter.pretrain --corpus CORPUS --state STATE --until 2026-01-01T12:00Z`.

Run it again with the same state folder to resume. The schedule follows the wall clock: whatever the machine's
speed, the learning rate reaches zero at the deadline, and the finished model lies in STATE/export.
"""

import argparse
import json
import logging
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from worker.starter.checkpoint import Clock, load_checkpoint, save_checkpoint
from worker.starter.corpus import held_out_texts, open_packed, pack, parts, sample_characters
from worker.starter.export import export
from worker.starter.measure import bits_per_byte
from worker.starter.mixture import BROAD, FINAL, Mixture
from worker.starter.model import Decoder, Shape, next_token_loss
from worker.starter.optimiser import Optimisers
from worker.starter.tokenizer import train_tokenizer

logger = logging.getLogger("starter")

TOKENS_PER_STEP = 8192
LENGTHS = ((0.0, 256), (0.75, 512), (0.92, 1024))
"""From which progress on rows have which length: short rows are cheaper, the last stretch teaches the full context."""
FINAL_MIXTURE_FROM = 0.6
CHECKPOINT_EVERY_S = 300.0
MEASURE_EVERY_S = 1200.0
MEASURE_BYTES = 12_000
TOKENIZER_CHARACTERS = 1_500_000
EXPORT_RESERVE_S = 180.0


def row_length(progress: float) -> int:
    """Tokens per row at this point of the run."""
    return [length for begin, length in LENGTHS if progress >= begin][-1]


def prepare_tokenizer(corpus: Path, state: Path, shape: Shape) -> PreTrainedTokenizerFast:
    """The tokenizer of this state folder, trained at the first start."""
    folder = state / "tokenizer"
    if not folder.exists():
        wanted = {part: int(TOKENIZER_CHARACTERS * min(FINAL.get(part, 1.0), 2.0)) for part in parts(corpus)}
        tokenizer = train_tokenizer(sample_characters(corpus, wanted), shape.vocab_size, shape.context_length)
        tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


class Pretraining:
    """One run on one state folder.

    Args:
        corpus: Folder with gzip JSONL shards.
        state: Folder for tokenizer, packed tokens, checkpoint, figures and the export.
        shape: Sizes of the decoder.
        deadline: Unix time at which the rate has reached zero.
        compiled: Compile the training step; off in tests, where compiling would take longer than the run.
    """

    def __init__(self, corpus: Path, state: Path, shape: Shape, deadline: float, *, compiled: bool = True) -> None:
        self.state = state
        (state / "tokens").mkdir(parents=True, exist_ok=True)
        self.tokenizer = prepare_tokenizer(corpus, state, shape)
        packed = {part: open_packed(pack(corpus, part, self.tokenizer, state / "tokens")) for part in parts(corpus)}
        self.held_out = held_out_texts(corpus, MEASURE_BYTES)
        self.decoder = Decoder(shape)
        self.optimisers = Optimisers(self.decoder)
        self.mixture = Mixture(packed, self.tokenizer.eos_token_id, seed=0)
        self.stopping = False
        self.checkpoint = state / "checkpoint.pt"
        self.counters = load_checkpoint(self.checkpoint, self.decoder, self.optimisers, self.mixture)
        self.clock = Clock(self.counters.progress, deadline)
        self.loss: Callable[..., Tensor] = (
            torch.compile(next_token_loss, dynamic=False) if compiled else next_token_loss
        )

    def step(self) -> float:
        """One update; returns the loss in nats per token."""
        progress = self.clock.progress()
        length = row_length(progress)
        weights = FINAL if progress >= FINAL_MIXTURE_FROM else BROAD
        rows = self.mixture.batch(TOKENS_PER_STEP // length, length, weights)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss(self.decoder, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers.step(progress)
        self.counters.step += 1
        self.counters.num_tokens += rows.shape[0] * length
        self.counters.progress = progress
        return loss.item()

    def measure(self) -> dict[str, float]:
        """Bits per byte on a little held-out text of each part, at the row length trained so far."""
        length = row_length(self.counters.progress)

        def logits(ids: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output: Tensor = self.decoder(ids)
            return output

        return {
            part: round(bits_per_byte(logits, self.tokenizer, texts, length), 3)
            for part, texts in self.held_out.items()
        }

    def record(self, kind: str, figures: dict[str, Any]) -> None:
        """Appends figures to `metrics.jsonl` and to the log."""
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind, **vars(self.counters)}
        entry |= figures
        with (self.state / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        logger.info(json.dumps(entry))

    def save(self) -> None:
        """Writes the checkpoint."""
        save_checkpoint(self.checkpoint, self.decoder, self.optimisers, self.mixture, self.counters)

    def run(self) -> None:
        """Trains until the deadline, then measures and exports; SIGTERM saves and ends it before."""
        signal.signal(signal.SIGTERM, self._stop)
        last_save = last_measure = last_time = time.time()
        losses: list[float] = []
        while self.counters.progress < 1.0 and not self.stopping:
            losses.append(self.step())
            now = time.time()
            self.counters.seconds += now - last_time
            last_time = now
            if len(losses) == 50:
                self.record("train", {"loss": round(sum(losses) / len(losses), 4)})
                losses.clear()
            if now - last_save > CHECKPOINT_EVERY_S:
                self.save()
                last_save = now
            if now - last_measure > MEASURE_EVERY_S:
                self.record("held_out", {"bits_per_byte": self.measure()})
                last_measure = now
        self.save()
        if not self.stopping:
            self.finish()

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def finish(self) -> None:
        """Exports the model with the figures of the run."""
        record = {**vars(self.counters), "epochs": {k: round(v, 2) for k, v in self.mixture.epochs().items()}}
        export(self.decoder, self.tokenizer, self.state / "export", record)
        figures = self.measure()
        export(self.decoder, self.tokenizer, self.state / "export", {**record, "bits_per_byte_sample": figures})
        self.record("finished", {"bits_per_byte": figures})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Pre-trains the built-in starter model.")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with *.jsonl.gz shards")
    parser.add_argument("--state", type=Path, required=True, help="folder outside the repository for everything kept")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--hours", type=float, help="wall time from now to the finished model")
    end.add_argument("--until", type=datetime.fromisoformat, help="moment of the finished model, 2026-01-01T12:00Z")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


def main() -> None:
    """Runs the command."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    end = options.until.timestamp() if options.until else time.time() + options.hours * 3600
    run = Pretraining(options.corpus, options.state, Shape(), end - EXPORT_RESERVE_S)
    logger.info("%d parameters", sum(weight.numel() for weight in run.decoder.parameters()))
    run.run()


if __name__ == "__main__":
    main()
