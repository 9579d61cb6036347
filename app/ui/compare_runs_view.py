"""What the comparison of runs shows: their curves in one picture, settings and results side by side."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup, overlay
from app.ui.job_view import WORDS

VERDICT_TONES = {"helps": "good", "no difference": "plain", "worse": "bad"}
MAX_TEXT = 400


def marked_bar(names: Sequence[str], num_jobs: int, most: int) -> str:
    """What stands above the cards: how runs are compared, or which are about to be."""
    if num_jobs < 2:
        return ""
    if not names:
        return '<p class="ps-marked">Tick two or more jobs to compare them.</p>'
    ready = 2 <= len(names) <= most
    hint = f"{markup.count(len(names), 'job')} ticked" + ("" if ready else f"; two to {most} can be compared")
    button = markup.action("Compare runs", kind="compare-runs", target="all") if ready else ""
    clear = markup.action("Untick all", kind="clear-marks", target="all")
    return f'<div class="ps-marked" role="status"><span>{hint}</span><span>{button}{clear}</span></div>'


def curves(told: dict[str, Any]) -> str:
    """All curves in one picture."""
    traces = [
        overlay.Trace(
            name=run["name"],
            train=list(zip(run["curve"]["steps"], run["curve"]["train_loss"], strict=True)),
            validation=[(point["step"], point["loss"]) for point in run["curve"]["validation"]],
            note=_standing(run),
        )
        for run in told["runs"]
    ]
    ids = ",".join(run["id"] for run in told["runs"])
    return f'<div data-runs="{markup.escape(ids)}">{overlay.draw(traces)}</div>'


def results(told: dict[str, Any]) -> str:
    """What came of each run; the lowest loss is marked where the losses can be held against each other."""
    return _title("Results") + _table(told, told["results"], "Results of the runs", told.get("best"))


def settings(told: dict[str, Any], *, only_differences: bool) -> str:
    """What was set for each run."""
    entries = [entry for entry in told["settings"] if entry["differs"] or not only_differences]
    title = _title("Settings that differ" if only_differences else "All settings")
    if not entries:
        return title + '<p class="ps-lead">All settings of these runs are the same.</p>'
    alike = len(told["settings"]) - len(entries)
    more = f'<p class="ps-soft">{markup.count(alike, "setting")} the same in all of them.</p>' if alike else ""
    return title + _table(told, entries, "Settings of the runs", None) + more


def _table(told: dict[str, Any], entries: Sequence[dict[str, Any]], caption: str, best: int | None) -> str:
    """A table whose columns are the runs, headed by their letters; cells are HTML."""
    heads = "".join(
        f'<th scope="col">{overlay.letter(index)} {markup.isolated(run["name"])}</th>'
        for index, run in enumerate(told["runs"])
    )
    rows = []
    for entry in entries:
        marked = best if entry["name"] == "validation_loss" else None
        cells = [_cell(entry, value, index == marked) for index, value in enumerate(entry["values"])]
        kind = ' class="ps-differs"' if entry["differs"] else ""
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr{kind}><th scope="row">{markup.escape(entry["label"])}</th>{body}</tr>')
    return (
        f'<div class="ps-scroll ps-side" tabindex="0" role="region" aria-label="{markup.escape(caption)}">'
        f'<table class="ps-table"><caption class="ps-hidden">{markup.escape(caption)}</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(entry: dict[str, Any], value: Any, is_best: bool) -> str:
    if value is None:
        return "–"
    if entry["name"] == "status":
        return markup.escape(WORDS.get(value, value))
    if entry["unit"] == "verdict":
        return markup.badge(value, VERDICT_TONES.get(value, "plain"))
    text = markup.isolated(_figure(entry["unit"], value))
    if is_best:
        return f"<strong>{text}</strong> {markup.badge('lowest', 'good')}"
    return f'<div class="ps-clip">{text}</div>' if entry["unit"] == "text" else text


def _figure(unit: str, value: Any) -> str:
    if unit == "loss":
        return markup.score(value)
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "seconds":
        return markup.duration(value)
    if unit == "bytes":
        return markup.file_size(value)
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _standing(run: dict[str, Any]) -> str:
    if run["status"] == "running" and run["max_steps"]:
        return f"training, step {run['step']:,} of {run['max_steps']:,}"
    return WORDS.get(str(run["status"]), str(run["status"]))


def _title(text: str) -> str:
    return f'<p class="ps-title">{markup.escape(text)}</p>'
