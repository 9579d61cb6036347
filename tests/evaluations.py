"""An evaluation as a training leaves it, for tests of whoever shows it."""

from typing import Any

ROWS = [{"prompt": "Message: my <b>card</b>\nQueue:", "expected": "PRIVATE ROW", "base": "no", "prefix": "payment"}]
GAINED = [{**row, "change": 1.0} for row in ROWS]


def figure(value: float, low: float, high: float) -> dict[str, float]:
    """A value with its interval."""
    return {"value": value, "low": low, "high": high}


def an_arm(value: float, prompt_tokens: float, **more: Any) -> dict[str, Any]:
    """One side; a value of 0.75 has an interval from 0.68 to 0.82."""
    metrics = {name: figure(value, max(0, value - 0.07), min(1, value + 0.07)) for name in ("accuracy", "macro_f1")}
    return {"metrics": metrics, "prompt_tokens": prompt_tokens, **more}


def against(verdict: str, tokens_saved: float, value: float = 0.5) -> dict[str, Any]:
    """What the prefix is against one side."""
    difference = figure(value, value - 0.1, value + 0.1)
    return {"verdict": verdict, "difference": difference, "gained": 90, "lost": 3, "tokens_saved": tokens_saved}


def an_evaluation(base: str = "helps", instruction: str = "helps", few_shot: str = "helps") -> dict[str, Any]:
    """An evaluation with the given verdicts against each side."""
    return {
        "part": "validation",
        "chose_checkpoint": True,
        "num_held_out": 500,
        "num_rows": 120,
        "kind": "labels",
        "metric": "accuracy",
        "ended": "complete",
        "seed": 0,
        "seconds": 11.4,
        "arms": {
            "base": an_arm(0.0, 25),
            "instruction": an_arm(0.1, 53),
            "few-shot": an_arm(0.21, 149, examples=4),
            "prefix": an_arm(0.75, 25),
        },
        "verdicts": {
            "base": against(base, 0),
            "instruction": against(instruction, 28),
            "few-shot": against(few_shot, 124),
        },
        "rows": {"gained": GAINED, "lost": []},
    }
