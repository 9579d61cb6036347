"""Bits per byte of text: comparable between models whatever their tokenizers are."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Logits = Callable[[Tensor], Tensor]
ROWS_PER_BATCH = 8


def windows(ids: list[int], length: int) -> Iterator[tuple[list[int], int]]:
    """Cuts a document into overlapping windows, each predicting what the ones before it did not.

    Args:
        ids: Token ids, a begin token first.
        length: Inputs per window at most; half of a window repeats the one before it as context.

    Yields:
        The window's ids (inputs and the last target) and how many of its last ids it has to predict.
    """
    predicted = 1
    while predicted < len(ids):
        first = 0 if predicted == 1 else predicted - length // 2
        last = min(first + length + 1, len(ids))
        yield ids[first:last], last - predicted
        predicted = last


@torch.no_grad()
def document_nats(logits: Logits, ids: list[int], length: int) -> float:
    """Negative log-likelihood of a document in nats, its first id given."""
    pieces = list(windows(ids, length))
    nats = 0.0
    for start in range(0, len(pieces), ROWS_PER_BATCH):
        batch = pieces[start : start + ROWS_PER_BATCH]
        width = max(len(piece) for piece, _ in batch)
        rows = torch.tensor([piece + [0] * (width - len(piece)) for piece, _ in batch])
        losses = functional.cross_entropy(logits(rows[:, :-1]).float().transpose(1, 2), rows[:, 1:], reduction="none")
        for row, (piece, num_predicted) in zip(losses, batch, strict=True):
            nats += float(row[len(piece) - 1 - num_predicted : len(piece) - 1].sum())
    return nats


def bits_per_byte(logits: Logits, tokenizer: Any, texts: list[str], length: int) -> float:
    """Mean bits that a model needs for one byte of UTF-8 text.

    Args:
        logits: Ids `[B, T]` to logits `[B, T, vocabulary]`.
        tokenizer: Of the model; its begin or else its end token stands before each document.
        texts: Documents, each judged alone.
        length: Longest input in tokens.

    Raises:
        ValueError: The tokenizer has neither token.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise ValueError("The tokenizer has neither a begin nor an end token; expected one to start a document with.")
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    nats = sum(document_nats(logits, [begin, *ids], length) for ids in encoded)
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
