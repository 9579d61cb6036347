"""What a method hands over after its training, and how the frozen test part is scored: one code for all methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.quality.parts import TaskData
from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.example import Example
from worker.engine.generate import GenerationRow, end_ids, stream
from worker.engine.tokens import end_token_id

ROWS_AT_ONCE = 25
ANSWERS_AT_ONCE = 75
SPARE_ANSWER_TOKENS = 8
"""Tokens that an answer may be longer than the longest one of the training rows."""


@dataclass(frozen=True)
class Trained:
    """A method's best state by validation loss.

    Attributes:
        base: The base; with the low-rank matrices merged in where the method is LoRA.
        bank: Its slot 0 stands in front of every row; None for LoRA.
        num_parameters: Numbers that were trained.
        num_examples: Rows seen in training, those of every rate that was tried counted.
        rates: The rates that were tried.
        learning_rate: The one that won.
        best_step: The step of the best state.
        validation_loss: Nats per target token of the best state.
    """

    base: LoadedBase
    bank: PrefixBank | None
    num_parameters: int
    num_examples: int
    rates: tuple[float, ...]
    learning_rate: float
    best_step: int
    validation_loss: float


@torch.no_grad()
def row_losses(base: LoadedBase, bank: PrefixBank | None, examples: Sequence[Example]) -> list[float]:
    """Summed negative log-likelihood (nats) of each row's target tokens, in the order of the rows."""
    order = sorted(range(len(examples)), key=lambda index: len(examples[index]))
    losses = [0.0] * len(examples)
    for start in range(0, len(order), ROWS_AT_ONCE):
        chosen = order[start : start + ROWS_AT_ONCE]
        for index, loss in zip(chosen, _batch_losses(base, bank, [examples[i] for i in chosen]), strict=True):
            losses[index] = loss
    return losses


def _batch_losses(base: LoadedBase, bank: PrefixBank | None, rows: Sequence[Example]) -> list[float]:
    longest = max(len(row) for row in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row.prompt_ids + row.target_ids)
    start = 0 if bank is None else bank.lengths[0]
    positions = torch.arange(start, start + longest, device=base.device).unsqueeze(0)
    slots = [NO_PREFIX if bank is None else 0] * len(rows)
    with attending(base.model, bank, slots):
        logits = base.model(input_ids=input_ids.to(base.device), position_ids=positions, use_cache=False).logits
    losses = []
    for row, row_logits in zip(rows, logits, strict=True):
        predicting = row_logits[len(row.prompt_ids) - 1 : len(row) - 1].float()
        targets = torch.tensor(row.target_ids, device=base.device)
        losses.append(float(torch.nn.functional.cross_entropy(predicting, targets, reduction="sum")))
    return losses


def answers(base: LoadedBase, bank: PrefixBank | None, data: TaskData) -> list[str]:
    """Greedy answers to the test prompts, spaces at both ends left out."""
    ends = end_ids(base, end_token_id(base.tokenizer, data.rendering.kind))
    room = max(len(row.target_ids) for row in data.train) + SPARE_ANSWER_TOKENS
    slot = NO_PREFIX if bank is None else 0
    rows = [GenerationRow(row.prompt_ids, slot, max_new_tokens=room, end_ids=ends) for row in data.test]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt_ids))
    texts = [""] * len(rows)
    for start in range(0, len(order), ANSWERS_AT_ONCE):
        chosen = order[start : start + ANSWERS_AT_ONCE]
        for events in stream(base, bank, [rows[index] for index in chosen]):
            for event in events:
                texts[chosen[event.row]] += event.text
    return [text.strip() for text in texts]
