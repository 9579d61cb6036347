"""What the page shows of tables that a prefix answers: before it begins, while it works, when it is done."""

from collections.abc import Sequence
from typing import Any

from app.ui import markup

MAX_COUNTS = 12
FORMATS = {"csv": "CSV", "jsonl": "JSONL", "parquet": "Parquet"}
STOPPING = {
    "keep": "Stopping; the answers so far are being kept …",
    "pause": "Pausing; the answers so far are kept, and it goes on behind them …",
}
SHARES = {"answered": "Answered", "left_out": "Too long, left out", "cut": "Cut by the context"}


def title(job: dict[str, Any]) -> str:
    """The name of such a job, as text."""
    return f"Answering {job['name']}"


def looked_at(draft: dict[str, Any]) -> str:
    """What was dropped: its rows, the columns that were found, and how long it will take."""
    read = (
        f"{draft['file_name']}: {markup.count(draft['num_rows'], 'row')}, "
        f"{markup.count(len(draft['columns']), 'column')}, {draft['description']}."
    )
    missing = [name for name in draft["needed"] if name not in draft["mapping"]]
    found = ", ".join(_source(name, column) for name, column in draft["mapping"].items())
    words = [read, *draft["notes"]]
    if found:
        words.append(f"The prompt takes {found}.")
    if missing:
        also = "also " if found else ""
        which = "which column that is" if len(missing) == 1 else "which columns those are"
        words.append(f"It {also}needs {', '.join(missing)}: say {which}.")
    elif draft["estimate_s"] is not None:
        words.append(f"This takes {markup.duration(draft['estimate_s'])} on this machine.")
    return markup.notice(" ".join(words), "warn" if missing else "good")


def tables(jobs: Sequence[dict[str, Any]]) -> str:
    """The tables that a prefix was given, the newest first."""
    if not jobs:
        return ""
    # Two columns only, so that the links are seen on a phone without scrolling.
    rows = [[_table(job), downloads(job)] for job in jobs]
    return markup.table(["Table", "Answers"], rows, "Tables that this prefix was given")


def downloads(job: dict[str, Any]) -> str:
    """Links to the answered table."""
    address = job["answers"]["download"]
    if not address:
        return ""
    ways = [(f"?format={form}", label) for form, label in FORMATS.items()]
    if job["answers"]["format"] == "xlsx":
        # As it came, which is CSV for the rare table that outgrows a sheet.
        ways.insert(0, ("", "Excel"))
    links = [
        f'<a class="ps-action" href="{markup.escape(address + query)}" download>{label}</a>' for query, label in ways
    ]
    return f'<span class="ps-chips">{"".join(links)}</span>'


def sentence(job: dict[str, Any]) -> str | None:
    """How such a job stands, where a training would say it in other words; None where both say the same."""
    metrics, total = job.get("metrics") or {}, job["max_steps"]
    done = f"{job['step']:,} of {markup.count(total, 'row')}"
    if job["status"] == "running" and job["step"] and not job.get("stop_request") and job.get("eta_s"):
        parts = [f"{done} answered", f"{markup.duration(job['eta_s'])} left"]
        if metrics.get("rows_per_second"):
            parts.append(f"{metrics['rows_per_second']:,.1f} rows/s")
        return ", ".join(parts) + "."
    if job["status"] == "running" and job.get("stop_request") in STOPPING:
        return STOPPING[job["stop_request"]]
    if job["status"] == "paused":
        return f"Paused after {done}."
    if job["status"] == "succeeded":
        return _ended(job, metrics)
    return None


def details(job: dict[str, Any]) -> str:
    """The numbers of such a job, and how often each answer was given."""
    told, metrics = job["answers"], job.get("metrics") or {}
    who = told["prefix_name"] if told["uses_prefix"] else f"{job['base_model']}, without the prefix"
    pairs = [
        ("Table", markup.isolated(told["file_name"])),
        ("Answered by", markup.isolated(who)),
        ("Prompt from", markup.isolated(", ".join(_source(*pair) for pair in told["mapping"].items()) or "–")),
        ("New column", markup.isolated(told["answer_column"])),
    ]
    pairs += [(label, markup.count(metrics[name], "row")) for name, label in SHARES.items() if metrics.get(name)]
    if metrics.get("not_reached"):
        pairs.append(("Not reached", markup.count(metrics["not_reached"], "row")))
    if metrics.get("max_tokens"):
        pairs.append(("Longest answer", markup.count(metrics["max_tokens"], "token")))
    return markup.facts(pairs) + _counts(metrics.get("counts") or [], metrics.get("answered") or 0)


def examples(job: dict[str, Any]) -> str:
    """A few rows of the latest batch with their answers, so that one sees early whether they make sense."""
    rows = (job.get("metrics") or {}).get("examples") or []
    cells = [
        [f'<div class="ps-clip">{markup.isolated(row.get(name) or "–")}</div>' for name in ("prompt", "answer")]
        for row in rows
    ]
    heading = '<p class="ps-title">Some of the answers</p>'
    return heading + markup.table(["Prompt", "Answer"], cells, "Some of the answers") if rows else ""


def _ended(job: dict[str, Any], metrics: dict[str, Any]) -> str:
    words = [f"Done: {markup.count(metrics.get('answered') or 0, 'row')} answered."]
    if metrics.get("left_out"):
        words.append(
            f"{markup.count(metrics['left_out'], 'row')} could not be asked; the table says why in a second column."
        )
    if metrics.get("not_reached"):
        words.append(f"{markup.count(metrics['not_reached'], 'row')} were not reached, because the job was stopped.")
    return " ".join(words)


def _counts(counts: Sequence[Sequence[Any]], total: int) -> str:
    if not counts or not total:
        return ""
    rows = [[markup.isolated(text or "(empty)"), f"{count:,}", f"{count / total:.1%}"] for text, count in counts]
    more = f"<p><small>and {len(rows) - MAX_COUNTS:,} more answers</small></p>" if len(rows) > MAX_COUNTS else ""
    heading = '<p class="ps-title">How often each answer was given</p>'
    return heading + markup.table(["Answer", "Rows", "Share"], rows[:MAX_COUNTS], "Answers by number of rows") + more


def _table(job: dict[str, Any]) -> str:
    num_rows = markup.count(job["answers"]["num_rows"], "row")
    return f"{markup.isolated(job['name'])}, {num_rows}<br>{_state(job)}"


def _state(job: dict[str, Any]) -> str:
    """The state in words, with a bar while it works."""
    words = {"queued": "waiting", "paused": "paused", "failed": "failed", "cancelled": "discarded"}
    if job["status"] in words:
        tone = "bad" if job["status"] == "failed" else "plain"
        reason = (job.get("error") or {}).get("message") if job["status"] == "failed" else None
        told = f"<br><small>{markup.isolated(reason)}</small>" if reason else ""
        return markup.badge(words[job["status"]], tone) + told
    if job["status"] == "succeeded":
        early = job.get("stopped_early")
        return markup.badge("stopped early" if early else "done", "warn" if early else "good")
    told = sentence(job) or f"{job.get('stage') or 'Starting'} …"
    return f"{markup.escape(told)}{markup.progress(job['step'] / max(1, job['max_steps']))}"


def _source(name: str, column: str) -> str:
    return name if name == column else f"{name} from {column}"
