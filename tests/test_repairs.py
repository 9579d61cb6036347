"""Every repair does what its button says, shows it before, and leaves the rest of the table alone."""

from pathlib import Path
from typing import Any

import pytest
from tables import clean, mended, order_of

from storage.artifacts import ArtifactStore
from storage.doctor.characters import restore
from storage.doctor.examine import examine
from storage.doctor.repairs import read_repairs
from storage.errors import InvalidInputError


def test_rows_without_an_answer_are_left_out(store: ArtifactStore, tmp_path: Path) -> None:
    treated, parts = mended(store, tmp_path / "work", ["drop_empty_targets"], train=[*clean(), ("late", " ")])
    assert parts == {"train": [list(row) for row in clean()]}
    assert treated.difference["left_out_rows"] == 1
    assert treated.difference["examples"] == [
        {
            "part": "train",
            "row": 41,
            "kinds": ["drop_empty_targets"],
            "before": {"text": "late", "label": " "},
            "after": None,
        }
    ]
    assert treated.difference["steps"][0]["done"] == "1 row without an answer left out."
    assert treated.findings == []
    assert list((tmp_path / "work").iterdir()) == []


def test_repeated_rows_are_kept_once(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [*clean(), clean()[3], clean()[3]]
    treated, parts = mended(store, tmp_path, ["drop_duplicates"], train=rows)
    assert parts["train"] == [list(row) for row in clean()]
    assert treated.difference["rows_after"] == {"train": 40}


def test_misread_characters_are_restored_and_nothing_else(store: ArtifactStore, tmp_path: Path) -> None:
    rows = clean()
    rows[3] = ("the cafÃ© is â€œopenâ€\x9d", "a")
    rows[4] = ("naïve — “quoted” 👩‍👩‍👧 \u202e", "b")
    treated, parts = mended(store, tmp_path, ["fix_mojibake"], train=rows)
    assert parts["train"][3] == ["the café is “open”", "a"]
    assert parts["train"][4] == list(rows[4])
    (example,) = treated.difference["examples"]
    assert (example["before"]["text"], example["after"]["text"]) == (rows[3][0], "the café is “open”")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman"])
@pytest.mark.parametrize("text", ["café “naïve” — déjà vu", "日本語", "Привет, мир", "emoji 👧 ñandú €5"])
def test_text_misread_in_a_known_encoding_comes_back(text: str, encoding: str) -> None:
    data = text.encode()
    characters = [bytes([byte]).decode(encoding, "replace") for byte in data]
    misread = "".join(chr(byte) if got == "\ufffd" else got for got, byte in zip(characters, data, strict=True))
    assert restore(misread) == text
    assert restore(text) == text


def test_text_that_was_misread_twice_comes_back() -> None:
    assert restore("entertainment Â\x96 until") == "entertainment – until"
    assert restore("cafÃƒÂ© now") == "café now"


@pytest.mark.parametrize("text", ["«été»…", "„SCHÖ“ ok", "AMANHÃ”", "√π is 1.77", "¿Qué? ÄÖÜ ß", "Müller’s – naïve"])
def test_text_that_only_looks_misread_is_left_alone(text: str) -> None:
    assert restore(text) == text


def test_control_characters_go_and_line_ends_stay(store: ArtifactStore, tmp_path: Path) -> None:
    _, parts = mended(store, tmp_path, ["remove_control_characters"], train=[*clean(), ("\ufeffa\x07b\tc\r\nd", "a")])
    assert parts["train"][40] == ["ab\tc\r\nd", "a"]


def test_answers_are_trimmed(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [(f" text {index} ", f" answer {index}\n") for index in range(12)]
    _, parts = mended(store, tmp_path, ["trim_targets"], train=rows)
    assert parts["train"][2] == [" text 2 ", "answer 2"]


def test_spellings_are_merged_into_the_most_frequent(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [*clean(), ("one", "A"), ("two", "b ")]
    treated, parts = mended(
        store, tmp_path, ["merge_labels"], train=rows, validation=[("three", "B"), ("four", "a"), ("five", "c")]
    )
    assert [row[1] for row in parts["train"][40:]] == ["a", "b"]
    assert [row[1] for row in parts["validation"]] == ["b", "a", "c"]
    assert treated.difference["changed_rows"] == 3


def test_one_prompt_keeps_its_most_frequent_answer(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [*clean(), ("text 0", "b"), ("text 0", "b")]
    _, parts = mended(store, tmp_path, ["keep_one_answer"], train=rows)
    assert [row for row in parts["train"] if row[0] == "text 0"] == [["text 0", "b"], ["text 0", "b"]]
    assert len(parts["train"]) == 41


def test_held_out_rows_leave_the_training_part(store: ArtifactStore, tmp_path: Path) -> None:
    held_out = [("text 3", "b"), ("new", "a")]
    _, parts = mended(store, tmp_path, ["drop_seen_in_training"], train=clean(), validation=held_out)
    assert ["text 3", "b"] not in parts["train"]
    assert parts["validation"] == [list(row) for row in held_out]


def test_a_new_split_joins_the_parts(store: ArtifactStore, tmp_path: Path) -> None:
    treated, parts = mended(
        store, tmp_path, ["resplit"], train=clean(), validation=[("text 3", "b")], test=[("test", "a")]
    )
    assert set(parts) == {"train", "test"}
    assert len(parts["train"]) == 41
    assert treated.difference["rows_after"] == {"train": 41, "test": 1}


def test_rare_classes_are_left_out_and_a_large_one_is_evened_out(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [(f"text {index}", "ham") for index in range(90)] + [(f"win {index}", "spam") for index in range(8)]
    _, parts = mended(store, tmp_path, ["balance_classes"], train=rows)
    assert [row[1] for row in parts["train"]].count("ham") == 8
    rows = [*clean(), ("odd", "c"), ("odder", "c")]
    _, parts = mended(store, tmp_path, ["drop_rare_classes"], train=rows)
    assert parts["train"] == [list(row) for row in clean()]


def test_rows_by_number_and_lost_characters_are_left_out(store: ArtifactStore, tmp_path: Path) -> None:
    wishes = [{"kind": "drop_rows", "rows": {"train": [1, 3]}}, "drop_lost_characters"]
    _, parts = mended(store, tmp_path, wishes, train=[*clean(), ("caf\ufffd", "a")])
    assert parts["train"] == [list(row) for index, row in enumerate(clean()) if index not in (0, 2)]


def test_all_that_is_safe_is_done_in_one_go(store: ArtifactStore, tmp_path: Path) -> None:
    rows = [*clean(), ("cafÃ©", "a"), ("caf\x07é", "A"), ("empty", ""), clean()[0], ("café", "a")]
    treated, parts = mended(store, tmp_path, "safe", train=rows)
    # Two rows are only alike once they are mended.
    assert parts["train"] == [*[list(row) for row in clean()], ["café", "a"]]
    assert treated.findings == []
    assert treated.difference["left_out_rows"] == 4


def test_a_repair_that_changes_nothing_gives_the_same_content(store: ArtifactStore, tmp_path: Path) -> None:
    first, _ = mended(store, tmp_path, ["trim_targets"], train=clean())
    again, _ = mended(store, tmp_path, ["drop_duplicates"], train=clean())
    other, _ = mended(store, tmp_path, ["drop_duplicates"], train=[*clean(), ("new", "a")])
    assert first.table.content_hash == again.table.content_hash != other.table.content_hash


def test_repairs_that_leave_nothing_are_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="would leave no row to train on"):
        mended(store, tmp_path / "work", ["drop_empty_targets"], train=[("a", ""), ("b", "")])
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        (["drop_it_all"], "no repair “drop_it_all”"),
        ("everything", "expected a list"),
        ([], "expected a list"),
        ([{"kind": "drop_rows", "rows": {"train": [0]}}], "expected numbers from 1"),
        ([{"kind": "drop_rows"}], "expected numbers from 1"),
        ([{"kind": "drop_columns", "columns": ["no such"]}], "expected some of text, label"),
        ([{"kind": ["drop_rows"]}], r'no repair \["drop_rows"\]'),
        (["leave_out_of_prompt"], "leave_out_of_prompt needs the names of columns"),
        ([{"kind": "drop_columns", "columns": []}], "drop_columns needs the names of columns"),
        ([{"kind": "trim_targets", "shell": "rm"}], "has no field “shell”"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(store: ArtifactStore, wishes: Any, sentence: str) -> None:
    found = examine(order_of(store, train=clean()))["findings"]
    with pytest.raises(InvalidInputError, match=sentence):
        read_repairs(wishes, found, ["text", "label"])
