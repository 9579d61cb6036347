"""The list of base models, one card each."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup

FIT_TONES = {"fits": "good", "tight": "warn", "will not fit": "bad"}
PLACES = {"starter": "built in", "local": "on this machine", "hub": "Hugging Face hub"}


def model_cards(models: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """Base models as cards, those that can be used first."""
    if not models:
        return markup.empty(
            "No base model yet", "Put a model folder into PREFIX_STUDIO_MODELS, or type a hub id below."
        )
    ranked = sorted(models, key=lambda model: (not model["supported"], model["download_state"] != "ready"))
    cards = "".join(_card(model, model["name"] == chosen) for model in ranked)
    return f'<div class="ps-cards">{cards}</div>'


def download_line(model: dict[str, Any]) -> str:
    """How a download stands, or what it would fetch."""
    state, name = model["download_state"], model["name"]
    if state in ("requested", "downloading"):
        if model.get("cancel_requested"):
            return markup.notice(f"Stopping the download of {name} …")
        done, total = model.get("downloaded_bytes") or 0, model.get("total_bytes") or 0
        line = (
            f"Downloading {name}: {markup.file_size(done)} of {markup.file_size(total)}."
            if total
            else f"Asking for {name}."
        )
        return markup.notice(line) + markup.progress(done / total if total else 0)
    if state == "failed":
        return markup.notice(
            model.get("reason") or model.get("download_error") or f"{name} could not be downloaded.", "bad"
        )
    if state == "absent":
        fetched = f" ({markup.file_size(model['size_bytes'])})" if model.get("size_bytes") else ""
        return markup.notice(
            f"{name} is not on this machine yet. Download it once{fetched}; afterwards no network is needed."
        )
    return markup.notice(f"{name} is ready.", "good") if model["supported"] else ""


def _card(model: dict[str, Any], is_chosen: bool) -> str:
    badges = [markup.badge(PLACES.get(model["source"], model["source"]))]
    if model["download_state"] in ("requested", "downloading"):
        badges.append(markup.badge("downloading", "live"))
    elif model["download_state"] != "ready":
        badges.append(markup.badge("to download"))
    if not model["supported"]:
        badges.append(markup.badge("not usable", "bad"))
    elif model.get("fit"):
        badges.append(markup.badge(model["fit"], FIT_TONES.get(model["fit"], "plain")))
    words = [f"{markup.parameters(model.get('num_parameters'))} parameters"]
    if model.get("context_length"):
        words.append(f"context {model['context_length']:,} tokens")
    if model.get("size_bytes"):
        words.append(markup.file_size(model["size_bytes"]))
    words.append(f"licence {model['license']}" if model.get("license") else "licence not stated")
    reason = f"<small>{markup.isolated(model['reason'])}</small>" if model.get("reason") else ""
    return markup.card(
        "model",
        model["name"],
        model["name"],
        aside=" ".join(badges),
        body=f"<small>{markup.escape(', '.join(words))}</small>{reason}",
        is_chosen=is_chosen,
    )
