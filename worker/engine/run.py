"""One training between two events: its slots, one step, one look at the validation rows."""

from collections.abc import Iterator, Sequence

import torch

from worker.engine.batches import BatchOrder
from worker.engine.carrying import Share
from worker.engine.checkpoint import TrainingState
from worker.engine.errors import DivergedError, InvalidRecipeError
from worker.engine.evaluate import evaluate
from worker.engine.events import (
    Chosen,
    Compared,
    Diverged,
    Eliminated,
    Evaluated,
    Event,
    Finished,
    Looked,
    Started,
    StepMetrics,
    StopReason,
)
from worker.engine.prefix_file import PrefixArray
from worker.engine.progress import Candidate, EvaluationPoint, Progress, StepPoint
from worker.engine.prompt_tuning import bank_of
from worker.engine.slot import Slot
from worker.engine.sweep import all_standing, judged_loss, leader, worse_half
from worker.engine.token_dropout import EPOCHS_BEFORE, shown_tokens
from worker.engine.training import Training, check_resolved, first_slots, fitting_rows
from worker.engine.update import Updater

MAX_DIVERGENCES = 2
"""How often a training goes back with a lower rate before it fails."""


class Run:
    """The state of one training. It has one slot, or one for each learning rate that is being compared.

    All slots learn from the same rows in the same order, so they are always at the same step.

    Args:
        updater: Shared by all trainings over the same base.
        training: What is wanted.

    Raises:
        InvalidRecipeError: A field of the recipe is not set.
        ContextOverflowError: No training row fits into the context.
    """

    def __init__(self, updater: Updater, training: Training) -> None:
        check_resolved(training.recipe)
        self.updater, self.base, self.recipe = updater, updater.base, training.recipe
        self.max_steps, self.eval_every = training.recipe.max_steps or 0, training.recipe.eval_every or 0
        self.rows = fitting_rows(self.base, training)
        lengths = [len(row) for row in self.rows.train]
        self.order = BatchOrder(lengths, training.recipe.batch_size or 0, training.recipe.seed)
        self.slots = first_slots(self.base, training)
        self.dropped: list[Candidate] = []
        self.step = self.evaluated_step = self.num_examples = 0
        self.base_loss: float | None = None
        self.last_good = self.snapshot()

    @property
    def is_comparing(self) -> bool:
        """Whether more than one learning rate is still being tried."""
        return len(self.slots) > 1

    @property
    def is_due(self) -> bool:
        """Whether the validation rows are to be looked at after this step."""
        is_last = self.step == self.max_steps
        return is_last or self.step % self.eval_every == 0 or (self.is_comparing and self._is_rung)

    @property
    def _is_rung(self) -> bool:
        return self.step % (self.recipe.sweep_steps or self.eval_every) == 0

    def started(self) -> Started:
        """What is about to run."""
        return Started(
            num_parameters=self.slots[0].best_numbers.numel(),
            num_base_parameters=self.base.num_parameters,
            max_steps=self.max_steps,
            first_step=self.step,
            num_train=len(self.rows.train),
            num_validation=len(self.rows.validation),
            left_out=self.rows.left_out,
            left_out_validation=self.rows.left_out_validation,
            sweep=tuple(slot.rate for slot in self.slots) if self.is_comparing else (),
        )

    def shares(self) -> list[Share]:
        """What its slots bring into the next pass."""
        rows = [self.rows.train[index] for index in self.order.rows_of(self.step)]
        recipe, shown = self.recipe, None
        if any(slot.is_hiding for slot in self.slots):
            shown = shown_tokens(recipe.token_dropout or 0.0, recipe.num_virtual_tokens or 0, recipe.seed, self.step)
        return [
            Share(recipe.method, slot.parameterisation, rows, shown if slot.is_hiding else None) for slot in self.slots
        ]

    def advance(self, shares: Sequence[Share], losses: Sequence[float], seconds: float) -> Iterator[Event]:
        """Steps every slot on the gradients of a pass.

        A learning rate whose loss is no number is dropped; the last one goes back to the last kept state instead.

        Args:
            shares: What `shares` gave.
            losses: What the pass gave for them.
            seconds: What the pass took.

        Raises:
            DivergedError: It has gone back too often.
        """
        self.num_examples += sum(len(share.rows) for share in shares)
        points = [slot.update(self.step, loss) for slot, loss in zip(self.slots, losses, strict=True)]
        failed = [slot for slot, point in zip(self.slots, points, strict=True) if point is None]
        if len(failed) == len(self.slots):
            failed.remove(min(failed, key=lambda slot: slot.rate))
            yield from self._drop(failed, is_diverged=True)
            yield self._go_back()
            return
        self.step += 1
        self._note_steps(points)
        num_tokens = sum(len(row) for share in shares for row in share.rows)
        leading = self._leading_step(points)
        yield _metrics_of(leading, num_tokens / max(seconds, 1e-9), num_tokens)
        yield from self._drop(failed, is_diverged=True)

    def look(self) -> Iterator[Event]:
        """Evaluates every slot and keeps what is the best; without validation rows the last state is.

        Where learning rates are compared, the worse half of them may end here.
        """
        self.evaluated_step = self.step
        if self.rows.validation:
            yield self._evaluate()
        else:
            for slot in self.slots:
                slot.keep_as_best(self.step)
        yield self._looked()
        if not self.is_comparing:
            return
        if self.step == self.max_steps or (self.step > 0 and self._is_rung):
            yield from self._drop(worse_half(self.slots, keep=1 if self.step == self.max_steps else None))
        else:
            yield self._compared()

    def settle(self) -> Iterator[Event]:
        """Evaluates what has not been yet, and leaves the best learning rate only."""
        if self.evaluated_step < self.step:
            yield from self.look()
        yield from self._drop(worse_half(self.slots, keep=1))

    def finished(self, reason: StopReason) -> Finished:
        """The best state, and how the training went."""
        slot = self.slots[0]
        return Finished(
            prefix=PrefixArray.of(self.recipe.method, slot.best_numbers[0].numpy()),
            best_step=slot.best_step,
            num_steps=self.step,
            reason=reason,
            validation_loss_before=self.base_loss,
            validation_loss_after=slot.best_loss,
            learning_rate=slot.rate,
            num_examples=self.num_examples,
        )

    def keep(self) -> TrainingState:
        """Takes a snapshot and goes back to it if the loss diverges later."""
        self.last_good = self.snapshot()
        return self.last_good

    def snapshot(self) -> TrainingState:
        """Everything from which this training goes on exactly, copied to the CPU."""
        named = [(index, slot.tensors()) for index, slot in enumerate(self.slots)]
        tensors = {f"{index}.{name}": tensor for index, slot in named for name, tensor in slot.items()}
        progress = Progress(
            step=self.step,
            base_loss=self.base_loss,
            evaluated_step=self.evaluated_step,
            num_examples=self.num_examples,
            micro_batch_size=self.updater.micro_batch_size,
            is_checkpointing=self.updater.is_checkpointing,
            num_train=len(self.rows.train),
            recipe=self.recipe.to_dict(),
            slots=tuple(slot.progress() for slot in self.slots),
            lead=leader(self.slots),
            dropped=tuple(self.dropped),
        )
        return TrainingState(tensors, progress)

    def resume(self, state: TrainingState) -> None:
        """Goes on from a snapshot.

        Raises:
            InvalidRecipeError: It is of another recipe or other rows.
        """
        progress = state.progress
        if progress.recipe != self.recipe.to_dict() or progress.num_train != len(self.rows.train):
            raise InvalidRecipeError(
                "The checkpoint is of another recipe or of other rows; expected the same ones. Start the training anew."
            )
        live = {slot.rate for slot in progress.slots}
        self.slots = [slot for slot in self.slots if slot.rate in live]
        self._restore(state)
        self.dropped, self.num_examples = list(progress.dropped), progress.num_examples
        self.updater.need_no_more_than(progress.micro_batch_size, progress.is_checkpointing)
        self.last_good = state

    def _restore(self, state: TrainingState) -> None:
        progress = state.progress
        indices = {slot.rate: index for index, slot in enumerate(progress.slots)}
        for slot in self.slots:
            index = indices[slot.rate]
            slot.restore(progress.slots[index], state.slot_tensors(index))
        self.step, self.evaluated_step = progress.step, progress.evaluated_step
        self.base_loss = progress.base_loss

    def _go_back(self) -> Diverged:
        slot, failed = self.slots[0], self.step + 1
        num_divergences = slot.num_divergences + 1
        if num_divergences > MAX_DIVERGENCES:
            raise DivergedError(
                f"The loss stopped being a number at step {failed}, after going back {MAX_DIVERGENCES} times with a "
                f"lower rate ({slot.peak_rate:g}). Start anew with a learning rate ten times lower."
            )
        self._restore(self.last_good)
        slot.num_divergences = num_divergences
        slot.forget_history()
        return Diverged(failed, self.step, slot.peak_rate)

    def _evaluate(self) -> Evaluated:
        if self.base_loss is None:
            self.base_loss = evaluate(self.base, None, self.rows.validation).loss
        # Before the first step all slots are in the same state.
        losses = [self._validation_loss(slot) for slot in self.slots[: 1 if self.step == 0 else None]]
        losses = losses * len(self.slots) if self.step == 0 else losses
        points = [slot.note_evaluation(self.step, loss) for slot, loss in zip(self.slots, losses, strict=True)]
        if self.step >= EPOCHS_BEFORE * self.order.batches_per_epoch and self.recipe.token_dropout:
            for slot in self.slots:
                slot.hide_if_overfitting()
        if self.is_comparing:
            for slot, point in zip(self.slots, points, strict=True):
                slot.evaluations.append(point)
        return self._evaluated(points[leader(self.slots)])

    @torch.no_grad()
    def _validation_loss(self, slot: Slot) -> float:
        bank = bank_of(self.base, self.recipe.method, slot.numbers().to(self.base.device))
        return evaluate(self.base, bank, self.rows.validation).loss

    def _note_steps(self, points: Sequence[StepPoint | None]) -> None:
        if self.is_comparing:
            for slot, point in zip(self.slots, points, strict=True):
                if point is not None:
                    slot.steps.append(point)

    def _leading_step(self, points: Sequence[StepPoint | None]) -> StepPoint:
        live = [(slot, point) for slot, point in zip(self.slots, points, strict=True) if point is not None]
        return live[leader([slot for slot, _ in live])][1]

    def _drop(self, slots: Sequence[Slot], *, is_diverged: bool = False) -> Iterator[Event]:
        """Ends some learning rates; where one is left, the training is about that one from now on."""
        for slot in slots:
            self.slots.remove(slot)
            loss = None if is_diverged else judged_loss(slot)
            self.dropped.append(Candidate(slot.rate, loss, self.step, "dropped"))
            yield Eliminated(slot.rate, self.step, loss)
        if not slots:
            return
        yield self._compared()
        if not self.is_comparing:
            yield self._chosen()

    def _looked(self) -> Looked:
        slot = self.slots[leader(self.slots)]
        return Looked(self.step, slot.latest_loss, PrefixArray.of(self.recipe.method, slot.numbers()[0].numpy()))

    def _compared(self) -> Compared:
        return Compared(self.step, all_standing(self.slots, self.dropped, self.step))

    def _chosen(self) -> Chosen:
        slot = self.slots[0]
        steps = tuple(_metrics_of(point) for point in slot.steps)
        evaluations = tuple(self._evaluated(point) for point in slot.evaluations)
        slot.forget_history()
        return Chosen(slot.rate, self.step, steps, evaluations)

    def _evaluated(self, point: EvaluationPoint) -> Evaluated:
        assert self.base_loss is not None
        return Evaluated(point.step, point.loss, point.is_best, self.base_loss)


def _metrics_of(point: StepPoint, tokens_per_second: float = 0.0, num_tokens: int = 0) -> StepMetrics:
    return StepMetrics(point.step, point.loss, point.learning_rate, tokens_per_second, num_tokens, point.gradient_norm)
