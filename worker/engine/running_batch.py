"""The running batch of a base in tokens and texts: each row with its own sampling and end."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.bank import SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.continuation import Continuation, RunningRow
from worker.engine.detokenise import Detokeniser, StopFilter
from worker.engine.generation_row import FinishReason, GenerationRow, TokenEvent
from worker.engine.sampling import Choice, Sampler, choose_all


class WritingRow:
    """One row on its way: its draws, its text, its count.

    Attributes:
        row: What it asked for.
        running: Its place in the batch.
        sampler: Draws its tokens.
        first_logits: `[V]` of its first token, once that is chosen.
    """

    def __init__(self, row: GenerationRow, base: LoadedBase, running: RunningRow) -> None:
        self.row = row
        self.running = running
        self.sampler = Sampler(row.temperature, row.top_p, row.seed, num_top=row.top_logprobs)
        self.first_logits: Tensor | None = None
        # What an encoder has read stands in front of no answer.
        self._text = Detokeniser(base.tokenizer, base.decoder_start_ids or row.prompt_ids)
        self._stop = StopFilter(row.stop)
        self._num_tokens = 0

    def accept(self, choice: Choice) -> TokenEvent:
        """Takes the row's next token and says what may be shown."""
        self._num_tokens += 1
        is_end = choice.token_id in self.row.end_ids
        is_last = is_end or self._num_tokens == self.row.max_new_tokens
        text = "" if is_end else self._text.push(choice.token_id)
        shown, is_stopped = self._stop.push(text + (self._text.flush() if is_last else ""))
        if is_last and not is_stopped:
            shown += self._stop.flush()
        reason: FinishReason | None = "stop" if is_stopped or is_end else "length" if is_last else None
        return TokenEvent(0, choice.token_id, shown, reason, choice.logprob, choice.top)


class RunningBatch:
    """Rows of any requests that are answered together.

    Args:
        base: The loaded base, attention installed.
    """

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        self._continuation = Continuation(base)
        self._writing: dict[RunningRow, WritingRow] = {}
        self.num_read = 0
        """Tokens of prompts that were read so far."""

    @property
    def num_rows(self) -> int:
        """Rows that are under way."""
        return len(self._writing)

    @property
    def num_reading(self) -> int:
        """Rows whose prompts are not read to their end."""
        return sum(not row.was_prefilled for row in self._writing)

    def bytes_with(self, more: Sequence[tuple[GenerationRow, SlotPrefix | None]]) -> int:
        """Memory of all rows at their longest, together with more of them.

        Args:
            more: Rows with their prefixes.
        """
        under_way = [(each.row, each.running.num_virtual_tokens) for each in self._writing.values()]
        asked = [(row, 0 if prefix is None else prefix.num_virtual_tokens) for row, prefix in more]
        longest = max((_num_columns(row, length) for row, length in [*under_way, *asked]), default=0)
        joining = any(prefix is not None and prefix.outside is not None for _, prefix in more)
        has_outside = joining or any(each.running.has_outside for each in self._writing.values())
        row_bytes = longest * self._continuation.column_bytes + has_outside * self._continuation.outside_bytes
        return (len(under_way) + len(asked)) * row_bytes

    def join(self, row: GenerationRow, prefix: SlotPrefix | None = None) -> WritingRow:
        """Takes a row in; the next step begins to read its prompt.

        Args:
            row: What it asks for; its slot is not looked at.
            prefix: What stands in front of it, if anything.
        """
        running = self._continuation.join(row.prompt_ids, prefix, row.strength)
        self._writing[running] = WritingRow(row, self._base, running)
        return self._writing[running]

    def leave(self, writing: WritingRow) -> None:
        """Lets a row go, whether it has ended or not."""
        if self._writing.pop(writing.running, None) is not None:
            self._continuation.leave(writing.running)

    @torch.inference_mode()
    def step(self, max_prompt_tokens: int | None = None) -> list[tuple[WritingRow, TokenEvent]]:
        """One token of every row whose prompt is read; a row that has ended has to `leave` before the next step.

        Args:
            max_prompt_tokens: How many tokens of prompts are read in this step; None reads all.

        Returns:
            The rows that got a token with it; `TokenEvent.row` says nothing.
        """
        ready, logits, num_read = self._continuation.next_logits(max_prompt_tokens)
        self.num_read += num_read
        writing = [self._writing[row] for row in ready]
        for each, row_logits in zip(writing, logits, strict=True):
            if each.first_logits is None:
                each.first_logits = row_logits.clone()
        choices = choose_all(logits, [each.sampler for each in writing])
        for row, choice in zip(ready, choices, strict=True):
            self._continuation.accept(row, choice.token_id)
        return [(each, each.accept(choice)) for each, choice in zip(writing, choices, strict=True)]


def _num_columns(row: GenerationRow, num_virtual_tokens: int) -> int:
    return num_virtual_tokens + len(row.prompt_ids) + row.max_new_tokens
