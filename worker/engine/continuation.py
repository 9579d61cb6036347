"""The forwards of a generation: each gives the next token's logits of every row and keeps what it computed.

Knows no sampling and no text; which row has ended is told from outside.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from worker.engine.attention import attending
from worker.engine.bank import PrefixBank, Slots, position_ids_for
from worker.engine.base import LoadedBase


class Continuation(Protocol):
    """Rows that are continued token by token."""

    def next_logits(self) -> Tensor:
        """Logits `[rows, V]` of each row's next token."""

    def go_on(self, token_ids: Sequence[int], kept: Sequence[int]) -> None:
        """Puts the chosen tokens behind the rows that have not ended, and lets the others go.

        Args:
            token_ids: Of the rows that go on.
            kept: Their places in the last `next_logits`.
        """


def continue_prompts(
    base: LoadedBase, bank: PrefixBank | None, prompts: Sequence[Sequence[int]], slots: Slots
) -> Continuation:
    """Starts to continue rows, each with its own prefix.

    Args:
        base: The loaded base.
        bank: The prefixes that slots name; None where no row has one.
        prompts: Ids of each row's prompt.
        slots: Prefix of each row.
    """
    kind = Encoded if base.geometry.has_encoder else Decoded
    return kind(base, bank, prompts, slots)


class Decoded:
    """Prompts and answers as one text each, padded on the left."""

    def __init__(
        self, base: LoadedBase, bank: PrefixBank | None, prompts: Sequence[Sequence[int]], slots: Slots
    ) -> None:
        self._base, self._bank, self._slots = base, bank, list(slots)
        # Without the config every layer keeps all its keys, so that masks have one width; windows are in the masks.
        self._cache = DynamicCache()
        longest = max((len(prompt) for prompt in prompts), default=0)
        padded = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self._input_ids = torch.tensor(padded, device=base.device)
        self._mask = torch.tensor(mask, device=base.device)

    @torch.inference_mode()
    def next_logits(self) -> Tensor:
        """Logits `[rows, V]` of each row's next token."""
        positions = position_ids_for(self._mask, self._bank, self._slots)[:, -self._input_ids.shape[1] :]
        with attending(self._base.model, self._bank, self._slots):
            output = self._base.model(
                input_ids=self._input_ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def go_on(self, token_ids: Sequence[int], kept: Sequence[int]) -> None:
        """See `Continuation`."""
        device = self._base.device
        self._input_ids = torch.tensor(token_ids, device=device)[:, None]
        if len(kept) < len(self._slots):
            indices = torch.tensor(kept, device=device)
            self._cache.batch_select_indices(indices)
            self._mask = self._mask[indices]
            self._slots = [self._slots[place] for place in kept]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(kept), 1)], dim=1)


class Encoded:
    """Prompts that the encoder has read once, and answers that begin alike and grow in step, so need no padding."""

    def __init__(
        self, base: LoadedBase, bank: PrefixBank | None, prompts: Sequence[Sequence[int]], slots: Slots
    ) -> None:
        self._base, self._bank, self._slots = base, bank, list(slots)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        longest = max((len(prompt) for prompt in prompts), default=0)
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        mask = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        self._prompt_ids: Tensor | None = torch.tensor(padded, device=base.device)
        self._mask = torch.tensor(mask, device=base.device)
        self._states = torch.empty(0)
        self._input_ids = torch.tensor([base.decoder_start_ids] * len(prompts), device=base.device)

    @torch.inference_mode()
    def next_logits(self) -> Tensor:
        """Logits `[rows, V]` of each row's next token; the encoder reads the prompts when it is called first."""
        model = self._base.model
        with attending(model, self._bank, self._slots):
            if self._prompt_ids is not None:
                encoder = model.get_encoder()
                self._states = encoder(input_ids=self._prompt_ids, attention_mask=self._mask).last_hidden_state
                self._prompt_ids = None
            output = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
                attention_mask=self._mask,
                decoder_input_ids=self._input_ids,
                past_key_values=self._cache,
                use_cache=True,
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def go_on(self, token_ids: Sequence[int], kept: Sequence[int]) -> None:
        """See `Continuation`."""
        device = self._base.device
        self._input_ids = torch.tensor(token_ids, device=device)[:, None]
        if len(kept) < len(self._slots):
            indices = torch.tensor(kept, device=device)
            self._cache.batch_select_indices(indices)
            self._mask, self._states = self._mask[indices], self._states[indices]
            self._slots = [self._slots[place] for place in kept]
