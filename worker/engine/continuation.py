"""Rows that are continued token by token in one batch, which new rows join and others leave between two steps.

Knows no sampling and no text. A row gets what it would get alone: each has its own prefix, positions and columns in the
cache, and nothing of another row is in its sight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from worker.engine.attention import stepping
from worker.engine.bank import SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.encoded_prompts import EncodedPrompts
from worker.engine.row_cache import RowCache
from worker.engine.row_maps import RowMaps
from worker.engine.step_attention import Columns, Span, Step


@dataclass(eq=False)
class RunningRow:
    """One row on its way.

    Attributes:
        prompt_ids: Of the prompt.
        num_virtual_tokens: Length P of its prefix, in its first columns.
        strength: How much of the prefix is attended to.
        has_outside: Whether the prefix has tokens outside the softmax.
        pending: Ids that are not computed yet: of the prompt, later the token that was chosen last.
        num_columns: Columns that it has in the cache.
        was_prefilled: Whether its prompt is computed.
    """

    prompt_ids: tuple[int, ...]
    num_virtual_tokens: int
    strength: float
    has_outside: bool = False
    pending: list[int] = field(default_factory=list)
    num_columns: int = 0
    was_prefilled: bool = False


class Continuation:
    """The running batch of a base.

    Rows that write have the first places, those whose prompts are read the ones behind them.

    Args:
        base: The loaded base, attention installed.
    """

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        measured = base.geometry
        self._cache = RowCache(
            measured.num_layers, measured.num_kv_heads, measured.head_dim, base.model.dtype, base.device
        )
        self._maps = RowMaps(measured.num_layers, base.model.dtype)
        self._encoded = EncodedPrompts(base) if measured.has_encoder else None
        self._first_index = measured.num_encoder_layers
        # Of four dimensions, so that models take it as it is; attention in steps builds its own.
        self._no_mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=base.device)
        self.rows: list[RunningRow] = []

    @property
    def column_bytes(self) -> int:
        """Bytes of one token of one row; of an encoder-decoder, of one in its prompt or in its answer."""
        return self._cache.column_bytes

    @property
    def outside_bytes(self) -> int:
        """Bytes of what one row may have outside the softmax; taken for all rows once one has any."""
        return self._maps.row_bytes(self._base.geometry.num_kv_heads, self._base.geometry.head_dim)

    @torch.inference_mode()
    def join(self, prompt_ids: Sequence[int], prefix: SlotPrefix | None = None, strength: float = 1.0) -> RunningRow:
        """Takes a row in; the next step begins to read its prompt.

        Args:
            prompt_ids: At least one id.
            prefix: What stands in front of it; None is the untouched base.
            strength: From 0 to 1. At 1 attention sees the prefix as it is, at 0 the row is the base's own; between,
                log strength is added to the scores of the prefix, and strength multiplies what it has outside.
        """
        prefix = prefix if strength > 0 else None
        row = RunningRow(tuple(prompt_ids), 0 if prefix is None else prefix.num_virtual_tokens, strength)
        row.has_outside = prefix is not None and prefix.outside is not None
        row.pending = list(self._base.decoder_start_ids or row.prompt_ids)
        row.num_columns = row.num_virtual_tokens
        place = len(self.rows)
        self._cache.reserve(place + 1, row.num_columns + len(row.pending))
        if prefix is not None:
            layers = slice(self._first_index, self._first_index + self._base.geometry.num_layers)
            self._cache.fill(place, prefix.kv[layers])
        self._maps.fill(place, None if prefix is None else prefix.outside, strength)
        if self._encoded is not None:
            self._encoded.join(row.prompt_ids, prefix, row.strength)
        self.rows.append(row)
        return row

    @torch.inference_mode()
    def leave(self, row: RunningRow) -> None:
        """Lets a row go; what it held is free for others."""
        hole = self.rows.index(row)
        num_writing = sum(each.was_prefilled for each in self.rows)
        # The last that writes fills the hole, then the last of all, so that the writing ones stay together; a prompt
        # that is being read keeps its turn.
        chain = [hole, num_writing - 1, num_writing, len(self.rows) - 1] if hole < num_writing else [hole]
        chain = [*(place for place in chain if place < len(self.rows)), len(self.rows) - 1]
        for target, source in pairwise(chain):
            self._move(source, target)
        self.rows.pop()
        if self._encoded is not None:
            self._encoded.pop()
        if not self.rows:
            self._cache.release()
            self._maps.release()

    def accept(self, row: RunningRow, token_id: int) -> None:
        """Puts the chosen token behind a row, to be computed in the next step."""
        row.pending = [token_id]

    @torch.inference_mode()
    def next_logits(self, max_prompt_tokens: int | None = None) -> tuple[list[RunningRow], Tensor, int]:
        """Computes one step: a token of each row that writes, and prompts as far as they may be read.

        Args:
            max_prompt_tokens: How many tokens of prompts are read in this step; at least one. None reads all of them.

        Returns:
            The rows whose next token can be chosen now, their logits `[rows, V]`, and the tokens of prompts that were
            read.
        """
        spans = self._spans(max_prompt_tokens)
        self._cache.reserve(len(self.rows), max(span.stop for span in spans))
        if self._encoded is not None:
            self._encoded.read(sum(row.was_prefilled for row in self.rows), len(spans))
        ids = [token for row, span in zip(self.rows, spans, strict=False) for token in row.pending[: span.length]]
        ready = [row for row, span in zip(self.rows, spans, strict=False) if span.length == len(row.pending)]
        num_read = sum(self._num_read(row, span) for row, span in zip(self.rows, spans, strict=False))
        logits = self._forward(spans, torch.tensor([ids], device=self._base.device), ready)
        for row, span in zip(self.rows, spans, strict=False):
            row.num_columns = span.stop
            row.pending = row.pending[span.length :]
            row.was_prefilled = not row.pending
        return ready, logits, num_read

    def _num_read(self, row: RunningRow, span: Span) -> int:
        """Tokens of its prompt that a row reads in a step; an encoder reads a prompt whole."""
        if row.was_prefilled:
            return 0
        return span.length if self._encoded is None else len(row.prompt_ids)

    def _spans(self, max_prompt_tokens: int | None) -> list[Span]:
        spans = []
        room = max_prompt_tokens
        for place, row in enumerate(self.rows):
            length = len(row.pending)
            if not row.was_prefilled and room is not None:
                if room <= 0:
                    break
                # An encoder reads a prompt whole.
                length = length if self._encoded is not None else min(length, room)
                room -= length if self._encoded is None else len(row.prompt_ids)
            spans.append(Span(place, row.num_columns, length, row.num_virtual_tokens, row.strength))
        return spans

    def _forward(self, spans: list[Span], input_ids: Tensor, ready: list[RunningRow]) -> Tensor:
        """Logits of the last token of each row that is ready; the others are read on in a later step."""
        lengths = [span.length for span in spans]
        num_single = sum(row.was_prefilled for row in self.rows)
        own = Columns(self._cache, spans, spans, num_single, is_causal=True)
        device = self._base.device
        columns = [column for span in spans for column in range(span.start, span.stop)]
        ends = torch.tensor(lengths).cumsum(0)[: len(ready)] - 1
        wanted = 0 if len(ready) == len(columns) else ends.to(device)
        if self._encoded is None:
            step = Step(own, self._base.geometry.num_layers, lengths, num_single, maps=self._maps)
            with stepping(self._base.model, step):
                output = self._base.model(
                    input_ids=input_ids,
                    attention_mask=self._no_mask,
                    position_ids=torch.tensor([columns], device=device),
                    use_cache=False,
                    logits_to_keep=wanted,
                )
            logits: Tensor = output.logits[0]
            return logits
        # In front of an answer a prefix takes no position.
        positions = [column - span.num_virtual_tokens for span in spans for column in range(span.start, span.stop)]
        step = Step(
            own,
            self._base.geometry.num_layers,
            lengths,
            num_single,
            first_index=self._first_index,
            crossed=self._encoded.columns(len(spans), num_single),
            positions=torch.tensor([positions], device=device),
        )
        with stepping(self._base.model, step):
            answered = self._encoded.decode(input_ids, self._no_mask)
        return answered[0] if isinstance(wanted, int) else answered[0, wanted]

    def _move(self, source: int, target: int) -> None:
        if source == target:
            return
        self._cache.move(source, target, self.rows[source].num_columns)
        self._maps.move(source, target)
        if self._encoded is not None:
            self._encoded.move(source, target)
        self.rows[target] = self.rows[source]
