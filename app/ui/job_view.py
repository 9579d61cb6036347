"""What the Jobs tab shows: a card for each job, and one job in full."""

from collections.abc import Collection, Sequence
from typing import Any

from app.services.methods import title_of
from app.services.verdict import is_judged
from app.ui import answer_view, chart, markup, sweep_view, verdict_view

TONES = {
    "queued": "plain", "running": "live", "paused": "warn", "succeeded": "good", "failed": "bad", "cancelled": "plain",
}  # fmt: skip
WORDS = {
    "queued": "waiting", "running": "training", "paused": "paused", "succeeded": "done", "failed": "failed",
    "cancelled": "discarded",
}  # fmt: skip
BASELINES = {"base": "base model", "instruction": "written instruction", "few_shot": "examples in the prompt"}


STOPPING = {
    "keep": "Stopping; what it has learned so far is being kept …",
    "discard": "Stopping; nothing of it will be kept …",
    "pause": "Pausing; it writes a checkpoint first …",
}
PRIORITIES = {1: "first", -1: "last"}
CONDITIONS = {"ended": "has ended", "succeeded": "has succeeded", "failed": "has failed"}


def job_cards(jobs: Sequence[dict[str, Any]], chosen: str | None, marked: Collection[str] = ()) -> str:
    """All jobs, newest first; with more than one, each can be ticked for a comparison."""
    if not jobs:
        return markup.empty("No job yet", "Bring a table in the Train tab; its training appears here.")
    cards = [_card(job, job["id"] == chosen) for job in jobs]
    if len(jobs) > 1:
        cards = [_tickable(job, card, job["id"] in marked) for job, card in zip(jobs, cards, strict=True)]
    return f'<div class="ps-cards">{"".join(cards)}</div>'


def state_line(job: dict[str, Any]) -> str:
    """One sentence that says how the job stands."""
    title = f'<p class="ps-title">{markup.isolated(_title(job))} {_state_badge(job)}</p>'
    tone = {"failed": "bad", "succeeded": "good"}.get(job["status"], "plain")
    return title + markup.notice(_sentence(job), tone) + _progress(job)


def curve(job: dict[str, Any], told: dict[str, Any]) -> str:
    """The job's chart."""
    if _is_answering(job):
        return ""
    levels = [
        (BASELINES.get(name, name), loss) for name, loss in (told.get("baselines") or {}).items() if loss is not None
    ]
    return chart.draw(
        chart.Curve(
            train=list(zip(told["steps"], told["train_loss"], strict=True)),
            validation=[(point["step"], point["loss"]) for point in told["validation"]],
            levels=levels,
            best_step=told.get("best_step"),
            max_steps=job["max_steps"],
        )
    )


def verdict(job: dict[str, Any]) -> str:
    """Whether the prefix of a finished job helps."""
    evaluation = (job.get("metrics") or {}).get("evaluation")
    if _is_answering(job):
        return answer_view.examples(job)
    return verdict_view.shown(evaluation) if job["status"] == "succeeded" else ""


def samples(job_id: str, looks: Sequence[dict[str, Any]]) -> str:
    """Held-out prompts with the base's and the prefix's answers, and a slider over the looks at them.

    Args:
        job_id: The job, so that the slider keeps its place.
        looks: `step` and `rows` of each, in order; the last one is shown at first.
    """
    if not looks:
        return ""
    title = '<p class="ps-title">Answers on rows it never trained on</p>'
    last = len(looks) - 1
    names = [f"After step {look['step']:,}" if look["step"] else "Before the first step" for look in looks]
    names = [f"{name}, look {index + 1} of {len(looks)}" for index, name in enumerate(names)]
    frames = "".join(
        f'<div data-frame="{name}"{"" if index == last else " hidden"}>{_answers(look["rows"])}</div>'
        for index, (name, look) in enumerate(zip(names, looks, strict=True))
    )
    slider = (
        '<div class="ps-scrub"><label>Over the training <input type="range" data-page-action="scrub" '
        f'data-of="{markup.escape(job_id)}" min="0" max="{last}" value="{last}" step="1"></label>'
        f"<output>{names[-1]}</output></div>"
    )
    return f"{title}<div data-frames>{slider if last else ''}{frames}</div>"


def _answers(rows: Sequence[dict[str, Any]]) -> str:
    headers = ["Held-out prompt", "Expected", "Base model", "With the prefix"]
    names = ["prompt", "expected", "base", "prefix"]
    cells = [[f'<div class="ps-clip">{markup.isolated(row.get(name) or "–")}</div>' for name in names] for row in rows]
    return markup.table(headers, cells, "Sample answers")


def details(job: dict[str, Any]) -> str:
    """The numbers of a job."""
    if _is_answering(job):
        return answer_view.details(job)
    metrics = job.get("metrics") or {}
    pairs = [("Base model", markup.isolated(job["base_model"])), ("Method", markup.escape(title_of(job["method"])))]
    if job.get("dataset_name"):
        pairs.append(("Data", markup.data_source(job)))
    for name, title in (("num_parameters", "Numbers trained"), ("num_virtual_tokens", "Length in tokens")):
        if metrics.get(name):
            pairs.append((title, f"{metrics[name]:,}"))
    for name, title in (
        ("base_loss", "Loss of the base"),
        ("instruction_loss", "Loss with the instruction"),
        ("few_shot_loss", "Loss with examples"),
        ("validation_loss", "Loss with the prefix"),
    ):
        if metrics.get(name) is not None:
            pairs.append((title, markup.score(metrics[name])))
    if metrics.get("left_out_rows"):
        pairs.append(("Left out", markup.count(metrics["left_out_rows"], "row") + " longer than the context"))
    if metrics.get("base_unchanged") is not None:
        pairs.append(("Base weights", "unchanged, by their hash" if metrics["base_unchanged"] else "CHANGED"))
    if job.get("attempt", 1) > 1:
        pairs.append(("Attempt", str(job["attempt"])))
    return markup.facts(pairs) + sweep_view.shown(metrics.get("sweep") or [])


