"""One pass forward and back for all prefixes under training, and what to do when memory runs out."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.allocator import keep_freed_memory
from worker.engine.attention import attending
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase
from worker.engine.batches import MAX_MICRO_ROWS, SlotRow, collate, micro_batches, padded_tokens
from worker.engine.carrying import PassPrefixes, Share
from worker.engine.checkpointing import checkpointed_layers
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import OutOfMemoryError
from worker.engine.loss import target_nll
from worker.engine.side_by_side import SideBySide, dealt
from worker.engine.token_budget import token_budget

logger = logging.getLogger(__name__)

MAX_WORKERS = 4
"""Parts of a pass that are computed side by side at most; each holds its own activations."""

TOKENS_SIDE_BY_SIDE = 2048
"""Tokens of a part that is computed beside others; on the starter 1,000 to 1,500 took 8 % longer each, 4,000 15 %."""

MAX_WIDTH_SIDE_BY_SIDE = 512
"""Hidden width up to which parts are computed side by side; operators of wider models fill all cores by themselves."""


Gradients = tuple[Tensor, Tensor | None]
"""Of a bank's keys and values, and of those outside the softmax."""


class Updater:
    """Computes the gradients of several prefixes over one frozen base, each as if it were alone.

    Args:
        base: The frozen base.

    Attributes:
        micro_batch_size: Rows computed at once, of whichever prefix; halved when memory runs out, which changes no
            result.
        is_checkpointing: Whether activations are computed again: from the first row on that memory would not bear
            without, or as the last resort when it runs out.
        budget: Tokens computed at once.
    """

    def __init__(self, base: LoadedBase) -> None:
        if base.device.type == "cpu":
            keep_freed_memory()
        self.base = base
        self.budget = token_budget(base.geometry, base.device, base.dtype)
        self.micro_batch_size = MAX_MICRO_ROWS
        self.is_checkpointing = False
        self._side_by_side: SideBySide | None = None

    def accumulate(self, shares: Sequence[Share]) -> list[float]:
        """Leaves the gradient of each share's mean loss at the tensors of its parameterisation.

        Returns:
            The mean loss (nats per target token) of each share.

        Raises:
            OutOfMemoryError: Not even one row fits, with activations computed again.
        """
        longest = max(len(row) for share in shares for row in share.rows)
        num_workers = self._num_workers(longest) if len(shares) > 1 else 1
        prefixes = PassPrefixes(self.base, shares, self._workers(num_workers) if num_workers > 1 else None)
        # Without the graph, so that what makes a prefix of the trained tensors goes back once for all micro-batches.
        bank = PrefixBank.stack([prefix.apart() for prefix in prefixes.prefixes])
        losses, gradients = self._pass_with_retries(bank, shares)
        prefixes.leave(*gradients)
        return losses

    def need_no_more_than(self, micro_batch_size: int, is_checkpointing: bool) -> None:
        """Computes at most so many rows at once, because a training that is resumed found that out before."""
        self.micro_batch_size = min(self.micro_batch_size, micro_batch_size)
        self.is_checkpointing = self.is_checkpointing or is_checkpointing

    def _pass_with_retries(self, bank: PrefixBank, shares: Sequence[Share]) -> tuple[list[float], Gradients]:
        rows = [SlotRow(slot, row) for slot, share in enumerate(shares) for row in share.rows]
        longest = max(len(row.example) for row in rows)
        self._foresee(longest)
        while True:
            num_workers = self._num_workers(longest)
            tokens = min(TOKENS_SIDE_BY_SIDE, self.budget.bearable) if num_workers > 1 else self.budget.tokens
            batches = micro_batches(rows, self.micro_batch_size, tokens, multiple=num_workers)
            try:
                return self._pass(bank, batches, num_workers)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, because the error's traceback holds the pass's tensors.
            free_memory(self.base.device)
            self._need_less(max(len(batch) for batch in batches))

    def _pass(
        self, bank: PrefixBank, batches: Sequence[Sequence[SlotRow]], num_workers: int
    ) -> tuple[list[float], Gradients]:
        """Every slot's mean loss over its target tokens, and the gradients of those means for the bank."""
        num_targets = torch.zeros(bank.num_slots)
        for row in (row for batch in batches for row in batch):
            num_targets[row.slot] += len(row.example.target_ids)
        weights = (1 / num_targets).to(self.base.device)
        if len(batches) == 1 or num_workers == 1:
            gradients, totals = self._part(self.base.model, bank, batches, weights)
        else:
            shares = dealt(batches, [padded_tokens(batch) for batch in batches], num_workers)
            workers = self._workers(num_workers)
            parts = workers.map(lambda model, share: self._part(model, bank, share, weights), shares)
            of_kv, of_outside = zip(*(gradients for gradients, _ in parts), strict=True)
            gradients = (_sum(of_kv), None if bank.outside is None else _sum(of_outside))
            totals = _sum([total for _, total in parts])
        losses: list[float] = totals.tolist()
        return losses, gradients

    def _part(
        self, model: PreTrainedModel, bank: PrefixBank, batches: Sequence[Sequence[SlotRow]], weights: Tensor
    ) -> tuple[Gradients, Tensor]:
        """Gradients of the bank and summed losses of some batches; touches nothing that another thread uses."""
        device = self.base.device
        outside = None if bank.outside is None else bank.outside.detach().requires_grad_(True)
        own = PrefixBank(bank.kv.detach(), bank.lengths, outside)
        own.kv.requires_grad_(True)
        totals = torch.zeros(bank.num_slots, device=device)
        for rows in batches:
            slots = [row.slot for row in rows]
            batch = collate([row.example for row in rows], self.base.decoder_start_ids).to(device)
            memory_saver = checkpointed_layers(model) if self.is_checkpointing else nullcontext()
            with attending(model, own, slots), memory_saver:
                nll = target_nll(model, own, batch, slots)
                slot_of_target = torch.tensor(slots, device=device)[batch.rows]
                weighted = nll * weights[slot_of_target]
                weighted.sum().backward()  # type: ignore[no-untyped-call]
            totals.index_add_(0, slot_of_target, weighted.detach())
        assert own.kv.grad is not None
        return (own.kv.grad, None if outside is None else outside.grad), totals

    def _num_workers(self, longest: int) -> int:
        """Parts that are computed side by side: one for each core of a CPU, where base and rows are small."""
        is_small = self.base.device.type == "cpu" and self.base.geometry.hidden_size <= MAX_WIDTH_SIDE_BY_SIDE
        num_workers = min(torch.get_num_threads(), MAX_WORKERS) if is_small else 1
        is_ample = num_workers * max(longest, TOKENS_SIDE_BY_SIDE) <= self.budget.bearable
        return num_workers if is_ample and not self.is_checkpointing else 1

    def _workers(self, num_workers: int) -> SideBySide:
        if self._side_by_side is None or self._side_by_side.num_workers != num_workers:
            self._side_by_side = SideBySide(self.base.model, num_workers)
        return self._side_by_side

    def _foresee(self, longest: int) -> None:
        """On a CPU the system ends a process that takes too much memory, and no error comes that could be handled."""
        if longest > self.budget.bearable and not self.is_checkpointing:
            self.is_checkpointing = True
            logger.warning("a row of %d tokens would not fit into memory: activations are computed again", longest)

    def _need_less(self, num_rows: int) -> None:
        if self.micro_batch_size > 1 and num_rows > 1:
            self.micro_batch_size = num_rows // 2
        elif not self.is_checkpointing:
            self.is_checkpointing = True
        else:
            raise OutOfMemoryError(
                "The device has too little memory to train with even one row at a time. Choose a smaller base model, "
                "fewer virtual tokens or shorter rows."
            )
        logger.warning(
            "memory ran out; going on with %d rows at a time, checkpointing %s",
            self.micro_batch_size,
            "on" if self.is_checkpointing else "off",
        )


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(0)
