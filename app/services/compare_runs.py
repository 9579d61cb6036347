"""Several jobs side by side: their curves, what was set otherwise, and what came of it."""

from collections.abc import Callable, Sequence
from typing import Any

from app.context import AppContext
from app.services import jobs
from app.services.methods import title_of
from app.services.verdict import METRICS, SHARES, is_judged
from storage.errors import InvalidInputError, NotFoundError
from storage.prefixes import get_prefix

MAX_RUNS = 6
"""More curves than this cannot be told apart."""

Run = dict[str, Any]

LABELS = {
    "num_virtual_tokens": "Length in tokens",
    "init": "Starts from",
    "reparameterisation": "What is trained",
    "learning_rate": "Learning rate",
    "key_rate_factor": "Rate of the keys",
    "sweep": "Rates that were compared",
    "sweep_steps": "Steps between drops",
    "max_steps": "Training steps",
    "batch_size": "Rows per step",
    "warmup_fraction": "Share of warm-up",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Largest gradient",
    "average_decay": "Reach of the running average",
    "token_dropout": "Hidden virtual tokens",
    "eval_every": "Steps between looks",
    "seed": "Seed",
    "precision": "Number format of the base",
}
KINDS = {
    "propagated": "input vectors and offsets, with Muon",
    "muon": "matrices, with Muon",
    "mlp": "a network (MLP)",
    "direct": "the numbers themselves",
}
NOT_RECIPE = ("method",)

RESULTS: tuple[tuple[str, str, str], ...] = (
    ("base_loss", "Loss of the base", "loss"),
    ("instruction_loss", "Loss with the instruction", "loss"),
    ("few_shot_loss", "Loss with examples", "loss"),
    ("validation_loss", "Loss with the prefix", "loss"),
    ("num_steps", "Steps made", "count"),
    ("best_step", "Step that is kept", "count"),
    ("num_examples", "Rows learned from", "count"),
    ("train_s", "Time to train", "seconds"),
    ("tokens_per_second", "Tokens per second", "count"),
    ("memory_bytes", "Memory", "bytes"),
    ("num_parameters", "Numbers trained", "count"),
)
"""Figures of `metrics`: name, words, unit."""

RIVALS = {"base": "Against the base", "instruction": "Against the instruction", "few-shot": "Against examples"}


def compare(context: AppContext, ids: Sequence[str]) -> dict[str, Any]:
    """Jobs side by side, in the order in which they were named.

    Args:
        context: The open stores.
        ids: Two to `MAX_RUNS` jobs, in whatever state.

    Returns:
        `runs` (`id`, `name`, `status`, `step`, `max_steps`, `base_model`, `prefix_id`, `curve`); `settings` and
        `results`: entries of `name`, `label`, `unit`, `values` (one for each run) and `differs`. `best` is the place of
        the lowest loss with the prefix where the losses can be held against each other, else None.

    Raises:
        InvalidInputError: Fewer or more jobs than can be compared.
        NotFoundError: One of them is not there.
    """
    wanted = list(dict.fromkeys(each for each in ids if each))
    if not 2 <= len(wanted) <= MAX_RUNS:
        raise InvalidInputError(f"{len(wanted)} jobs are named; expected 2 to {MAX_RUNS} different ones.")
    told = [jobs.describe(context, job_id) for job_id in wanted]
    for job in told:
        if job.get("kind", "training") != "training":
            raise InvalidInputError(f"{job['name']!r} answers a table; expected trainings, which have a curve.")
    resolved = [_resolved(context, job) for job in told]
    sizes = [_size(context, job) for job in told]
    return {
        "runs": [_run(context, job) for job in told],
        "settings": [*_sources(told), *_recipes(told, resolved)],
        "results": [*_verdicts(told), *_figures(told), _entry("size_bytes", "Size of the prefix", "bytes", sizes)],
        "best": _best(told),
    }


def _run(context: AppContext, job: Run) -> Run:
    kept = ("id", "name", "status", "step", "max_steps", "base_model", "prefix_id")
    return {name: job[name] for name in kept} | {"curve": jobs.curve(context, job["id"])}


def _entry(name: str, label: str, unit: str, values: list[Any]) -> dict[str, Any]:
    differs = any(value != values[0] for value in values)
    return {"name": name, "label": label, "unit": unit, "values": values, "differs": differs}


