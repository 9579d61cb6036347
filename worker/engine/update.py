"""One update of the trained numbers: micro-batches, clipping, AdamW, and what to do when memory runs out."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.attention import attending
from worker.engine.base import LoadedBase
from worker.engine.batches import collate
from worker.engine.checkpointing import checkpointed_layers
from worker.engine.device_memory import free_memory, is_out_of_memory
from worker.engine.errors import OutOfMemoryError
from worker.engine.example import Example
from worker.engine.loss import forward_loss, row_slots
from worker.engine.parameterisation import Parameterisation
from worker.engine.prompt_tuning import bank_of
from worker.engine.recipe import Recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UpdateResult:
    """Mean loss per target token before the update, and the gradient's norm before clipping."""

    loss: float
    gradient_norm: float


class Updater:
    """Holds the trained numbers and their optimiser.

    Args:
        base: The frozen base.
        recipe: Fully resolved.
        parameterisation: What is trained.

    Attributes:
        micro_batch_size: Rows computed at once; halved when memory runs out, with the same effective batch.
        is_checkpointing: Whether activations are computed again; the last resort when memory runs out.
    """

    def __init__(self, base: LoadedBase, recipe: Recipe, parameterisation: Parameterisation) -> None:
        assert recipe.batch_size is not None
        self.base = base
        self.recipe = recipe
        self.parameterisation = parameterisation
        groups = parameterisation.groups()
        self.tensors = [tensor for group in groups for tensor in group.tensors]
        self.rate_factors = [group.rate_factor for group in groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": list(group.tensors)} for group in groups],
            lr=0.0,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.micro_batch_size = recipe.batch_size
        self.is_checkpointing = False

    def update(self, examples: Sequence[Example], learning_rate: float) -> UpdateResult:
        """Does one step, unless loss or gradient is not a finite number; then nothing changes.

        Raises:
            OutOfMemoryError: Not even one row fits, with activations computed again.
        """
        loss = self._accumulate_with_retries(examples)
        norm = self._clip([tensor.grad for tensor in self.tensors if tensor.grad is not None])
        result = UpdateResult(loss, norm)
        if torch.isfinite(torch.tensor([loss, norm])).all():
            for group, factor in zip(self.optimizer.param_groups, self.rate_factors, strict=True):
                group["lr"] = learning_rate * factor
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def moments(self) -> dict[str, Tensor]:
        """The optimiser's state by name, copied to the CPU; empty before the first update."""
        return {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, tensor in enumerate(self.tensors)
            for name, value in self.optimizer.state.get(tensor, {}).items()
        }

    def load_moments(self, moments: Mapping[str, Tensor]) -> None:
        """Takes what `moments` gave."""
        self.optimizer.state.clear()
        for key, value in moments.items():
            index, name = key.split(".", 1)
            tensor = self.tensors[int(index)]
            self.optimizer.state[tensor][name] = value.clone().to(tensor.device)

    def _clip(self, gradients: Sequence[Tensor]) -> float:
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in gradients])))
        limit = self.recipe.max_grad_norm
        if 0 < limit < norm:
            for part in gradients:
                part.mul_(limit / norm)
        return norm

    def _accumulate_with_retries(self, examples: Sequence[Example]) -> float:
        while True:
            try:
                return self._accumulate(examples)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, because the error's traceback holds the step's tensors.
            self.optimizer.zero_grad(set_to_none=True)
            free_memory(self.base.device)
            self._need_less(len(examples))

    def _accumulate(self, examples: Sequence[Example]) -> float:
        """Adds up the gradient of the mean loss over the batch's target tokens; returns that mean."""
        num_targets = sum(len(example.target_ids) for example in examples)
        total = torch.zeros((), device=self.base.device)
        model = self.base.model
        for start in range(0, len(examples), self.micro_batch_size):
            batch = collate(examples[start : start + self.micro_batch_size]).to(self.base.device)
            # Before layers are checkpointed: input vectors are computed without the prefix that they become.
            bank = bank_of(self.base, self.recipe.method, self.parameterisation.numbers())
            memory_saver = checkpointed_layers(model) if self.is_checkpointing else nullcontext()
            with attending(model, bank, row_slots(bank, batch)), memory_saver:
                loss = forward_loss(model, bank, batch) / num_targets
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total)

    def _need_less(self, num_rows: int) -> None:
        if self.micro_batch_size > 1:
            self.micro_batch_size = max(min(self.micro_batch_size, num_rows) // 2, 1)
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
