"""What a job will do, said before it starts: what is trained, how large it is, how long it takes."""

from collections.abc import Sequence
from typing import Any

from app.services import estimate
from app.services.methods import PLUS
from app.services.preflight import Plan


def outlook(planned: Plan, finished: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A plan in numbers and in one sentence.

    Args:
        planned: The job.
        finished: Metrics of earlier jobs that succeeded, the newest first.

    Returns:
        `sentence`, `warnings`, `recipe` (every field set), `num_virtual_tokens`, `num_parameters`, `base_parameters`,
        `share` (of the base, 0 to 1), `size_bytes`, `estimate_s`, `estimate_bytes`, `fit`.
    """
    base_parameters = int(planned.base_model.details.get("num_parameters") or 0)
    told = {
        "recipe": planned.recipe.to_dict(),
        "num_virtual_tokens": planned.recipe.num_virtual_tokens,
        "num_parameters": planned.num_parameters,
        "base_parameters": base_parameters,
        "share": planned.num_parameters / base_parameters if base_parameters else 0.0,
        "size_bytes": 4 * planned.num_parameters,
        "estimate_s": _estimate_seconds(planned, base_parameters, finished),
        "estimate_bytes": planned.estimate_bytes,
        "fit": planned.fit,
    }
    return {**told, "sentence": _sentence(told), "warnings": _warnings(planned)}


def _estimate_seconds(planned: Plan, base_parameters: int, finished: Sequence[dict[str, Any]]) -> float:
    recipe = planned.recipe
    num_tokens = (recipe.max_steps or 0) * (recipe.batch_size or 0) * planned.row_tokens
    return estimate.estimate_seconds(base_parameters, num_tokens, estimate.measured_rate(finished))


def _sentence(told: dict[str, Any]) -> str:
    kilobytes = told["size_bytes"] / 1000
    size = f"{kilobytes:,.0f} KB" if kilobytes < 1000 else f"{kilobytes / 1000:,.1f} MB"
    share = f"{100 * told['share']:.2g} % of the base, " if told["share"] else ""
    is_plus = told["recipe"]["method"] == PLUS
    more = " and as many again outside attention's softmax" if is_plus else ""
    note = " Only Prefix Studio can load it, not PEFT." if is_plus else ""
    return (
        f"A prefix of {told['num_virtual_tokens']:,} virtual tokens{more}, which is {told['num_parameters']:,} numbers "
        f"({share}{size}), in about {estimate.duration(told['estimate_s'])} on this machine.{note}"
    )


def _warnings(planned: Plan) -> list[str]:
    warned = [str(each["message"]) for each in planned.version.findings if each.get("severity") == "warns"]
    if planned.fit == "tight":
        warned.append(
            f"Memory will be tight: this training needs about {planned.estimate_bytes / 1e9:.1f} GB. Close other "
            "programs, or take fewer rows per step."
        )
    return warned
