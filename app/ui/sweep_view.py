"""How the candidates of a sweep fared: which were tried, when each was dropped, at which loss."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup

STATES = {"trying": ("still tried", "live"), "dropped": ("dropped", "plain"), "chosen": ("chosen", "good")}


def shown(candidates: Sequence[dict[str, Any]]) -> str:
    """The sweep as a small table; empty where nothing was compared.

    Args:
        candidates: `rate`, `loss`, `step`, `state` and, where they differ in more than the rate, `label`.
    """
    if not candidates:
        return ""
    losses = [each["loss"] for each in candidates if each.get("loss") is not None]
    rows = [
        [
            markup.isolated(_name(each)),
            markup.badge(*STATES.get(each["state"], (each["state"], "plain"))),
            f"{each['step']:,}",
            _loss(each, losses),
        ]
        for each in candidates
    ]
    has_labels = any(each.get("label") for each in candidates)
    what = "candidates" if has_labels else "learning rates"
    headers = ["Candidate" if has_labels else "Learning rate", "", "Steps it made", "Lowest loss on held-out rows"]
    lead = f"{len(candidates)} {what} were trained side by side on the same rows; the worse half is dropped each time."
    return (
        f'<details class="ps-fold ps-sweep"><summary>{_summary(candidates, what)}</summary>'
        f"<p>{markup.escape(lead)}</p>{markup.table(headers, rows, f'The {what} that were compared')}</details>"
    )


def _name(candidate: dict[str, Any]) -> str:
    return str(candidate.get("label") or f"{candidate['rate']:g}")


def _summary(candidates: Sequence[dict[str, Any]], what: str) -> str:
    chosen = next((each for each in candidates if each["state"] == "chosen"), None)
    if chosen is None:
        trying = sum(each["state"] == "trying" for each in candidates)
        return f"Comparing {len(candidates)} {what}, {trying} still tried"
    return f"{markup.isolated(_name(chosen))} won among {len(candidates)} {what}"


def _loss(candidate: dict[str, Any], losses: Sequence[float]) -> str:
    """The figure with a bar; the same scale for all, so that the bars tell which was lower."""
    loss = candidate.get("loss")
    if loss is None:
        return "not a number" if candidate["state"] == "dropped" else "–"
    low, high = min(losses), max(losses)
    share = 100 * (0.15 + 0.85 * (loss - low) / (high - low)) if high > low else 50.0
    return f'{loss:.4g}<span class="ps-span" aria-hidden="true"><i style="width:{share:.0f}%"></i></span>'
