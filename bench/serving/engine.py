"""The measurements that need a model, in a process of their own: settings as arguments, one line of JSON at the end.

`python -m bench.serving.engine SHAPE LAYERS DTYPE THREADS CLOCK ROUNDS TOKENS PARTS`; parts are names of
methods of `Bench`, with commas between them.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from bench.serving.model import Ask, make_asks, make_model, make_prefixes
from bench.serving.ours import OurServer
from bench.serving.peft_side import PeftServer
from bench.serving.timing import Side, Timed, ratio_of_seconds, ratio_of_speeds, speed_of, take_turns
from bench.training.timing import CLOCKS
from worker.engine.base import DTYPES, choose_device, choose_dtype
from worker.engine.families import geometry

STORED = "bfloat16"
"""How such a base is stored, which decides with `choose_dtype` what the engine computes in."""

NUM_MIXED = 32
NUM_REQUESTS = 16
NUM_PREFIXES = 8
NUM_STREAMS = 8
WARM_UP_TOKENS = 4

Answering = Callable[[Sequence[Ask], int], tuple[Timed, list[list[int]]]]
"""Answers requests with so many tokens each."""


@dataclass(frozen=True)
class Size:
    """How much is measured: rounds of each pair of sides, and tokens of an answer."""

    rounds: int
    tokens: int


class Bench:
    """Both sides on models of the same weights.

    Args:
        shape: Name of the base.
        layers: Its layers; 0 for as many as the shape has.
        dtype: Name of the number format, or `auto`.
        clock: Name of one of `CLOCKS`.
        size: How much is measured.
    """

    def __init__(self, shape: str, layers: int, dtype: str, clock: str, size: Size) -> None:
        self.size = size
        device = choose_device()
        self.dtype = choose_dtype("auto", device, STORED) if dtype == "auto" else DTYPES[dtype]
        model, peer = (make_model(shape, layers, self.dtype).to(device) for _ in range(2))
        measured = geometry(json.loads(model.config.to_json_string()))
        self.vocab_size = measured.vocab_size
        prefixes = make_prefixes(measured, NUM_MIXED)
        self.ours = OurServer(model, measured, prefixes, CLOCKS[clock])
        self.peft = PeftServer(peer, prefixes[:NUM_PREFIXES], CLOCKS[clock])
        self._warm_up()

    def pair(self) -> dict[str, Any]:
        """Base and one prefix in one comparison against the base alone."""

        def side(prefixes: tuple[int | None, ...]) -> Side:
            def decode(number: int) -> Timed:
                prompt_ids = self._asks(1, 0, number)[0].prompt_ids
                return self.ours.decode([Ask(prompt_ids, prefix) for prefix in prefixes], self.size.tokens)

            return decode

        together, alone = take_turns([side((None, 0)), side((None,))], self.size.rounds)
        return {
            "pair_vs_base": ratio_of_seconds(together, alone),
            "pair_tokens_per_s": speed_of(together),
            "base_tokens_per_s": speed_of(alone),
        }

    def mixed(self) -> dict[str, Any]:
        """Rows with a prefix each against as many rows with one."""

        def side(num_prefixes: int) -> Side:
            def answer(number: int) -> Timed:
                return self.ours.answer(self._asks(NUM_MIXED, num_prefixes, number), self.size.tokens)[0]

            return answer

        mixed, same = take_turns([side(NUM_MIXED), side(1)], self.size.rounds)
        return {
            "mixed_vs_same": ratio_of_speeds(mixed, same),
            "mixed_tokens_per_s": speed_of(mixed),
            "same_tokens_per_s": speed_of(same),
        }

    def peers(self) -> dict[str, Any]:
        """Requests for several prefixes against PEFT's two ways."""
        told: dict[int, list[list[int]]] = {}
        agreed: list[bool] = []

        def side(answer: Answering) -> Side:
            def timed(number: int) -> Timed:
                measured, answers = answer(self._asks(NUM_REQUESTS, NUM_PREFIXES, number), self.size.tokens)
                if number in told:
                    agreed.extend(a == b for a, b in zip(answers, told[number], strict=True))
                told.setdefault(number, answers)
                return measured

            return timed

        sides = [side(self.ours.answer), side(self.peft.switch), side(self.peft.batch)]
        mine, switching, batched = take_turns(sides, self.size.rounds)
        return {
            "speed_vs_peft_switching": ratio_of_speeds(mine, switching),
            "speed_vs_peft_batched": ratio_of_speeds(mine, batched),
            "ours_tokens_per_s": speed_of(mine),
            "peft_switching_tokens_per_s": speed_of(switching),
            "peft_batched_tokens_per_s": speed_of(batched),
            "same_answers": sum(agreed) / len(agreed),
        }

    def newcomer(self) -> dict[str, Any]:
        """Seconds to the first token while others stream, and with nobody else."""

        def first(num_streams: int, number: int) -> float:
            newcomer, *others = self._asks(1 + num_streams, NUM_PREFIXES, number)
            return self.ours.first_token_s(newcomer, others, 8 * self.size.tokens)

        busy, idle = ([first(streams, number) for number in range(self.size.rounds)] for streams in (NUM_STREAMS, 0))
        return {"ttft_busy_s": statistics.median(busy), "ttft_idle_s": statistics.median(idle)}

    def _asks(self, count: int, num_prefixes: int, seed: int) -> list[Ask]:
        return make_asks(self.vocab_size, count, num_prefixes, seed)

    def _warm_up(self) -> None:
        self.ours.answer(self._asks(NUM_MIXED, NUM_MIXED, 0), WARM_UP_TOKENS)
        self.peft.batch(self._asks(NUM_PREFIXES, NUM_PREFIXES, 0), WARM_UP_TOKENS)


def main() -> None:
    """Measures everything, telling each part on stderr as it is done."""
    shape, layers, dtype, threads, clock, rounds, tokens, parts = sys.argv[1:9]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Libraries print to stdout; only the figures may stand there.
    torch.set_num_threads(int(threads))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bench = Bench(shape, int(layers), dtype, clock, Size(int(rounds), int(tokens)))
    figures: dict[str, Any] = {"dtype": str(bench.dtype).removeprefix("torch.")}
    for part in parts.split(","):
        found = getattr(bench, part)()
        print({name: round(value, 3) for name, value in found.items()}, file=sys.stderr)
        figures |= found
    bench.ours.close()
    answers.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
