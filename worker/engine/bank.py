"""The bank of slots: S prefixes as one tensor, of which every row of a batch names its own; knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.engine.families import COLUMNS_PER_TOKEN
from worker.engine.recipe import Method

NO_PREFIX = -1
"""Slot of a row that has no prefix: the untouched base model answers it."""

Slots = Sequence[int]
"""Per row of a batch the index of its prefix in the bank, or `NO_PREFIX`."""


@dataclass(frozen=True)
class SlotPrefix:
    """One prefix for use.

    Attributes:
        kv: `[L, 2, H_kv, P, D]`, in front of the keys and values of every attention.
        outside: `[L, 2, H_kv, R, D]`, keys and values outside the softmax; None for a prefix without.
    """

    kv: Tensor
    outside: Tensor | None = None

    @property
    def num_virtual_tokens(self) -> int:
        """P."""
        return int(self.kv.shape[3])

    @property
    def nbytes(self) -> int:
        """Memory of its numbers."""
        return self.kv.nbytes + (0 if self.outside is None else self.outside.nbytes)

    def apart(self) -> "SlotPrefix":
        """A copy in fp32 without its graph."""
        return SlotPrefix(self.kv.detach().float(), None if self.outside is None else self.outside.detach().float())

    @classmethod
    def of(cls, method: Method, kv: Tensor) -> "SlotPrefix":
        """Of the keys and values `[L, 2, H_kv, columns, D]` of a method; with plus the latter half stands outside."""
        return cls(*kv.chunk(COLUMNS_PER_TOKEN[method], dim=3))


class PrefixBank(nn.Module):
    """S prefixes in front of every layer's keys and values.

    Shapes: S slots, L layers, 2 for key and value, H_kv key/value heads, P virtual tokens, D head width.

    Args:
        kv: `[S, L, 2, H_kv, P, D]`, keys after rotary embedding at positions 0..P-1.
        lengths: Virtual tokens of each slot; its further columns are never attended to. All P by default.
        outside: `[S, L, 2, H_kv, R, D]`, keys and values outside the softmax (see `outside.maps_of`); slots without
            have zeros, and None is none in any slot.
        trainable: Whether `kv` becomes a parameter; else it stays what it is, with its graph if it has one.

    Raises:
        ValueError: A shape or a length does not fit.

    Source: Li and Liang 2021, arXiv 2101.00190, section 4.2; without their reparameterisation.
    """

    kv: Tensor

    def __init__(
        self,
        kv: Tensor,
        lengths: Sequence[int] | None = None,
        outside: Tensor | None = None,
        *,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if kv.ndim != 6 or kv.shape[2] != 2:
            raise ValueError(f"kv has shape {tuple(kv.shape)}; expected [S, L, 2, H_kv, P, D].")
        num_slots, num_virtual_tokens = kv.shape[0], kv.shape[4]
        self.lengths = tuple(int(length) for length in lengths) if lengths else (num_virtual_tokens,) * num_slots
        if len(self.lengths) != num_slots or not all(0 < length <= num_virtual_tokens for length in self.lengths):
            raise ValueError(
                f"lengths are {self.lengths}; expected {num_slots} numbers from 1 to {num_virtual_tokens}."
            )
        self.outside = outside
        if trainable:
            self.kv = nn.Parameter(kv)
        else:
            self.register_buffer("kv", kv, persistent=False)

    @classmethod
    def stack(cls, prefixes: Sequence[SlotPrefix]) -> "PrefixBank":
        """One bank of prefixes that may differ in length; slot i of the bank is the i-th."""
        lengths = [prefix.num_virtual_tokens for prefix in prefixes]
        kv = torch.stack([_padded(prefix.kv, max(lengths)) for prefix in prefixes])
        ranks = [0 if prefix.outside is None else prefix.outside.shape[3] for prefix in prefixes]
        if not any(ranks):
            return cls(kv, lengths)
        outsides = [prefix.kv[..., :0, :] if prefix.outside is None else prefix.outside for prefix in prefixes]
        return cls(kv, lengths, torch.stack([_padded(outside, max(ranks)) for outside in outsides]))

    @property
    def num_slots(self) -> int:
        """S."""
        return int(self.kv.shape[0])

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.kv.shape[1])

    @property
    def num_virtual_tokens(self) -> int:
        """P, the columns of the longest slot."""
        return int(self.kv.shape[4])

    def prefix(self, slot: int) -> SlotPrefix | None:
        """One prefix as long as it is; None for `NO_PREFIX`."""
        (length,) = self.row_lengths([slot])
        if not length:
            return None
        outside = None if self.outside is None else self.outside[slot].detach()
        has_outside = outside is not None and bool(outside.any())
        return SlotPrefix(self.kv[slot, ..., :length, :].detach(), outside if has_outside else None)

    def row_lengths(self, slots: Slots) -> tuple[int, ...]:
        """Virtual tokens in front of each row; 0 for a row without a prefix.

        Raises:
            ValueError: A slot is neither in the bank nor `NO_PREFIX`.
        """
        wrong = [slot for slot in slots if slot != NO_PREFIX and not 0 <= slot < self.num_slots]
        if wrong:
            raise ValueError(f"slot is {wrong[0]}; expected 0 to {self.num_slots - 1}, or {NO_PREFIX} for no prefix.")
        return tuple(0 if slot == NO_PREFIX else self.lengths[slot] for slot in slots)


def _padded(numbers: Tensor, length: int) -> Tensor:
    """With columns of zeros behind those that it has."""
    return nn.functional.pad(numbers, (0, 0, 0, length - numbers.shape[3]))


def position_ids_for(attention_mask: Tensor, bank: PrefixBank | None, slots: Slots) -> Tensor:
    """Positions of the tokens of each row: they go on where the row's prefix ends.

    Args:
        attention_mask: `[B, T]`, 1 for a token and 0 for padding, on either side; with a cache its whole length.
        bank: Where the slots' lengths stand; None means that no row has a prefix.
        slots: Slot of each of the B rows.

    Returns:
        `[B, T]`; padding takes the place of its nearest token, so that no table of positions is overrun.
    """
    lengths = bank.row_lengths(slots) if bank is not None else (0,) * len(attention_mask)
    starts = torch.tensor(lengths, device=attention_mask.device).unsqueeze(1)
    return starts + (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
