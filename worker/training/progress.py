"""From the engine's events to what the page shows: steps, losses, speed, time left, memory."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import psutil
import torch

from worker.engine.base import LoadedBase
from worker.engine.events import (
    Chosen,
    Compared,
    Diverged,
    Eliminated,
    Evaluated,
    Event,
    Finished,
    Started,
    StepMetrics,
)
from worker.training.recorder import Recorder

SMOOTHING = 0.9
"""Weight of the past in the speed that is shown."""


class Follower:
    """Hears every event of a training and tells the recorder.

    Args:
        recorder: Writes it down.
        base: The frozen base; its device says which memory counts.
        metrics: Figures that the job's earlier attempts left. A training that goes on from a checkpoint adds to their
            time and tokens; steps that are done again count again.
    """

    def __init__(self, recorder: Recorder, base: LoadedBase, metrics: Mapping[str, Any]) -> None:
        self._recorder = recorder
        self._device = base.device
        self._metrics = metrics
        self._started_at = time.monotonic()
        self._max_steps = 0
        self._paced_from = (0, self._started_at)
        self._num_tokens = 0
        self._spent_before_s = 0.0
        self._tokens_per_second: float | None = None
        self._memory_bytes = 0
        self._process = psutil.Process()
        self._sweep: list[dict[str, Any]] = []

    def hear(self, event: Event) -> None:
        """Notes one event."""
        if isinstance(event, StepMetrics):
            self._hear_step(event)
        elif isinstance(event, Evaluated):
            self._hear_evaluation(event)
        elif isinstance(event, Started):
            self._hear_start(event)
        elif isinstance(event, Compared | Eliminated | Chosen):
            self._hear_sweep(event)
        elif isinstance(event, Diverged):
            self._recorder.log(
                f"The loss stopped being a number at step {event.step}. The training went back to step "
                f"{event.resumed_step} and goes on with the learning rate {event.learning_rate:g}.",
                level="warning",
            )

    def final_metrics(self, event: Finished) -> dict[str, Any]:
        """The figures of a training that is done."""
        return {
            "base_loss": event.validation_loss_before,
            "validation_loss": event.validation_loss_after,
            "best_step": event.best_step,
            "num_steps": event.num_steps,
            "num_examples": event.num_examples,
            **({"sweep": self._sweep} if self._sweep else {}),
            "stop_reason": event.reason,
            **self._spent(),
            "memory_bytes": self._measure_memory(),
        }

    def _hear_start(self, event: Started) -> None:
        self._started_at = time.monotonic()
        self._paced_from, self._max_steps = (event.first_step, self._started_at), event.max_steps
        figures = {
            "num_parameters": event.num_parameters,
            "base_parameters": event.num_base_parameters,
            "num_train": event.num_train,
            "num_validation": event.num_validation,
            "left_out_rows": event.left_out,
        }
        if event.left_out:
            rows = f"{event.left_out:,} of {event.num_train + event.left_out:,} training rows"
            self._recorder.log(
                f"{rows} are left out: with the prefix they are longer than the context.", level="warning"
            )
        if event.first_step:
            self._num_tokens = int(self._metrics.get("train_tokens") or 0)
            self._spent_before_s = float(self._metrics.get("train_s") or 0.0)
            self._sweep = list(self._metrics.get("sweep") or [])
            self._recorder.log(f"Going on from step {event.first_step} of {event.max_steps}.")
        self._recorder.progress(step=event.first_step, max_steps=event.max_steps, metrics=figures)
        self._recorder.stage(trying(event.sweep) if event.sweep else "Training")

    def _hear_sweep(self, event: Compared | Eliminated | Chosen) -> None:
        if isinstance(event, Compared):
            self._sweep = [asdict(candidate) for candidate in event.candidates]
            self._recorder.progress(metrics={"sweep": self._sweep})
        elif isinstance(event, Eliminated):
            loss = event.validation_loss
            reason = "its loss stopped being a number" if loss is None else f"its loss is {loss:.4g}, others are lower"
            self._recorder.log(f"The learning rate {event.rate:g} is dropped at step {event.step}: {reason}.")
        else:
            self._hear_choice(event)

    def _hear_choice(self, event: Chosen) -> None:
        """Tells the winner's own losses from the start, so that the curve is one training and not parts of several."""
        self._recorder.log(f"The learning rate {event.rate:g} won at step {event.step}; the training goes on with it.")
        told: list[StepMetrics | Evaluated] = [*event.steps, *event.evaluations]
        for one in sorted(told, key=lambda one: (one.step, isinstance(one, Evaluated))):
            if isinstance(one, Evaluated):
                self._note_evaluation(one)
            else:
                figures = {"loss": one.loss, "learning_rate": one.learning_rate, "gradient_norm": one.gradient_norm}
                self._recorder.add("step", figures, one.step)
        self._paced_from = (event.step, time.monotonic())
        self._recorder.stage("Training")

    def _hear_step(self, event: StepMetrics) -> None:
        self._num_tokens += event.num_tokens
        past = self._tokens_per_second
        speed = (
            event.tokens_per_second if past is None else SMOOTHING * past + (1 - SMOOTHING) * event.tokens_per_second
        )
        self._tokens_per_second = speed
        figures = {"loss": event.loss, "learning_rate": event.learning_rate, "tokens_per_second": round(speed, 1)}
        self._recorder.add("step", {**figures, "gradient_norm": event.gradient_norm}, event.step)
        self._recorder.progress(
            step=event.step,
            eta_s=self._seconds_left(event.step),
            metrics={**figures, **self._spent(), "memory_bytes": self._measure_memory()},
        )

    def _hear_evaluation(self, event: Evaluated) -> None:
        figures = {"validation_loss": event.validation_loss, "base_loss": event.base_validation_loss}
        self._note_evaluation(event)
        best: dict[str, Any] = {"best_step": event.step, **figures} if event.is_best else {}
        self._recorder.progress(metrics={**best, "base_loss": event.base_validation_loss})

    def _note_evaluation(self, event: Evaluated) -> None:
        self._recorder.add(
            "evaluated",
            {
                "loss": event.validation_loss,
                "validation_loss": event.validation_loss,
                "base_loss": event.base_validation_loss,
                "is_best": event.is_best,
            },
            event.step,
        )

    def _spent(self) -> dict[str, Any]:
        """Seconds and tokens of the training, over all attempts that it goes on from."""
        this_attempt_s = time.monotonic() - self._started_at
        return {"train_s": round(self._spent_before_s + this_attempt_s, 3), "train_tokens": self._num_tokens}

    def _seconds_left(self, step: int) -> float:
        """What is left at the pace so far, evaluations included.

        While several learning rates share the steps, that is more than what one of them will take.
        """
        first_step, began = self._paced_from
        pace_s = (time.monotonic() - began) / max(1, step - first_step)
        num_shared = max(1, len([each for each in self._sweep if each["state"] == "trying"]))
        return round(pace_s * (self._max_steps - step) / num_shared, 1)

    def _measure_memory(self) -> int:
        """Peak of the accelerator's memory, or of this process's where it computes on the CPU."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        self._memory_bytes = max(self._memory_bytes, int(self._process.memory_info().rss))
        return self._memory_bytes


def trying(rates: Sequence[float]) -> str:
    """The stage of a training that compares learning rates."""
    *others, last = [f"{rate:g}" for rate in rates]
    return f"Trying {len(rates)} learning rates: {', '.join(others)} and {last}"
