"""What the encoder has read for the running rows: the keys and values that their answers attend to."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.row_cache import RowCache
from worker.engine.step_attention import Columns, Span


@dataclass(frozen=True)
class _Prompt:
    """One prompt; its `span` is where the columns of the encoder's states stand, behind the prefix."""

    ids: tuple[int, ...]
    prefix: SlotPrefix | None
    span: Span


class EncodedPrompts:
    """Prompts of the running rows, in the places of the rows.

    Args:
        base: An encoder-decoder.
    """

    def __init__(self, base: LoadedBase) -> None:
        self._base = base
        measured = base.geometry
        self._cache = RowCache(
            measured.num_layers, measured.num_kv_heads, measured.head_dim, base.model.dtype, base.device
        )
        self._prompts: list[_Prompt] = []
        self._read_now: list[_Prompt] = []
        self._states = torch.empty(0)

    def join(self, prompt_ids: tuple[int, ...], prefix: SlotPrefix | None, strength: float) -> None:
        """Takes the prompt of a row in, behind the others."""
        place, length = len(self._prompts), 0 if prefix is None else prefix.num_virtual_tokens
        span = Span(place, length, len(prompt_ids), length, strength)
        self._cache.reserve(place + 1, span.stop)
        if prefix is not None:
            measured = self._base.geometry
            self._cache.fill(place, prefix.kv[measured.num_encoder_layers + measured.num_layers :])
        self._prompts.append(_Prompt(prompt_ids, prefix, span))

    def move(self, source: int, target: int) -> None:
        """Puts one row's columns in the place of another."""
        moved = self._prompts[source]
        self._cache.move(source, target, moved.span.stop)
        self._prompts[target] = replace(moved, span=replace(moved.span, row=target))

    def pop(self) -> None:
        """Lets the last row go."""
        self._prompts.pop()
        if not self._prompts:
            self._cache.release()

    def read(self, start: int, stop: int) -> None:
        """Lets the encoder read the prompts from one place to another; the next `decode` keeps what it made of them."""
        self._read_now = self._prompts[start:stop]
        if not self._read_now:
            return
        model, device = self._base.model, self._base.device
        longest = max(len(prompt.ids) for prompt in self._read_now)
        padded = [[*prompt.ids, *[0] * (longest - len(prompt.ids))] for prompt in self._read_now]
        mask = [[1] * len(prompt.ids) + [0] * (longest - len(prompt.ids)) for prompt in self._read_now]
        prefixes = {id(prompt.prefix): prompt.prefix for prompt in self._read_now if prompt.prefix is not None}
        bank = PrefixBank.stack(list(prefixes.values())) if prefixes else None
        places = {key: place for place, key in enumerate(prefixes)}
        slots = [places.get(id(prompt.prefix), NO_PREFIX) for prompt in self._read_now]
        strengths = [prompt.span.strength if prompt.prefix is not None else 1.0 for prompt in self._read_now]
        with attending(model, bank, slots, strengths):
            states = model.get_encoder()(
                input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(mask, device=device)
            ).last_hidden_state
        real = [row[: len(prompt.ids)] for row, prompt in zip(states, self._read_now, strict=True)]
        self._states = torch.cat(real)[None]

    def columns(self, num_rows: int, num_single: int) -> Columns:
        """What the first rows attend to in this step."""
        spans = [prompt.span for prompt in self._prompts[:num_rows]]
        written = [prompt.span for prompt in self._read_now]
        return Columns(self._cache, spans, written, num_single, is_causal=False)

    def decode(self, input_ids: Tensor, no_mask: Tensor) -> Tensor:
        """Logits `[1, N, V]` behind tokens of answers, within `stepping`."""
        cache = EncoderDecoderCache(_Passing(), _Passing())
        is_known = not self._read_now
        cache.is_updated = dict.fromkeys(range(self._base.geometry.num_layers), is_known)
        if is_known:
            # Models look at the states' length before they see that no keys are to be made of them.
            self._states = torch.zeros(1, 1, self._base.geometry.hidden_size, device=self._base.device)
            self._states = self._states.to(self._base.model.dtype)
        output = self._base.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._states),
            attention_mask=no_mask,
            decoder_input_ids=input_ids,
            decoder_attention_mask=no_mask,
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits


class _Passing(DynamicCache):  # type: ignore[misc]
    """A cache that keeps nothing: what the model would keep is in the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _Nothing()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _Nothing(list[Any]):
    """Layers without keys, however many."""

    keys = values = torch.zeros(1, 1, 1, 1)

    def __getitem__(self, index: Any) -> Any:
        return self
