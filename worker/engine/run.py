"""One training between two events: what it holds, one step, one look at the validation rows."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from worker.engine.base import LoadedBase
from worker.engine.batches import BatchOrder
from worker.engine.checkpoint import Progress, TrainingState
from worker.engine.errors import ContextOverflowError, DivergedError, InvalidRecipeError
from worker.engine.evaluate import evaluate
from worker.engine.events import Diverged, Evaluated, Finished, Started, StepMetrics, StopReason
from worker.engine.example import Example
from worker.engine.parameterisation import parameterise
from worker.engine.prefix_file import PrefixArray
from worker.engine.prompt_tuning import bank_of
from worker.engine.recipe import Recipe
from worker.engine.schedule import rate_factor
from worker.engine.update import Updater

MAX_VALIDATION_ROWS = 256
"""Rows that an evaluation looks at, drawn once by the seed, so that looking stays cheap beside training."""

DIVERGENCE_RATE_SCALE = 0.3
"""Factor on the learning rate after the loss stopped being a number."""

REQUIRED = ("num_virtual_tokens", "learning_rate", "max_steps", "batch_size", "eval_every")


class Run:
    """The state of one training.

    Args:
        base: The frozen base.
        train_examples: Rows to learn from; those longer than the context are left out.
        validation_examples: Held-out rows; may be empty.
        recipe: With every field set.
        init_ids: Text that a prefix with `init: text` starts from.

    Raises:
        InvalidRecipeError: A field of the recipe is not set.
        ContextOverflowError: No training row fits into the context.
    """

    def __init__(
        self,
        base: LoadedBase,
        train_examples: Sequence[Example],
        validation_examples: Sequence[Example],
        recipe: Recipe,
        init_ids: Sequence[int],
    ) -> None:
        check_resolved(recipe)
        self.base, self.recipe = base, recipe
        self.max_steps, self.eval_every = recipe.max_steps or 0, recipe.eval_every or 0
        self.peak_rate = recipe.learning_rate or 0.0
        self.train_examples = self._fitting(train_examples)
        fitting = self._fitting(validation_examples)
        self.left_out = len(train_examples) - len(self.train_examples)
        self.left_out_validation = len(validation_examples) - len(fitting)
        self.validation_examples = draw(fitting, MAX_VALIDATION_ROWS, recipe.seed)
        self.order = BatchOrder([len(row) for row in self._trainable()], recipe.batch_size or 0, recipe.seed)
        self.updater = Updater(base, recipe, parameterise(base, recipe, init_ids))
        self.step = self.best_step = self.evaluated_step = self.bad_evaluations = 0
        self.best_loss: float | None = None
        self.base_loss: float | None = None
        self.rate_scale = 1.0
        self.best_numbers = self._numbers()
        self.last_good = self.snapshot()

    def started(self) -> Started:
        """What is about to run."""
        return Started(
            num_parameters=self.best_numbers.numel(),
            num_base_parameters=self.base.num_parameters,
            max_steps=self.max_steps,
            first_step=self.step,
            num_train=len(self.train_examples),
            num_validation=len(self.validation_examples),
            left_out=self.left_out,
            left_out_validation=self.left_out_validation,
        )

    def advance(self) -> StepMetrics | Diverged:
        """Does one update; where its loss is no number, goes back to the last kept state with a lower rate.

        Raises:
            DivergedError: That happened before.
        """
        began = time.perf_counter()
        rows = [self.train_examples[index] for index in self.order.rows_of(self.step)]
        rate = self.peak_rate * self.rate_scale * rate_factor(self.step, self.max_steps, self.recipe.warmup_fraction)
        result = self.updater.update(rows, rate)
        if not (math.isfinite(result.loss) and math.isfinite(result.gradient_norm)):
            return self._go_back()
        self.step += 1
        num_tokens = sum(len(row) for row in rows)
        per_second = num_tokens / max(time.perf_counter() - began, 1e-9)
        return StepMetrics(self.step, result.loss, rate, per_second, num_tokens, result.gradient_norm)

    def look(self) -> Iterator[Evaluated]:
        """Evaluates, and keeps the state if it is the best; without validation rows the last state is the best."""
        self.evaluated_step = self.step
        if not self.validation_examples:
            self.best_step, self.best_numbers = self.step, self._numbers()
            return
        if self.base_loss is None:
            self.base_loss = evaluate(self.base, None, self.validation_examples).loss
        with torch.no_grad():
            bank = bank_of(self.base, self.recipe.method, self.updater.parameterisation.numbers())
        loss = evaluate(self.base, bank, self.validation_examples).loss
        is_best = math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        if is_best:
            self.best_loss, self.best_step, self.best_numbers = loss, self.step, self._numbers()
        self.bad_evaluations = 0 if is_best else self.bad_evaluations + 1
        yield Evaluated(self.step, loss, is_best, self.base_loss)

    def keep(self) -> TrainingState:
        """Takes a snapshot and goes back to it if the loss diverges later."""
        self.last_good = self.snapshot()
        return self.last_good

    def snapshot(self) -> TrainingState:
        """Everything from which this training goes on exactly, copied to the CPU."""
        tensors = prefixed("parameters.", self.updater.parameterisation.state())
        tensors |= prefixed("moments.", self.updater.moments()) | {"best_numbers": self.best_numbers.clone()}
        progress = Progress(
            step=self.step,
            best_step=self.best_step,
            best_loss=self.best_loss,
            base_loss=self.base_loss,
            evaluated_step=self.evaluated_step,
            bad_evaluations=self.bad_evaluations,
            rate_scale=self.rate_scale,
            micro_batch_size=self.updater.micro_batch_size,
            is_checkpointing=self.updater.is_checkpointing,
            num_train=len(self.train_examples),
            recipe=self.recipe.to_dict(),
        )
        return TrainingState(tensors, progress)

    def resume(self, state: TrainingState) -> None:
        """Goes on from a snapshot.

        Raises:
            InvalidRecipeError: It is of another recipe or other rows.
        """
        if state.progress.recipe != self.recipe.to_dict() or state.progress.num_train != len(self.train_examples):
            raise InvalidRecipeError(
                "The checkpoint is of another recipe or of other rows; expected the same ones. Start the training anew."
            )
        self._restore(state)
        self.rate_scale = state.progress.rate_scale
        self.updater.micro_batch_size = state.progress.micro_batch_size
        self.updater.is_checkpointing = state.progress.is_checkpointing
        self.last_good = state

    def finished(self, reason: StopReason) -> Finished:
        """The best state, and how the training went."""
        values = self.best_numbers[0].numpy()
        prefix = PrefixArray.of(self.recipe.method, values)
        return Finished(prefix, self.best_step, self.step, reason, self.base_loss, self.best_loss)

    def _go_back(self) -> Diverged:
        failed = self.step + 1
        if self.rate_scale < 1.0:
            raise DivergedError(
                f"The loss stopped being a number at step {failed}, again after going back with a lower rate "
                f"({self.peak_rate * self.rate_scale:g}). Start anew with a learning rate ten times lower."
            )
        self._restore(self.last_good)
        self.rate_scale = DIVERGENCE_RATE_SCALE
        return Diverged(failed, self.step, self.peak_rate * self.rate_scale)

    def _restore(self, state: TrainingState) -> None:
        progress = state.progress
        self.updater.parameterisation.load(unprefixed("parameters.", state.tensors))
        self.updater.load_moments(unprefixed("moments.", state.tensors))
        self.best_numbers = state.tensors["best_numbers"].clone()
        self.step, self.best_step = progress.step, progress.best_step
        self.best_loss, self.base_loss = progress.best_loss, progress.base_loss
        self.evaluated_step, self.bad_evaluations = progress.evaluated_step, progress.bad_evaluations

    @torch.no_grad()
    def _numbers(self) -> Tensor:
        return self.updater.parameterisation.numbers().cpu().clone()

    def _fitting(self, examples: Sequence[Example]) -> list[Example]:
        room = self.base.geometry.context_length - (self.recipe.num_virtual_tokens or 0)
        return [example for example in examples if len(example) <= room]

    def _trainable(self) -> list[Example]:
        if not self.train_examples:
            raise ContextOverflowError(
                f"No training row fits into the model's context of {self.base.geometry.context_length} tokens with "
                f"{self.recipe.num_virtual_tokens} virtual tokens in front. Shorten the prompts or the prefix."
            )
        return self.train_examples


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_resolved(recipe: Recipe) -> None:
    """Refuses a recipe in which something is still to be chosen.

    Raises:
        InvalidRecipeError: Naming the field.
    """
    unset = [name for name in REQUIRED if getattr(recipe, name) is None]
    if unset:
        raise InvalidRecipeError(f"{unset[0]} is not set; expected a recipe that automatic.resolve has completed.")


def draw(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """At most `count` of the rows, the same for the same seed."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [examples[index] for index in order[:count]]
