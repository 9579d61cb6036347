"""Batches mixed from the parts of the corpus by weight, from positions that a checkpoint can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worker.starter.corpus import TokenIds

NUM_READERS = 64
DOCUMENT_START_SHARE = 0.3
"""Share of rows that begin where a document does: prompts in use begin there too, packed rows seldom would."""

BROAD: dict[str, float] = {
    "books-000": 1.6,
    "books-001": 0.8,
    "books-002": 0.5,
    "books-003": 0.35,
    "codah-000": 6.0,
    "dialogues-chatterbot-000": 4.0,
    "dialogues-sgd-000": 1.6,
    "dialogues-taskmaster4-000": 3.0,
    "dialogues-topicalchat-000": 3.0,
    "factbook-000": 1.0,
    "fairytales-000": 4.0,
    "instructions-gpteacher-000": 3.0,
    "news-onestop-000": 3.5,
    "reviews-movies-000": 2.5,
    "speeches-000": 0.8,
    "tinystories-sample-000": 5.0,
}
"""How often each part is read in relation to its size, during the first part of the training."""

FINAL: dict[str, float] = {
    **BROAD,
    "books-000": 1.0,
    "books-001": 0.25,
    "books-002": 0.1,
    "books-003": 0.1,
    "dialogues-sgd-000": 2.2,
    "instructions-gpteacher-000": 5.0,
    "news-onestop-000": 4.5,
    "tinystories-sample-000": 8.0,
}
"""The same while the learning rate falls: fewer old books, more of the plain modern text that users bring."""


class PartReader:
    """Reads one part from many evenly spaced places at once, so that the rows of a batch are unlike each other."""

    def __init__(self, tokens: TokenIds, end_token_id: int) -> None:
        self.tokens = tokens
        self.cursors = (np.arange(NUM_READERS) * len(tokens)) // NUM_READERS
        self.turn = 0
        self.starts = np.flatnonzero(np.asarray(tokens) == end_token_id) + 1

    def read(self, length: int, *, at_document_start: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The next `length` ids of the reader whose turn it is; the part is a ring.

        Args:
            length: Number of ids.
            at_document_start: Skip to the beginning of the next document first.
        """
        reader = self.turn % NUM_READERS
        begin = int(self.cursors[reader])
        if at_document_start and len(self.starts):
            index = int(np.searchsorted(self.starts, begin))
            begin = int(self.starts[index % len(self.starts)]) % len(self.tokens)
        ids = self.tokens[np.arange(begin, begin + length) % len(self.tokens)]
        self.cursors[reader] = (begin + length) % len(self.tokens)
        self.turn += 1
        return ids.astype(np.int64)


class Mixture:
    """Draws rows from the parts by weight times size.

    Args:
        packed: Token ids of each part.
        end_token_id: The token after each document.
        seed: Of the choice of parts.
    """

    def __init__(self, packed: Mapping[str, TokenIds], end_token_id: int, seed: int) -> None:
        self.names = sorted(packed)
        self.readers = {name: PartReader(packed[name], end_token_id) for name in self.names}
        self.random = np.random.default_rng(seed)
        self.num_read = dict.fromkeys(self.names, 0)

    def batch(self, num_rows: int, length: int, weights: Mapping[str, float]) -> torch.Tensor:
        """Rows of consecutive ids.

        Args:
            num_rows: Rows B.
            length: Predicted tokens T of each row.
            weights: How often each part is read in relation to its size; a part not named counts once.

        Returns:
            int64 `[B, T + 1]`.
        """
        share = np.array([weights.get(name, 1.0) * len(self.readers[name].tokens) for name in self.names])
        chosen = self.random.choice(len(self.names), size=num_rows, p=share / share.sum())
        at_start = self.random.random(num_rows) < DOCUMENT_START_SHARE
        rows = []
        for index, is_start in zip(chosen, at_start, strict=True):
            name = self.names[index]
            rows.append(self.readers[name].read(length + 1, at_document_start=bool(is_start)))
            self.num_read[name] += length
        return torch.from_numpy(np.stack(rows))

    def state_dict(self) -> dict[str, Any]:
        """Where every reader stands."""
        return {
            "cursors": {name: (reader.cursors.tolist(), reader.turn) for name, reader in self.readers.items()},
            "random": self.random.bit_generator.state,
            "num_read": dict(self.num_read),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        for name, (cursors, turn) in state["cursors"].items():
            self.readers[name].cursors = np.array(cursors)
            self.readers[name].turn = turn
        self.random.bit_generator.state = state["random"]
        self.num_read = dict(state["num_read"])

    def epochs(self) -> dict[str, float]:
        """How many times each part has been read so far."""
        return {name: self.num_read[name] / len(self.readers[name].tokens) for name in self.names}
