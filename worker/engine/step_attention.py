"""Attention of one step of the running rows: each adds a piece to its own keys and values and sees those alone.

All tokens of a step stand behind one another as one row of the model's input, so nothing is padded; here they part.
Rows that add one token each are attended to together, pieces of prompts one by one.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

from worker.engine.attachment import Attachment, place_in_bank
from worker.engine.dense_attention import answers_by_products, attend_answers
from worker.engine.outside import add_mapped
from worker.engine.relative_bias import distance_bias
from worker.engine.row_cache import RowCache
from worker.engine.row_maps import RowMaps


@dataclass(frozen=True)
class Span:
    """The piece that one row adds.

    Attributes:
        row: Its place in the cache.
        start: Columns that the row had before.
        length: Tokens of the piece.
        num_virtual_tokens: Length of the row's prefix, in its first columns.
        strength: How much of the prefix is attended to, above 0 and up to 1.
    """

    row: int
    start: int
    length: int
    num_virtual_tokens: int = 0
    strength: float = 1.0

    @property
    def stop(self) -> int:
        """Columns of the row with the piece."""
        return self.start + self.length


class Columns:
    """The columns of one kind that the queries of a step see: the rows' own tokens, or those of their encoders.

    Args:
        cache: Where they are.
        spans: What each row adds; those from row 0 on that have one query each come first, in the order of rows.
        written: What is written in this step; the spans themselves for own tokens.
        num_single: How many rows have one query.
        is_causal: Whether a query sees nothing behind its own column.
    """

    def __init__(
        self, cache: RowCache, spans: Sequence[Span], written: Sequence[Span], num_single: int, *, is_causal: bool
    ) -> None:
        self._cache, self._spans, self._num_single, self._is_causal = cache, spans, num_single, is_causal
        rows = [span.row for span in written for _ in range(span.length)]
        columns = [column for span in written for column in range(span.start, span.stop)]
        self._places = cache.places(rows, columns) if rows else None
        self._masks: dict[tuple[int, int | None, int], Tensor | None] = {}

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keeps the keys and values of this step, `[1, H_kv, N, D]`."""
        if self._places is not None:
            self._cache.write(layer, self._places, key, value)

    def single(self, layer: int) -> tuple[Tensor, Tensor]:
        """`[rows, H_kv, W, D]` of the rows with one query."""
        return self._cache.read(layer, 0, self._num_single, max(span.stop for span in self._spans[: self._num_single]))

    def of(self, layer: int, index: int) -> tuple[Tensor, Tensor]:
        """`[1, H_kv, W, D]` of one row."""
        span = self._spans[index]
        return self._cache.read(layer, span.row, span.row + 1, span.stop)

    def single_mask(self, window: int | None, bias: nn.Module | None, like: Tensor) -> Tensor | None:
        """`[rows, 1 or H, 1, W]`, added to the scores of the rows with one query; None where all is seen as it is."""
        key = (-1, window, id(bias))
        if key not in self._masks:
            spans = self._spans[: self._num_single]
            widths = [span.stop for span in spans]
            is_plain = min(widths) == max(widths) and (window is None or max(widths) <= window)
            columns = torch.arange(max(widths), device=like.device)
            stops = torch.tensor(widths, device=like.device)[:, None]
            visible = None if is_plain else columns < stops
            self._masks[key] = _mask(columns, stops - 1, visible, spans, window, bias, like)
        return self._masks[key]

    def mask_of(self, index: int, window: int | None, bias: nn.Module | None, like: Tensor) -> Tensor | None:
        """The same for one row with several queries, `[1, 1 or H, T, W]`."""
        key = (index, window, id(bias))
        if key not in self._masks:
            span = self._spans[index]
            columns = torch.arange(span.stop, device=like.device)
            # Queries that see all columns alike need one line of the mask for all of them.
            first = span.start if self._is_causal else span.stop - 1
            queries = torch.arange(first, span.stop, device=like.device)[:, None]
            visible = columns <= queries if self._is_causal else None
            mask = _mask(columns, queries, visible, [span], window, bias, like)
            self._masks[key] = None if mask is None else mask.transpose(0, 2)
        return self._masks[key]


