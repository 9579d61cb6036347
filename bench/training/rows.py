"""Rows of known lengths and random tokens: what a step costs depends on their lengths alone."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

NUM_ROWS = 512
"""Rows that both sides draw their batches from; ours sorts within them by length, PEFT's Trainer does not."""

E2E_PROMPTS = (21, 31, 35, 41, 47, 50, 53, 59, 61, 63, 66, 68, 71, 74, 79)
E2E_TARGETS = (9, 19, 22, 24, 26, 30, 32, 35, 38, 40, 43, 47, 51, 60, 104)
E2E_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
E2E_CORRELATION = 0.69
"""Quantiles of the 7,477 training rows of e2e_nlg in tokens of the starter; means 55 and 35."""


@dataclass(frozen=True)
class TokenRow:
    """Token ids of one row."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.target_ids)


def make_rows(task: str, vocab_size: int, seed: int, count: int = NUM_ROWS) -> list[TokenRow]:
    """Rows of a task, the same for the same seed.

    Args:
        task: One of `TASKS`.
        vocab_size: Ids are drawn below it.
        seed: Seed of lengths and ids.
        count: How many.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, target = TASKS[task](rng)
        ids = [rng.randrange(2, vocab_size) for _ in range(prompt + target)]
        rows.append(TokenRow(tuple(ids[:prompt]), tuple(ids[prompt:])))
    return rows


def e2e_lengths(rng: random.Random) -> tuple[int, int]:
    """Prompt and target tokens of a row like those of e2e_nlg: both grow with the number of facts."""
    shared = rng.gauss(0, 1)
    other = E2E_CORRELATION * shared + (1 - E2E_CORRELATION**2) ** 0.5 * rng.gauss(0, 1)
    return _quantile(E2E_PROMPTS, shared), _quantile(E2E_TARGETS, other)


def gsm8k_lengths(rng: random.Random) -> tuple[int, int]:
    """Prompt and target tokens of a row like those of gsm8k: a question, and steps of reasoning."""
    return rng.randint(50, 100), rng.randint(100, 200)


def long_lengths(rng: random.Random) -> tuple[int, int]:
    """A row of exactly 1,024 tokens, half of them target."""
    return 512, 512


TASKS: dict[str, Callable[[random.Random], tuple[int, int]]] = {
    "e2e": e2e_lengths,
    "gsm8k": gsm8k_lengths,
    "rows of 1,024": long_lengths,
}
"""Name of a task to how its lengths are drawn."""


def _quantile(table: tuple[int, ...], normal: float) -> int:
    share = NormalDist().cdf(normal)
    upper = next(index for index in range(1, len(E2E_SHARES)) if share <= E2E_SHARES[index])
    low, high = E2E_SHARES[upper - 1], E2E_SHARES[upper]
    return round(table[upper - 1] + (share - low) / (high - low) * (table[upper] - table[upper - 1]))
