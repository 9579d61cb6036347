"""What the page shows of findings, differences, versions and pictures; nothing of a table runs as a script."""

from typing import Any

import pytest

from app.ui import bars, data_view, doctor_view
from app.ui.visible import odd_revealed, revealed

HOSTILE = "<img src=x onerror=alert(1)>"
HISTOGRAM = {"edges": [0, 10, 20], "rows": [3, 1], "median": 7, "longest": 55}


def a_finding(**changes: Any) -> dict[str, Any]:
    found = {"code": "empty_target", "severity": "warns", "message": "A warning.", "count": 1, "rows": [3]}
    return found | {"repairs": [], "cases": []} | changes


def a_difference(**changes: Any) -> dict[str, Any]:
    example = {"part": "train", "row": 3, "kinds": ["x"], "before": {"text": " a"}, "after": {"text": "a"}}
    return {
        "asked": '[{"kind": "trim_targets"}]',
        "repairs": [{"kind": "trim_targets"}],
        "rows_before": {"train": 10},
        "rows_after": {"train": 10},
        "steps": [{"kind": "trim_targets", "label": "Trim", "count": 1, "done": "1 row trimmed."}],
        "examples": [example],
        **changes,
    }


def test_findings_stand_by_how_grave_they_are() -> None:
    found = [a_finding(severity="notes", message="A note."), a_finding(severity="blocks", message="A wall.")]
    shown = doctor_view.findings([*found, a_finding()], 10)
    assert shown.index("A wall.") < shown.index("A warning.") < shown.index("A note.")
    assert "3 findings" in shown


def test_a_table_without_findings_says_how_many_rows_were_looked_at() -> None:
    assert "Nothing odd was found in 1,200 rows." in doctor_view.findings([], 1200)


def test_a_look_at_a_part_says_so() -> None:
    assert "the first 100 of 1,200 rows" in doctor_view.findings([], 1200, looked_at=100)
    assert "So far the first 100 of 1,200 rows were looked at" in doctor_view.findings(
        [a_finding()], 1200, looked_at=100
    )


def test_a_finding_shows_its_rows_and_its_remedy() -> None:
    mend = {"kind": "drop_empty_targets", "label": "Leave these rows out", "safe": True}
    shown = doctor_view.findings([a_finding(repairs=[mend], cases=[{"row": 3, "cells": {"text": "late "}}])], 10)
    assert "Leave these rows out" in shown
    assert "Repair all that is safe" in shown
    assert 'late<i class="ps-sign">·</i>' in shown
    assert "Show the first row" in shown


def test_the_difference_stands_under_the_button_that_was_pressed() -> None:
    mend = {"kind": "trim_targets", "label": "Trim the answers", "safe": False}
    found = [a_finding(message="First."), a_finding(message="Second.", repairs=[mend]), a_finding(message="Third.")]
    shown = doctor_view.findings(found, 10, a_difference())
    assert shown.index("Second.") < shown.index("What would change") < shown.index("Third.")
    assert "1 row trimmed." in shown
    assert "10 rows stay." in shown
    assert 'data-kind="repair"' in shown


def test_versions_offer_a_download_and_a_way_back() -> None:
    listed = [
        {
            "version": 2,
            "done": ["Mended."],
            "kind": "repair",
            "num_rows": 9,
            "content_hash": "a" * 64,
            "parts": ["train"],
        },
        {
            "version": 1,
            "done": [],
            "kind": "upload",
            "num_rows": 10,
            "content_hash": "b" * 64,
            "parts": ["test", "train"],
        },
    ]
    shown = doctor_view.versions(listed, "abc")
    assert shown.count("Go back to this") == 1
    assert "/api/v1/datasets/abc/download?version=1&amp;part=test" in shown
    assert "As it was uploaded." in shown


def test_pictures_tell_what_bars_cannot() -> None:
    report = {
        "lengths": {"unit": "characters", "prompt": HISTOGRAM, "target": HISTOGRAM},
        "classes": [["ham", 30], ["spam", 10]],
        "num_classes": 5,
        "num_class_rows": 60,
    }
    shown = doctor_view.pictures(report, "label")
    assert "at most 7 characters, the longest 55" in shown
    assert "30 · 50%" in shown
    assert "and 3 more" in shown
    assert doctor_view.pictures({}, "label") == ""


def test_a_limit_is_drawn_where_it_lies_within_the_picture() -> None:
    assert "room for 15" in bars.histogram("Rows", HISTOGRAM, "tokens", limit=15)
    assert "room for" not in bars.histogram("Rows", HISTOGRAM, "tokens", limit=500)


def test_special_characters_are_made_visible_and_emoji_stay_whole() -> None:
    assert revealed("a b\t") == 'a<i class="ps-sign">·</i>b<i class="ps-sign">⇥</i>'
    assert "U+202E" in odd_revealed("\u202eabc")
    assert odd_revealed("a b") == "a b"
    assert odd_revealed("  ").count("·") == 2
    assert revealed("👩\u200d👧") == "👩\u200d👧"


@pytest.mark.parametrize(
    "shown",
    [
        doctor_view.findings([a_finding(message=HOSTILE, cases=[{"row": 1, "cells": {HOSTILE: HOSTILE}}])], 1),
        doctor_view.difference(
            a_difference(examples=[{"part": "train", "row": 1, "before": {HOSTILE: HOSTILE}, "after": None}])
        ),
        doctor_view.gate(HOSTILE),
        bars.shares(HOSTILE, [[HOSTILE, 1]], 1, 0),
        data_view.samples([{"row": 1, "prompt": HOSTILE, "target": HOSTILE}], reveal=True),
        data_view.reading(HOSTILE, 1),
    ],
)
def test_nothing_of_a_table_becomes_markup(shown: str) -> None:
    assert "<img" not in shown