class Step:
    """One forward of the running rows.

    Args:
        own: Columns of the rows' own tokens.
        num_layers: Layers of the decoder.
        first_index: Place in the bank of the first attention of the decoder.
        lengths: Tokens of each row in this step; those with one come first, as in `Columns`.
        num_single: How many rows are attended to together.
        crossed: Columns of what an encoder has read.
        positions: `[1, N]`: where the tokens of an encoder-decoder's answers stand.
        maps: What the rows' prefixes have outside the softmax, in the order of the rows.
    """

    def __init__(
        self,
        own: Columns,
        num_layers: int,
        lengths: Sequence[int],
        num_single: int,
        *,
        first_index: int = 0,
        crossed: Columns | None = None,
        positions: Tensor | None = None,
        maps: RowMaps | None = None,
    ) -> None:
        self._own, self._crossed, self._maps = own, crossed, maps
        self._num_layers, self._first_index = num_layers, first_index
        self._lengths, self._num_single = lengths, num_single
        self.positions = positions

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kwargs: dict[str, Any],
        is_eager: bool = False,
    ) -> Tensor:
        """The output `[1, N, H, D]` of a layer for the tokens of all rows.

        Args:
            module: Its attention.
            query: `[1, H, N, D]`.
            key: `[1, H_kv, N, D]`.
            value: Like `key`.
            kwargs: What else the attention got.
            is_eager: Whether the family's own eager attention computes, with its soft cap and sinks.
        """
        layer = place_in_bank(module) - self._first_index
        is_own = layer < self._num_layers
        columns, layer = (self._own, layer) if is_own else (cast(Columns, self._crossed), layer - self._num_layers)
        columns.write(layer, key, value)
        window = kwargs.get("sliding_window")
        bias = getattr(module, "prefix_bias", None) if is_own else None
        compute = _eager if is_eager else _sdpa
        outputs = []
        done = self._num_single
        if done:
            together = query[:, :, :done].transpose(0, 2)
            mask = columns.single_mask(window, bias, query)
            output = compute(module, together, *columns.single(layer), mask, kwargs)
            outputs.append(self._with_outside(layer, slice(0, done), together, output).transpose(0, 1))
        for index in range(self._num_single, len(self._lengths)):
            piece = query[:, :, done : done + self._lengths[index]]
            done += self._lengths[index]
            mask = columns.mask_of(index, window, bias, query)
            output = compute(module, piece, *columns.of(layer, index), mask, kwargs)
            outputs.append(self._with_outside(layer, slice(index, index + 1), piece, output))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _with_outside(self, layer: int, rows: slice, query: Tensor, output: Tensor) -> Tensor:
        maps = None if self._maps is None else self._maps.read(layer, rows.start, rows.stop)
        return output if maps is None else add_mapped(output, query, maps)


def follow_positions(model: PreTrainedModel) -> None:
    """Gives the tokens of an encoder-decoder's answers the positions of their rows, where these are vectors of a table.

    Such decoders (BART, Pegasus) count from the length of a cache, which in a step is another one for each row.
    """
    table = getattr(model.get_decoder(), "embed_positions", None)
    if not isinstance(table, nn.Embedding):
        return

    def look_up(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        # Read at the module, as a copy of the model has an attachment of its own.
        step = cast(Attachment, module.prefix_attachment).step
        if step is None or step.positions is None:
            return output
        positions = step.positions + int(getattr(module, "offset", 0))
        return nn.functional.embedding(positions, cast(Tensor, module.weight))

    table.register_forward_hook(look_up)


def _mask(
    columns: Tensor,
    queries: Tensor,
    visible: Tensor | None,
    spans: Sequence[Span],
    window: int | None,
    bias: nn.Module | None,
    like: Tensor,
) -> Tensor | None:
    """`[Q, 1 or H, 1, W]` for queries `[Q, 1]` at their columns; spans are one a query, or one for all.

    With nothing visible named all is visible, and there may be nothing to add.
    """
    is_weaker = any(span.strength != 1 and span.num_virtual_tokens for span in spans)
    if visible is None and bias is None and not is_weaker:
        return None
    mask = torch.zeros(len(queries), len(columns), dtype=like.dtype, device=like.device)
    if visible is not None:
        visible = visible if window is None else visible & (queries - columns < window)
        mask.masked_fill_(~visible, -math.inf)
    for index, span in enumerate(spans):
        if span.strength != 1 and span.num_virtual_tokens:
            mask[index if len(spans) > 1 else slice(None), : span.num_virtual_tokens] += math.log(span.strength)
    if bias is None:
        return mask[:, None, None]
    return (mask[:, None] + distance_bias(bias, columns - queries).to(like.dtype))[:, :, None]


def _sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    """`[B, T, H, D]` of queries `[B, H, T, D]`; heads that share keys need no copies of them."""
    num_rows, num_heads, length, width = query.shape
    if answers_by_products(query, key):
        return attend_answers(query, key, value, mask, kwargs.get("scaling")).transpose(1, 2)
    num_kv_heads = key.shape[1]
    groups = num_heads // num_kv_heads
    if groups > 1 and length == 1:
        # The heads that share keys stand as further queries of them.
        query = query.reshape(num_rows, num_kv_heads, groups, width)
        if mask is not None and mask.shape[1] > 1:
            mask = mask.reshape(num_rows, num_kv_heads, groups, -1)
    elif groups > 1 and query.device.type != "cpu":
        key, value, groups = repeat_kv(key, groups), repeat_kv(value, groups), 1
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=kwargs.get("scaling"), enable_gqa=groups > 1 and length > 1
    )
    return output.reshape(num_rows, num_heads, length, width).transpose(1, 2)


def _eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    eager_forward = sys.modules[type(module).__module__].eager_attention_forward
    output, _ = eager_forward(module, query, key, value, mask, **kwargs)
    return cast(Tensor, output)
