"""A comparison as a file: Markdown for people, JSON for programs."""

import json
from typing import Any

from app.services.markdown import code, fenced, plain
from app.services.prefixes import file_stem

REASONS = {"stop": "ended by itself", "length": "cut at the limit", "cancelled": "stopped"}
SETTINGS = ("max_tokens", "temperature", "top_p", "seed")

EXACT = 1e-4
"""Largest difference of a logit that is rounding in 32 bits; a verified base that differs more is computed in 16."""


def markdown_file(told: dict[str, Any]) -> tuple[str, bytes]:
    """Name and content of the Markdown file.

    Args:
        told: What `comparisons.describe` gives.
    """
    parts = [
        f"# {plain(told['name'])}",
        _facts(told),
        "## Prompt, as the models read it",
        fenced(told["result"].get("prompt") or ""),
        *[
            _answer(number, label, answer)
            for number, (label, answer) in enumerate(zip(told["labels"], told["result"]["answers"], strict=True), 1)
        ],
    ]
    return f"{file_stem(told['name'])}.md", ("\n\n".join(parts) + "\n").encode()


def json_file(told: dict[str, Any]) -> tuple[str, bytes]:
    """Name and content of the JSON file.

    Args:
        told: What `comparisons.describe` gives.
    """
    return f"{file_stem(told['name'])}.json", json.dumps(told, ensure_ascii=False, indent=1).encode()


def proof_sentence(proof: dict[str, Any]) -> str:
    """Whether the base's column was the untouched model, in words."""
    if proof.get("base_verified") is None:
        return "The untouched base was not among the columns, so nothing was verified."
    gap = proof.get("max_difference")
    shown = f" (largest difference {gap:.1e})" if gap is not None else ""
    if not proof["base_verified"]:
        return f"The base differs from the untouched model{shown}."
    return f"Base verified: its numbers {agreement(gap)}{shown}."


def agreement(gap: float | None) -> str:
    """How well the numbers of a verified base agree with the untouched model's, in words.

    Args:
        gap: The largest difference of a logit.
    """
    if gap is not None and gap > EXACT:
        return "agree with the untouched model's as far as 16 bits are exact"
    return "equal the untouched model's"


def _facts(told: dict[str, Any]) -> str:
    request = told["request"]
    drawn = [f"{name} {request[name]}" for name in SETTINGS if request.get(name) is not None]
    lines = [
        f"Base model: {code(told['base_model'])}",
        f"Saved: {told['created_at'][:16].replace('T', ' ')} UTC",
        f"Sampling: {', '.join(drawn) or 'as the server chose'}",
        proof_sentence(told["result"].get("proof") or {}),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _answer(number: int, label: str, answer: dict[str, Any]) -> str:
    figures = [f"{answer.get('tokens') or 0:,} tokens"]
    if answer.get("tokens_per_second"):
        figures.append(f"{answer['tokens_per_second']:,.0f} tokens/s")
    if answer.get("finish_reason"):
        figures.append(REASONS.get(answer["finish_reason"], plain(answer["finish_reason"])))
    mean_kl = (answer.get("explained") or {}).get("mean_kl")
    if mean_kl is not None:
        figures.append(f"mean KL to the base {mean_kl:.3g} nats")
    return f"## {number}. {plain(label)}\n\n{fenced(answer.get('text') or '')}\n\n{', '.join(figures)}"