def log(lines: Sequence[str]) -> str:
    """The job's log, newest lines last."""
    text = "\n".join(lines) if lines else "Nothing has been written yet."
    return f'<div class="ps-code" tabindex="0" role="log" aria-label="Log of the job">{markup.escape(text)}</div>'


def _card(job: dict[str, Any], is_chosen: bool) -> str:
    words = f"<small>{markup.isolated(job['base_model'])}{_left(job)}</small>{_start(job)}"
    return markup.card(
        "job", job["id"], _title(job), aside=_state_badge(job), body=words + _progress(job), is_chosen=is_chosen
    )


def _tickable(job: dict[str, Any], card: str, is_marked: bool) -> str:
    if _is_answering(job):
        return f'<div class="ps-tickable"><span></span>{card}</div>'
    name = f"Compare {job['name']}"
    box = (
        f'<input type="checkbox" data-kind="mark" data-target="{markup.escape(job["id"])}" '
        f'aria-label="{markup.escape(name)}"{" checked" if is_marked else ""}>'
    )
    return f'<div class="ps-tickable">{box}{card}</div>'


def _start(job: dict[str, Any]) -> str:
    """What holds a job back, and where its priority puts it; nothing for one at its ordinary turn."""
    if job["status"] not in ("queued", "paused"):
        return ""
    waits, priority = job.get("waits_for"), PRIORITIES.get(job.get("priority") or 0)
    words = [f"goes {priority}"] if priority else []
    if waits and not waits["is_over"]:
        name = markup.isolated(waits["name"]) if waits["name"] else "a deleted job"
        words.append(f"{'held back: ' if waits['is_missed'] else ''}after {name} {CONDITIONS[job['starts_when']]}")
    return f'<small class="ps-waits">{", ".join(words)}</small>' if words else ""


def _state_badge(job: dict[str, Any]) -> str:
    waits = job.get("waits_for")
    if job["status"] == "queued" and waits and waits["is_missed"]:
        return markup.badge("held back", "warn")
    word = "answering" if _is_answering(job) and job["status"] == "running" else WORDS[job["status"]]
    return markup.badge(word, TONES[job["status"]])


def _is_answering(job: dict[str, Any]) -> bool:
    return bool(job.get("kind") == "answering")


def _title(job: dict[str, Any]) -> str:
    return answer_view.title(job) if _is_answering(job) else str(job["name"])


def _left(job: dict[str, Any]) -> str:
    if job["status"] == "running" and job.get("eta_s"):
        return f", {markup.duration(job['eta_s'])} left"
    return ""


def _progress(job: dict[str, Any]) -> str:
    if job["status"] not in ("running", "paused") or not job["max_steps"]:
        return ""
    return markup.progress(job["step"] / job["max_steps"])


def _sentence(job: dict[str, Any]) -> str:
    if _is_answering(job) and (told := answer_view.sentence(job)):
        return told
    status, metrics = job["status"], job.get("metrics") or {}
    if status == "queued" and job.get("waits_for") and not job["waits_for"]["is_over"]:
        return str(job["waits_for"]["sentence"])
    if status == "queued" and job.get("waits_because"):
        return str(job["waits_because"])
    if status == "queued":
        ahead = job.get("jobs_ahead")
        return f"Waiting; {markup.count(ahead, 'job')} before it." if ahead else "Waiting for its turn."
    if status == "running":
        if job.get("stop_request"):
            return STOPPING[job["stop_request"]]
        if not job["max_steps"] or not job["step"] or job.get("eta_s") == 0:
            return f"{job.get('stage') or 'Starting'} …"
        parts = [f"Step {job['step']:,} of {job['max_steps']:,}", f"{markup.duration(job.get('eta_s'))} left"]
        if metrics.get("tokens_per_second"):
            parts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
        if metrics.get("memory_bytes"):
            parts.append(markup.file_size(metrics["memory_bytes"]))
        return ", ".join(parts) + "."
    if status == "paused":
        return f"Paused at step {job['step']:,} of {job['max_steps']:,}."
    if status == "failed":
        return (job.get("error") or {}).get("message") or "It failed; its log says more."
    if status == "cancelled":
        return "Discarded; nothing of it was kept."
    early = " It was stopped early; the best prefix until then was kept." if job.get("stopped_early") else ""
    before, after = metrics.get("base_loss"), metrics.get("validation_loss")
    if is_judged(metrics.get("evaluation")):
        return f"Done: trained in {markup.duration(metrics.get('train_s'))}.{early}"
    if before is not None and after is not None:
        return f"Done. Loss on held-out rows went from {before:.3f} (base) to {after:.3f} (with the prefix).{early}"
    return f"Done.{early}"
