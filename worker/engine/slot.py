"""One prefix under training at one learning rate: its numbers, its optimiser and its best state."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.average import Average
from worker.engine.optimiser import Optimiser
from worker.engine.parameterisation import Parameterisation
from worker.engine.progress import EvaluationPoint, SlotProgress, StepPoint
from worker.engine.recipe import Recipe
from worker.engine.schedule import rate_factor
from worker.engine.token_dropout import is_overfitting

DIVERGENCE_RATE_SCALE = 0.3
"""Factor on the learning rate each time the loss stopped being a number."""


class Slot:
    """What belongs to one prefix; the rows and the step it is at belong to its `Run`.

    Args:
        recipe: Fully resolved; its schedule, decay and clipping are read.
        rate: Peak learning rate.
        parameterisation: What is trained, in its first state.

    Attributes:
        best_numbers: The prefix with the lowest validation loss so far, on the CPU.
        best_loss: That loss; None without validation rows.
        latest_loss: Validation loss at the last look.
        bad_evaluations: Looks since the best one.
        num_divergences: How often it went back with a lower rate.
        is_hiding: Whether its steps hide some virtual tokens, because it began to know its rows by heart.
        steps: Its updates, kept while several rates are being compared.
        evaluations: Its looks at the validation rows, kept as long.
    """

    def __init__(self, recipe: Recipe, rate: float, parameterisation: Parameterisation) -> None:
        self.recipe, self.rate, self.parameterisation = recipe, rate, parameterisation
        self.optimiser = Optimiser(
            parameterisation, weight_decay=recipe.weight_decay or 0.0, max_grad_norm=recipe.max_grad_norm
        )
        trained = [tensor for group in parameterisation.groups() for tensor in group.tensors]
        self.average = Average(trained, recipe.average_decay or 0.0)
        self.best_step = self.bad_evaluations = self.num_divergences = 0
        self.is_hiding, self._loss_since_look, self._steps_since_look = False, 0.0, 0
        self.best_loss: float | None = None
        self.latest_loss: float | None = None
        self._numbers: Tensor | None = None
        self.best_numbers = self.numbers()
        self.steps: list[StepPoint] = []
        self.evaluations: list[EvaluationPoint] = []

    @property
    def peak_rate(self) -> float:
        """The rate that is left after what divergences took from it."""
        return self.rate * DIVERGENCE_RATE_SCALE**self.num_divergences

    def update(self, step: int, loss: float) -> StepPoint | None:
        """Steps on the gradient that lies at the tensors; None, and nothing changes, where it is not finite.

        Args:
            step: Updates before this one.
            loss: Mean over the target tokens of its rows.
        """
        norm = self.optimiser.gradient_norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimiser.forget_gradient()
            return None
        rate = self.peak_rate * rate_factor(step, self.recipe.max_steps or 0, self.recipe.warmup_fraction)
        self.optimiser.step(rate, norm)
        self.average.update()
        self._numbers = None
        self._loss_since_look += loss
        self._steps_since_look += 1
        return StepPoint(step + 1, loss, rate, norm)

    def note_evaluation(self, step: int, loss: float) -> EvaluationPoint:
        """Keeps the prefix where it is the best so far."""
        is_best = math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss)
        self.latest_loss = loss
        if is_best:
            self.best_loss = loss
            self.keep_as_best(step)
        self.bad_evaluations = 0 if is_best else self.bad_evaluations + 1
        return EvaluationPoint(step, loss, is_best)

    def hide_if_overfitting(self) -> None:
        """Begins to hide tokens where the rows since the last look were much easier than the validation rows."""
        if self.latest_loss is not None and self._steps_since_look:
            train_loss = self._loss_since_look / self._steps_since_look
            self.is_hiding = self.is_hiding or is_overfitting(train_loss, self.latest_loss)
        self._loss_since_look, self._steps_since_look = 0.0, 0

    def keep_as_best(self, step: int) -> None:
        """Takes the prefix as the best, whatever its loss."""
        self.best_step, self.best_numbers = step, self.numbers()

    def score(self) -> tuple[float, float]:
        """What rates are compared by, the lower the better: the best validation loss, and the latest between equals.

        The best so far is what would be published. It also makes up a little for a high rate looking worse before its
        decay. Without validation rows it is the mean loss of the latter half of the updates.
        """
        if self.best_loss is not None:
            latest = self.latest_loss
            return self.best_loss, latest if latest is not None and math.isfinite(latest) else math.inf
        latter = [point.loss for point in self.steps[len(self.steps) // 2 :]]
        return (sum(latter) / len(latter) if latter else math.inf), math.inf

    def forget_history(self) -> None:
        """Drops what was kept for comparing rates."""
        self.steps, self.evaluations = [], []

    @torch.no_grad()
    def numbers(self) -> Tensor:
        """The prefix that the running average gives, on the CPU; not to be written to.

        It is kept until the next update, since a look asks for it several times and it may cost a forward.
        """
        if self._numbers is None:
            with self.average.in_place():
                self._numbers = self.parameterisation.numbers().cpu().clone()
        return self._numbers

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of its state by name, on the CPU."""
        named = {f"parameters.{name}": tensor for name, tensor in self.parameterisation.state().items()}
        named |= {f"moments.{name}": tensor for name, tensor in self.optimiser.state().items()}
        named |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        return named | {"best_numbers": self.best_numbers.clone()}

    def progress(self) -> SlotProgress:
        """The rest of its state."""
        return SlotProgress(
            rate=self.rate,
            best_step=self.best_step,
            best_loss=self.best_loss,
            latest_loss=self.latest_loss,
            bad_evaluations=self.bad_evaluations,
            num_divergences=self.num_divergences,
            is_hiding=self.is_hiding,
            loss_since_look=self._loss_since_look,
            steps_since_look=self._steps_since_look,
            steps=tuple(self.steps),
            evaluations=tuple(self.evaluations),
        )

    def restore(self, progress: SlotProgress, tensors: Mapping[str, Tensor]) -> None:
        """Takes what `progress` and `tensors` gave."""
        self.parameterisation.load(_under("parameters.", tensors))
        self.optimiser.load(_under("moments.", tensors))
        self.average.load(_under("average.", tensors))
        self._numbers = None
        self.best_numbers = tensors["best_numbers"].clone()
        self.rate, self.best_step, self.best_loss = progress.rate, progress.best_step, progress.best_loss
        self.latest_loss, self.bad_evaluations = progress.latest_loss, progress.bad_evaluations
        self.num_divergences, self.is_hiding = progress.num_divergences, progress.is_hiding
        self._loss_since_look, self._steps_since_look = progress.loss_since_look, progress.steps_since_look
        self.steps, self.evaluations = list(progress.steps), list(progress.evaluations)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