def _sources(told: Sequence[Run]) -> list[dict[str, Any]]:
    """What is trained on what."""
    columns: tuple[tuple[str, str, Callable[[Run], Any]], ...] = (
        ("base_model", "Base model", lambda job: job["base_model"]),
        ("data", "Data", _data),
        ("method", "Method", lambda job: title_of(job["method"])),
        ("template", "Prompt", lambda job: job["rendering"].get("template")),
        ("instruction", "Instruction", lambda job: job["rendering"].get("instruction") or None),
        ("rendering", "Rendering", lambda job: job["rendering"].get("kind")),
    )
    return [_entry(name, label, "text", [read(job) for job in told]) for name, label, read in columns]


def _data(job: Run) -> str | None:
    if not job.get("dataset_name"):
        return None
    return f"{job['dataset_name']}, version {job['dataset_version']}" if job.get("dataset_version") else None


def _recipes(told: Sequence[Run], resolved: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for job in told for name in job["recipe"] if name not in NOT_RECIPE)
    entries = []
    for name in names:
        values = [_setting(name, job, taken) for job, taken in zip(told, resolved, strict=True)]
        if any(value is not None for value in values):
            entries.append(_entry(name, LABELS.get(name, name.replace("_", " ").capitalize()), "setting", values))
    return entries


def _setting(name: str, job: Run, taken: dict[str, Any]) -> str | None:
    """A setting in words: what was asked for, or what was chosen in its place once that is known."""
    wish = job["recipe"].get(name)
    if wish not in (None, [], ""):
        return _words(wish)
    chosen = taken.get(name)
    if chosen not in (None, [], ""):
        return f"{_words(chosen)} (automatic)"
    return None if name == "sweep" else "automatic"


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_words(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else KINDS.get(str(value), str(value))


def _resolved(context: AppContext, job: Run) -> dict[str, Any]:
    """The settings that a job's prefix was trained with; before there is one, what its figures tell."""
    try:
        with context.database.read() as session:
            recipe = dict(get_prefix(session, job["prefix_id"]).recipe) if job["prefix_id"] else {}
    except NotFoundError:
        recipe = {}
    known = {name: job["metrics"].get(name) for name in ("num_virtual_tokens", "batch_size")}
    known["max_steps"] = job["max_steps"] or None
    rates = [each.get("label") or each.get("rate") for each in job["metrics"].get("sweep") or []]
    return {**known, **recipe, "sweep": rates}


def _size(context: AppContext, job: Run) -> int | None:
    try:
        with context.database.read() as session:
            return get_prefix(session, job["prefix_id"]).size_bytes if job["prefix_id"] else None
    except NotFoundError:
        return None


def _figures(told: Sequence[Run]) -> list[dict[str, Any]]:
    entries = [_entry(name, label, unit, [job["metrics"].get(name) for job in told]) for name, label, unit in RESULTS]
    return [entry for entry in entries if any(value is not None for value in entry["values"])]


def _verdicts(told: Sequence[Run]) -> list[dict[str, Any]]:
    """The state of each, its score on held-out rows, and the verdict against each side."""
    entries = [_entry("status", "State", "text", [job["status"] for job in told])]
    judged = [job["metrics"].get("evaluation") for job in told]
    judged = [each if is_judged(each) else None for each in judged]
    if any(judged):
        entries.append(_entry("score", "Held-out answers", "text", [_score(each) for each in judged]))
    for side, label in RIVALS.items():
        verdicts = [each["verdicts"].get(side, {}).get("verdict") if each else None for each in judged]
        if any(verdicts):
            entries.append(_entry(f"verdict_{side}", label, "verdict", verdicts))
    return entries


def _score(evaluation: dict[str, Any] | None) -> str | None:
    if evaluation is None:
        return None
    metric = evaluation["metric"]
    value = evaluation["arms"]["prefix"]["metrics"][metric]["value"]
    unit = " %" if metric in SHARES else ""
    return f"{100 * value:.0f}{unit} {METRICS[metric].lower() if metric in SHARES else METRICS[metric]}"


def _best(told: Sequence[Run]) -> int | None:
    """Losses count tokens of one tokenizer on the same held-out rows, or they cannot be compared."""
    losses = [job["metrics"].get("validation_loss") for job in told]
    alike = {(job["base_model"], job.get("dataset_hash"), job["rendering"].get("template")) for job in told}
    if len(alike) > 1 or any(loss is None for loss in losses) or len(set(losses)) == 1:
        return None
    return losses.index(min(losses))
