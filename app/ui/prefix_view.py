"""What the Prefixes tab shows: the library, one prefix in full, what is kept on this machine."""

from collections.abc import Sequence
from typing import Any

from app.services import verdict
from app.services.methods import title_of
from app.ui import markup, verdict_view

KINDS = {
    "datasets": "Data", "prefixes": "Prefixes", "snapshots": "Prefixes of earlier steps",
    "answers": "Tables given and answered", "runs": "Checkpoints and logs", "base_models": "Downloaded base models",
    "cache": "Token ids, kept for speed", "database": "Database", "backups": "Backups",
    "unreferenced": "Not needed any more",
}  # fmt: skip


def library(prefixes: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """All prefixes as cards, newest first."""
    if not prefixes:
        return markup.empty("No prefix yet", "Train one in the Train tab, or import one that was downloaded before.")
    return f'<div class="ps-cards">{"".join(_card(each, each["id"] == chosen) for each in prefixes)}</div>'


def detail(prefix: dict[str, Any]) -> str:
    """Recipe, lineage and scores of one prefix."""
    recipe, before, after = prefix.get("recipe") or {}, *_losses(prefix)
    pairs = [
        ("Base model", markup.isolated(prefix["base_model"])),
        ("Base revision", markup.isolated(prefix.get("base_revision") or "–")),
        ("Base fingerprint", f"<code>{markup.escape(prefix['base_fingerprint'][:12])}…</code>"),
        ("Data", markup.data_source(prefix)),
        ("Method", markup.escape(title_of(prefix["method"]))),
        ("Length in tokens", f"{prefix['num_virtual_tokens']:,}"),
        ("Numbers trained", f"{prefix['num_parameters']:,}"),
        ("Size", markup.file_size(prefix["size_bytes"])),
        ("Loss before and after", f"{markup.score(before)} → {markup.score(after)}"),
        ("Seed", markup.escape(recipe.get("seed", "–"))),
        ("Steps", markup.escape(recipe.get("max_steps", "–"))),
        ("Learning rate", markup.escape(recipe.get("learning_rate", "–"))),
    ]
    judged = verdict_view.shown(prefix["metrics"].get("evaluation"), imported=prefix["imported"])
    title = f'<p class="ps-title">{markup.isolated(prefix["name"])}</p>'
    note = prefix.get("format_note")
    # The download button stands right below.
    told = f'<p class="ps-soft">{markup.escape(note)}</p>' if note else ""
    return f"{title}{judged}{markup.facts(pairs)}{told}"


def snippet(code: str) -> str:
    """The lines that load a prefix elsewhere, with a button that copies them."""
    return (
        '<p class="ps-title">Use it elsewhere '
        '<button type="button" class="ps-action" data-page-action="copy" data-source="prefix-snippet">Copy</button></p>'
        f'<div class="ps-code" id="prefix-snippet" tabindex="0">{markup.escape(code)}</div>'
    )


def usage(bytes_by_kind: dict[str, int]) -> str:
    """Disk use by kind; what can be made again has a button that clears it."""
    clear = markup.action("Clear", kind="cache", target="tokens") if bytes_by_kind.get("cache") else ""
    pairs = [
        (
            KINDS.get(kind, kind.replace("_", " ")),
            f"{markup.file_size(size)} {clear if kind == 'cache' else ''}".strip(),
        )
        for kind, size in bytes_by_kind.items()
    ]
    return markup.facts(pairs)


def _losses(prefix: dict[str, Any]) -> tuple[float | None, float | None]:
    metrics = prefix.get("metrics") or {}
    return metrics.get("base_loss"), metrics.get("validation_loss")


def _change(prefix: dict[str, Any]) -> str:
    """What the prefix changes, in the metric of its task where it was compared."""
    evaluation = (prefix.get("metrics") or {}).get("evaluation")
    if verdict.is_judged(evaluation):
        return f", {verdict.headline(evaluation)}"
    before, after = _losses(prefix)
    return f", loss {markup.score(before)} → {markup.score(after)}" if after is not None else ""


def _card(prefix: dict[str, Any], is_chosen: bool) -> str:
    words = f"{prefix['num_virtual_tokens']} tokens, {markup.file_size(prefix['size_bytes'])}{_change(prefix)}"
    origin = markup.badge("imported") if prefix.get("imported") else markup.badge(prefix["created_at"][:10])
    body = f"<small>{markup.isolated(prefix['base_model'])}<br>{markup.escape(words)}</small>"
    return markup.card("prefix", prefix["id"], prefix["name"], aside=origin, body=body, is_chosen=is_chosen)
