"""Whether the base can be held in 8 or 4 bit here; knows no torch, so that the page may ask before a job starts."""

import sys
from importlib.util import find_spec

from worker.engine.errors import UnsupportedPrecisionError

BITS_PER_WEIGHT: dict[str, float] = {"int8": 8.0, "int4": 4.5}
"""Precisions that quantise to what a weight of a linear layer takes: 4 bit come with a scale for every 64 weights."""

MIXTURES = {"qwen3_moe", "gpt_oss"}
"""Families whose experts stand in one tensor a layer, which the library leaves as it is."""

PACKAGES = ("bitsandbytes", "accelerate")


def is_quantised(precision: str) -> bool:
    """Whether a precision holds the base in fewer bits than it computes in."""
    return precision in BITS_PER_WEIGHT


def check_quantisation(precision: str, family: str = "", platform: str = sys.platform) -> None:
    """Refuses 8 or 4 bit where they cannot be had.

    Args:
        precision: Of a recipe; one that does not quantise is never refused.
        family: `model_type` of the base.
        platform: As `sys.platform` names it.

    Raises:
        UnsupportedPrecisionError: With the remedy.
    """
    if not is_quantised(precision):
        return
    if platform not in ("linux", "win32"):
        raise UnsupportedPrecisionError(
            f"The precision {precision} needs Linux or Windows, with an NVIDIA GPU or a CPU. "
            "Choose float32 or bfloat16."
        )
    if family in MIXTURES:
        raise UnsupportedPrecisionError(
            f"The experts of a {family} model cannot be held in {precision}, and they are nearly all of it. "
            "Choose float32 or bfloat16."
        )
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise UnsupportedPrecisionError(
            f"The precision {precision} needs the package {' and '.join(missing)}, which is not installed. Install it "
            "with pip install 'prefix-studio[quantised]' and start the app again, or choose float32 or bfloat16."
        )
