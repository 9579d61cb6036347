"""About how long a training will take, from what earlier ones took on this machine."""

import os
from collections.abc import Iterable
from typing import Any

FLOPS_PER_PARAMETER_AND_TOKEN = 4
"""Two forward and two backward: a frozen base needs no gradients of its weights."""

FLOPS_PER_CORE = 6e10
"""Two thirds of what a core of a server did in fp32 training of the built-in base; in bf16 it did twice as much. Only
until a first job has been measured."""

AROUND_S = 10.0
"""Loading and the losses of the base before the first step, and the comparison on held-out rows after the last."""

EVALUATION_SHARE = 1.25
MAX_JOBS = 10


def work(num_base_parameters: int, num_tokens: int) -> float:
    """Floating-point operations of a training.

    Args:
        num_base_parameters: Numbers of the frozen base.
        num_tokens: Tokens of all steps together.
    """
    return float(FLOPS_PER_PARAMETER_AND_TOKEN) * num_base_parameters * num_tokens


def measured_rate(finished: Iterable[dict[str, Any]]) -> float | None:
    """Operations per second in earlier trainings; None where there was none.

    Args:
        finished: Metrics of jobs that succeeded, the newest first.
    """
    total_work = total_s = 0.0
    # The time of a pass that several jobs shared is no single job's.
    alone = [each for each in finished if "jobs_in_pass" not in each]
    usable = [each for each in alone if each.get("train_s") and each.get("base_parameters")][:MAX_JOBS]
    for metrics in usable:
        total_work += work(int(metrics["base_parameters"]), int(metrics.get("train_tokens") or 0))
        total_s += float(metrics["train_s"])
    return total_work / total_s if total_work > 0 and total_s > 0 else None


def estimate_seconds(num_base_parameters: int, num_tokens: int, rate: float | None) -> float:
    """Seconds from start to prefix.

    Args:
        num_base_parameters: Numbers of the frozen base.
        num_tokens: Tokens of all steps together.
        rate: Operations per second, as `measured_rate` tells.
    """
    if rate is not None:
        return AROUND_S + work(num_base_parameters, num_tokens) / rate
    assumed = FLOPS_PER_CORE * max(1, (os.cpu_count() or 1) - 1)
    return AROUND_S + EVALUATION_SHARE * work(num_base_parameters, num_tokens) / assumed


def duration(seconds: float) -> str:
    """A duration in words, as roughly as it is known."""
    if seconds < 90:
        return f"{max(10, round(seconds / 10) * 10)} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
