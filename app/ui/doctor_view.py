"""What the doctor says: findings by how grave they are, each with its rows and its remedy; differences; versions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.ui import bars, markup
from app.ui.visible import odd_revealed

GROUPS = (
    ("blocks", "bad", "Has to be mended before training"),
    ("warns", "warn", "Worth mending"),
    ("notes", "plain", "Good to know"),
)
SAFE = "safe"
MAX_CASE_COLUMNS = 4

Finding = Mapping[str, Any]


def findings(
    found: Sequence[Finding], num_rows: int, tried: Mapping[str, Any] | None = None, *, looked_at: int | None = None
) -> str:
    """All findings, the gravest first.

    Args:
        found: What the service told.
        num_rows: Rows of the table.
        tried: The difference that repairs would make, shown where their button was pressed; `asked` says which.
        looked_at: Rows that were looked at; all by default.
    """
    looked = markup.count(num_rows, "row")
    rest = ""
    if looked_at is not None and looked_at < num_rows:
        looked = f"the first {looked_at:,} of {looked}"
        rest = f'<p class="ps-group">So far {looked} were looked at; all of them are when you go on.</p>'
    if not found:
        return markup.notice(f"Nothing odd was found in {looked}.", "good")
    parts = [_head(found, tried), rest]
    for severity, tone, title in GROUPS:
        group = [one for one in found if one["severity"] == severity]
        if group:
            items = "".join(_item(one, tone, tried) for one in group)
            parts.append(f'<p class="ps-group">{title}</p>{items}')
    return f'<div class="ps-findings">{"".join(parts)}</div>'


def difference(tried: Mapping[str, Any]) -> str:
    """What repairs would change: counts, and the first rows before and after, with the buttons to go on or leave it."""
    before, after = sum(tried["rows_before"].values()), sum(tried["rows_after"].values())
    told = "".join(f"<li>{markup.isolated(step['done'])}</li>" for step in tried["steps"] if step["count"])
    size = f"{before:,} rows stay." if before == after else f"{before:,} rows become {after:,}."
    # A repair of columns alone leaves every row as it is, which is still a change.
    nothing = "" if told else "<li>Nothing would change.</li>"
    rows = [_change(example) for example in tried["examples"]]
    table = markup.table(["Row", "Before", "After"], rows, "First rows that change") if rows else ""
    wish = json.dumps([_bare(each) for each in tried["repairs"]])
    buttons = markup.action("Do it", kind="repair", target=wish, tone="go") + markup.action(
        "Leave it", kind="leave", target=""
    )
    return (
        f'<div class="ps-difference" role="region" aria-label="What would change"><strong>What would change</strong>'
        f"<ul>{told}{nothing}</ul><p>{size} The version before stays and can be gone back to.</p>"
        f'{table}<div class="ps-chips">{buttons}</div></div>'
    )


def versions(listed: Sequence[Mapping[str, Any]], dataset_id: str) -> str:
    """Every version with what was done to get it, its download, and the way back."""
    items = []
    for index, each in enumerate(listed):
        done = " ".join(each["done"]) or ("As it was uploaded." if each["kind"] == "upload" else "")
        links = "".join(
            f'<a class="ps-action" href="/api/v1/datasets/{markup.escape(dataset_id)}/download'
            f'?version={each["version"]}&amp;part={markup.escape(part)}" download>{_download_label(each, part)}</a>'
            for part in each["parts"]
        )
        back = markup.action("Go back to this", kind="version", target=str(each["version"])) if index else ""
        state = markup.badge("in use", "good") if not index else ""
        items.append(
            f"<li><div><strong>Version {each['version']}</strong> {state} "
            f"<small>{markup.count(each['num_rows'], 'row')} · {markup.escape(each['content_hash'][:12])}</small>"
            f'<p>{markup.isolated(done)}</p></div><div class="ps-chips">{links}{back}</div></li>'
        )
    return f'<ul class="ps-versions">{"".join(items)}</ul>'


def pictures(report: Mapping[str, Any], target: str) -> str:
    """Lengths of prompts and answers, and the classes where the answers are some."""
    if not report.get("lengths"):
        return ""
    lengths = report["lengths"]
    drawn = [
        bars.histogram("Prompts", lengths["prompt"], lengths["unit"]),
        bars.histogram("Answers", lengths["target"], lengths["unit"]),
    ]
    if report["classes"]:
        others = report["num_classes"] - len(report["classes"])
        title = f"{markup.count(report['num_classes'], 'class', 'classes')} of {target}"
        drawn.append(bars.shares(title, report["classes"], report["num_class_rows"], others))
    return f'<div class="ps-pictures">{"".join(drawn)}</div>'


def token_lengths(measured: Mapping[str, Any], room: int) -> str:
    """Lengths in tokens against what the context leaves.

    Args:
        measured: What `services.lengths.measure` returned.
        room: Tokens that a row may have beside the prefix.
    """
    drawn = [
        bars.histogram("Prompts", measured["prompt"], "tokens", room),
        bars.histogram("Answers", measured["target"], "tokens", room),
        bars.histogram("Both together", measured["total"], "tokens", room),
    ]
    sampled = ""
    if measured["sampled"] < measured["num_rows"]:
        rows = f"{measured['sampled']:,} of {measured['num_rows']:,} rows"
        sampled = f"<small>Drawn from {rows}; all that may be too long were counted.</small>"
    return f'<div class="ps-pictures">{"".join(drawn)}</div>{sampled}'


def gate(blocking: str | None) -> str:
    """Why it does not go on; nothing where it does."""
    return f'<p class="ps-gate" role="status">{markup.isolated(blocking)}</p>' if blocking else ""


def _head(found: Sequence[Finding], tried: Mapping[str, Any] | None) -> str:
    safe = [one for one in found if any(each["safe"] for each in one.get("repairs", [])[:1])]
    button = markup.action("Repair all that is safe", kind="try", target=json.dumps(SAFE), tone="go") if safe else ""
    count = markup.count(len(found), "finding")
    shown = difference(tried) if tried and tried["asked"] == json.dumps(SAFE) else ""
    return f'<div class="ps-findings-head"><p class="ps-title">{count}</p>{button}</div>{shown}'


def _item(one: Finding, tone: str, tried: Mapping[str, Any] | None) -> str:
    wishes = [(each["label"], json.dumps([_bare(each)])) for each in one.get("repairs", [])]
    buttons = "".join(markup.action(label, kind="try", target=wish) for label, wish in wishes)
    shown = difference(tried) if tried and tried["asked"] in [wish for _, wish in wishes] else ""
    actions = f'<div class="ps-chips">{buttons}</div>' if buttons else ""
    line = f'<div class="ps-finding-line"><p>{markup.isolated(one["message"])}</p>{actions}</div>'
    code = markup.escape(one["code"])
    return f'<div class="ps-finding ps-{tone}" data-code="{code}">{line}{_cases(one)}{shown}</div>'


def _bare(repair: Mapping[str, Any]) -> dict[str, Any]:
    """What a button needs to say of a repair; rows by number can be many, and are known to who pressed it."""
    return {name: value for name, value in repair.items() if name in ("kind", "columns")}


def _cases(one: Finding) -> str:
    cases = one.get("cases") or []
    if not cases:
        return ""
    names = list(dict.fromkeys(name for case in cases for name in case["cells"]))[:MAX_CASE_COLUMNS]
    rows = [[f"{case['row']:,}", *(_cell(case["cells"].get(name, "")) for name in names)] for case in cases]
    label = "Show the first row" if len(cases) == 1 else f"Show the first {len(cases)} rows"
    return f"<details><summary>{label}</summary>{markup.table(['Row', *names], rows, 'First rows')}</details>"


def _change(example: Mapping[str, Any]) -> list[str]:
    part = "" if example["part"] == "train" else f" ({markup.escape(example['part'])})"
    before = _named_cells(example["before"])
    after = "<em>left out</em>" if example["after"] is None else _named_cells(example["after"])
    return [f"{example['row']:,}{part}", before, after]


def _named_cells(cells: Mapping[str, str]) -> str:
    return "".join(f"<div><small>{markup.isolated(name)}</small> {_cell(cell)}</div>" for name, cell in cells.items())


def _cell(cell: str) -> str:
    return f"<bdi>{odd_revealed(cell)}</bdi>" if cell else "<em>empty</em>"


def _download_label(version: Mapping[str, Any], part: str) -> str:
    return "Download CSV" if len(version["parts"]) == 1 else f"Download {markup.escape(part)}"
