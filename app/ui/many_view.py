"""What the playground shows of many held-out rows: the totals of the columns, and each row with its scores."""

from collections.abc import Sequence
from typing import Any

from app.services.many_rows import ManyRows
from app.services.verdict import METRICS, SHARES
from app.ui import markup

MAX_SHOWN = 600
FIRST_HEADERS = ("Row", "Prompt", "Expected")


def waiting() -> str:
    """What stands there before the first table."""
    return markup.empty(
        "No rows answered yet", "Choose the columns above and press Answer rows; each row is scored as it comes."
    )


def totals(table: ManyRows, titles: Sequence[str]) -> str:
    """How far it is, and what each column scores with the range that this lies in."""
    done, count = table.num_done, len(table.rows)
    parts = [f"{done:,} of {markup.count(count, 'held-out row')}", f"{table.seconds:.0f} s"]
    if faults := sum(bool(row.fault) for row in table.rows):
        parts.append(f"{faults:,} refused: {next(row.fault for row in table.rows if row.fault)}")
    if table.is_ended and done < count:
        parts.append("stopped")
    line = f'<p class="ps-lead" role="status">{markup.isolated(", ".join(parts))}</p>'
    bar = "" if table.is_ended else markup.progress(done / max(1, count))
    rows = [
        [markup.isolated(title), _figure(table.metric, each.value, each.low, each.high)]
        for title, each in zip(titles, table.intervals(), strict=False)
    ]
    name = METRICS.get(table.metric, table.metric)
    shown = markup.table(["Column", f"{name}, 95 % range"], rows, "What the columns score") if rows else ""
    return line + bar + shown


def headers(titles: Sequence[str], metric: str) -> list[str]:
    """Of the table: the row, then answer and score of each column; names that come twice are numbered."""
    name = METRICS.get(metric, metric)
    wished = [*FIRST_HEADERS, *(each for title in titles for each in (title, f"{title}: {name}"))]
    return [each if wished.index(each) == place else f"{each} ({place})" for place, each in enumerate(wished)]


def cells(table: ManyRows) -> list[list[Any]]:
    """The rows that are answered, in the order of the table."""
    scores = table.scores()
    return [
        [
            row.number,
            _clipped(row.prompt),
            _clipped(row.expected),
            *(
                cell
                for answer, score in zip(row.answers or [], scores[row.number], strict=True)
                for cell in (_clipped(answer), round(100 * score, 1))
            ),
        ]
        for row in table.answered
    ]


def datatypes(num_columns: int) -> list[str]:
    """Of the table's columns: nothing in it is read as HTML or Markdown."""
    return ["number", "str", "str", *(["str", "number"] * num_columns)]


def widths(num_columns: int) -> list[str]:
    """Of the table's columns, in pixels."""
    return ["70px", "320px", "200px", *(["220px", "110px"] * num_columns)]


def _figure(metric: str, value: float, low: float, high: float) -> str:
    unit = " %" if metric in SHARES else ""
    left, width = 100 * max(0.0, low), 100 * (min(1.0, high) - max(0.0, low))
    bar = (
        f'<span class="ps-span" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i>'
        f'<b style="left:{left:.1f}%;width:{width:.1f}%"></b></span>'
    )
    return f'<span class="ps-nowrap">{100 * value:.0f}{unit} ({100 * low:.0f} to {100 * high:.0f})</span>{bar}'


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"
