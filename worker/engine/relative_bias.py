"""The bias that T5's attention adds by distance, continued to the prefix: it stands where text in front would stand."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class RelativeBias:
    """The biases of one batch with the prefix's columns in front.

    Virtual token p of a prefix of length P stands at position p - P, so that the last one is next to the row's first
    token. That is how transformers counts keys and values that come from a cache, and attention to the prefix made of
    a text equals attention to that text. Cross-attention has no bias, in T5 as here.

    Args:
        lengths: Virtual tokens of each of the B rows.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self._extended: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, bias: Tensor, shape: tuple[int, int], source: nn.Module | None) -> Tensor:
        """A bias for prefix and keys, kept for the other layers that share it.

        Args:
            bias: `[1, H, T, K]`.
            shape: T queries and K keys without the prefix; the queries are the last T of the keys.
            source: The attention that turns distances into biases; None in cross-attention.

        Returns:
            `[B or 1, H, T, P + K]`.
        """
        if id(bias) not in self._extended:
            # The bias itself is kept beside its extension, so that its id cannot pass to another one.
            self._extended[id(bias)] = (bias, self._extend(bias, shape, source))
        return self._extended[id(bias)][1]

    def _extend(self, bias: Tensor, shape: tuple[int, int], source: nn.Module | None) -> Tensor:
        longest = max(self._lengths)
        if source is None:
            return nn.functional.pad(bias, (longest, 0))
        num_queries, num_seen = shape[0], shape[1] - shape[0]
        lengths = self._lengths[:1] if min(self._lengths) == longest else self._lengths
        by_length = {
            length: nn.functional.pad(_columns(source, length, num_queries, num_seen, bias), (0, longest - length))
            for length in set(lengths)
        }
        columns = torch.cat([by_length[length] for length in lengths])
        return torch.cat([columns, bias.expand(len(lengths), -1, -1, -1)], dim=-1)


def bias_sources(attentions: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each attention of a stack with the one whose bias it uses: its own, or that of the first layer (T5)."""
    source: nn.Module | None = None
    for attention in attentions:
        if getattr(attention, "has_relative_attention_bias", False):
            source = attention
        if source is not None:
            yield attention, source


def distance_bias(source: nn.Module, distances: Tensor) -> Tensor:
    """What a query adds to the scores of keys at these distances.

    Args:
        source: The attention that turns distances into biases, one that sees only what stands before.
        distances: `[Q, W]`, column of the key less that of the query.

    Returns:
        `[Q, H, W]`.
    """
    attention = cast(Any, source)
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: Tensor = attention.relative_attention_bias(buckets)
    return bias.transpose(1, 2)


def _columns(source: nn.Module, length: int, num_queries: int, num_seen: int, like: Tensor) -> Tensor:
    """`[1, H, T, length]`: what each query adds for the virtual tokens of a prefix of that length."""
    compute_bias = cast(Any, source).compute_bias
    bias: Tensor = compute_bias(num_queries, length, device=like.device, past_seen_tokens=length + num_seen)
    return bias.to(like.dtype)
