"""What a queued job will take, told from its row alone: tokens of a step, memory, whom it may share a pass with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage.base_models import get_base_model_by_id
from storage.database import Session
from storage.datasets import get_version
from storage.errors import StudioError
from storage.schema.job import Job, JobKind
from worker.devices import number_format
from worker.engine.automatic import resolve
from worker.engine.errors import EngineError
from worker.engine.families import geometry
from worker.engine.memory import BYTES_PER_TOKEN, estimate_training_bytes, row_tokens_of, workload_of
from worker.engine.recipe import Recipe

MAX_JOBS = 8
"""Jobs of one pass at most: more of them at once would all be lost time together where their process dies."""

MAX_CPU_PASS_TOKENS = 512
MAX_GPU_PASS_TOKENS = 32_768
"""Tokens of one pass of all jobs together, up to which sharing it shortens the mean wait. What a step costs besides its
tokens is paid once for all; a pass with more tokens than these keeps the device busy by itself. Measured on the CPU
(docs/decisions.md); for GPUs it is what `token_budget` computes at once there, not measured."""


@dataclass(frozen=True)
class QueuedWork:
    """What is known of a queued job.

    Attributes:
        base: Base model and precision; jobs of one pass have them in common.
        pass_tokens: Tokens of one step, of all learning rates that are compared; None where that is not known.
        needed_bytes: About how much memory it takes; 0 where that is not known.
        may_share: Whether nothing speaks against company: a job whose process died before goes alone, so that it costs
            no other job an attempt, and shows whose fault it was.
    """

    base: tuple[str, str]
    pass_tokens: int | None
    needed_bytes: int
    may_share: bool


def look_at(session: Session, job: Job, device: str | None) -> QueuedWork:
    """What a queued job will take on a device; one that will fail for its recipe or base takes nothing that is known.

    Args:
        session: Any session.
        job: The job.
        device: The GPU that it would run on, or None for the CPU.
    """
    base = (job.base_model_id, str(job.recipe.get("precision", "auto")))
    try:
        pass_tokens, needed_bytes = _measure(session, job, device)
    except (StudioError, EngineError):
        return QueuedWork(base, None, 0, may_share=False)
    return QueuedWork(base, pass_tokens, needed_bytes, job.kind == JobKind.TRAINING and job.lost_attempts == 0)


def company(works: Sequence[QueuedWork], num_free_slots: int, device: str | None) -> int:
    """How many jobs from the front of the queue start in one pass; 1 where the first one goes alone.

    Only its very neighbours join it, so that no job is overtaken. Where several slots are free, jobs are spread over
    them first.

    Args:
        works: The jobs that could start now, in their order.
        num_free_slots: Trainers that could start now.
        device: The GPU of the next of them, or None for the CPU.
    """
    share = -(-len(works) // max(num_free_slots, 1))
    limit = MAX_CPU_PASS_TOKENS if device is None else MAX_GPU_PASS_TOKENS
    count = tokens = 0
    for work in works[: min(share, MAX_JOBS)]:
        if not work.may_share or work.pass_tokens is None or work.base != works[0].base:
            break
        tokens += work.pass_tokens
        if tokens > limit:
            break
        count += 1
    return max(count, 1)


def _measure(session: Session, job: Job, device: str | None) -> tuple[int | None, int]:
    base_model = get_base_model_by_id(session, job.base_model_id)
    config: dict[str, Any] = base_model.config or {}
    if job.kind != JobKind.TRAINING or job.dataset_version_id is None:
        return None, 0
    version = get_version(session, job.dataset_version_id)
    num_parameters = int(base_model.details.get("num_parameters") or 0)
    measured = geometry(config)
    recipe = resolve(
        Recipe.from_dict(job.recipe),
        num_train=version.num_rows,
        instruction_tokens=len(str(job.rendering.get("instruction") or "")) // BYTES_PER_TOKEN,
        geometry=measured,
        num_base_parameters=num_parameters,
        on_gpu=device is not None,
    )
    workload = workload_of(recipe, measured, row_tokens_of(version.size_bytes, version.num_rows))
    stored = config.get("dtype") or config.get("torch_dtype")
    needed_bytes = estimate_training_bytes(
        measured,
        num_parameters,
        workload,
        dtype=number_format(recipe.precision, str(stored) if stored else None, device),
        method=recipe.method,
        precision=recipe.precision,
    )
    return workload.pass_tokens, needed_bytes
