"""What the attention of a model finds at each of its modules: the prefixes of the batch that is being computed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from worker.engine.bank import NO_PREFIX, PrefixBank, Slots
from worker.engine.outside import maps_of
from worker.engine.prefix_mask import PrefixMask
from worker.engine.relative_bias import RelativeBias

if TYPE_CHECKING:
    from worker.engine.step_attention import Step


class ActivePrefixes:
    """The prefixes of one batch, ready for every layer to take.

    Args:
        bank: Slots to choose from.
        slots: Slot of each of the B rows.
        strengths: How much of its prefix each row attends to, above 0 and up to 1; None is all of it.
    """

    def __init__(self, bank: PrefixBank, slots: Slots, strengths: tuple[float, ...] | None = None) -> None:
        self.slots = tuple(int(slot) for slot in slots)
        self.lengths = bank.row_lengths(self.slots)
        self.num_columns = max(self.lengths, default=0)
        self._strengths = strengths
        # Unbinding once makes the backward pass stack the layers' gradients, not add L tensors of the whole size.
        self._layers = bank.kv[..., : self.num_columns, :].unbind(1)
        self._rows: dict[int, Tensor] = {}
        self._maps = None if bank.outside is None else maps_of(bank.outside).unbind(1)
        shares = strengths or (1.0,) * len(self.slots)
        self._shares = [0.0 if slot == NO_PREFIX else share for slot, share in zip(self.slots, shares, strict=True)]
        self.mask: PrefixMask | None = None
        self.relative_bias = RelativeBias(self.lengths)

    def start_forward(self, position_ids: Tensor) -> None:
        """Takes the positions of the tokens that are about to be computed, `[B or 1, T]`."""
        self.mask = PrefixMask(self.lengths, position_ids, self._strengths)

    def start_without_positions(self, device: torch.device) -> None:
        """For encoder-decoders, where a prefix takes no position and every token sees all of it."""
        self.start_forward(torch.zeros(1, 1, dtype=torch.long, device=device))

    def rows(self, layer_idx: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H_kv, P, D]` of a layer in the number format of `like`."""
        kept = self._rows.get(layer_idx)
        if kept is None:
            kept = self._gather(self._layers[layer_idx], like.dtype)
            if not kept.requires_grad:
                self._rows[layer_idx] = kept
        return cast(tuple[Tensor, Tensor], kept.unbind(1))

    def maps(self, layer_idx: int, like: Tensor) -> Tensor | None:
        """What stands outside the softmax of a layer, `[B, H_kv, D, D]` in the number format of `like`, if anything."""
        if self._maps is None:
            return None
        layer = self._maps[layer_idx]
        slots = torch.tensor(self.slots, device=layer.device).clamp(min=0)
        shares = torch.tensor(self._shares, device=layer.device, dtype=layer.dtype)
        return (layer[slots] * shares[:, None, None, None]).to(like.dtype)

    def _gather(self, layer: Tensor, dtype: torch.dtype) -> Tensor:
        first = self.slots[0]
        if all(slot == first for slot in self.slots):
            return layer[max(first, 0)].to(dtype).expand(len(self.slots), *layer.shape[1:])
        # A row without a prefix borrows slot 0, of which its mask shows nothing.
        return layer[torch.tensor(self.slots, device=layer.device).clamp(min=0)].to(dtype)


@dataclass
class RecordedKV:
    """Keys and values that a forward computed, by layer, as attention saw them (after rotary embedding)."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def stacked(self) -> Tensor:
        """`[B, L, 2, H_kv, T, D]` of the last forward."""
        return torch.stack([torch.stack(self.layers[index], dim=1) for index in sorted(self.layers)], dim=1)


@dataclass
class Attachment:
    """The state of one model, shared by its modules."""

    active: ActivePrefixes | None = None
    recorded: RecordedKV | None = None
    has_positions: bool = True
    step: "Step | None" = None


def attachment_of(module: nn.Module) -> Attachment:
    """The state that `attention.install` gave a module."""
    return cast(Attachment, module.prefix_attachment)


def place_in_bank(module: nn.Module) -> int:
    """Which attention of the bank a module is: its `layer_idx`, or what `install` numbered it."""
    return cast(int, module.prefix_index if hasattr(module, "prefix_index") else module.layer_idx)
