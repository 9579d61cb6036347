"""What is told about rows before anything is trained on them."""

from typing import Any

from stored import store_table

from storage.artifacts import ArtifactStore
from storage.tables.findings import row_findings


def find(store: ArtifactStore, *, max_rows: int | None = None, **parts: list[tuple[str, str]]) -> dict[str, Any]:
    """Findings by code and part, for tables of text and label."""
    table = store_table(
        store, **{part: [{"text": text, "label": label} for text, label in rows] for part, rows in parts.items()}
    )
    found = row_findings(store, table.blobs, table.columns, ["text"], "label", max_rows=max_rows)
    assert all(set(one) == {"code", "severity", "message", "count", "rows", "part"} for one in found)
    return {one["code"] if one["part"] == "train" else f"{one['code']} {one['part']}": one for one in found}


def clean(count: int = 40) -> list[tuple[str, str]]:
    return [(f"text {index}", "ab"[index % 2]) for index in range(count)]


def test_clean_rows_give_no_finding(store: ArtifactStore) -> None:
    assert find(store, train=clean()) == {}


def test_empty_answers_are_counted_with_their_rows(store: ArtifactStore) -> None:
    rows = clean()
    rows[4] = ("text", " ")
    rows[30] = ("other", "")
    found = find(store, train=rows)
    assert list(found) == ["empty_target"]
    assert found["empty_target"]["severity"] == "warns"
    assert (found["empty_target"]["count"], found["empty_target"]["rows"]) == (2, [5, 31])
    assert "They are rows 5, 31." in found["empty_target"]["message"]


def test_no_answer_at_all_blocks_and_comes_first(store: ArtifactStore) -> None:
    found = find(store, train=[(f"text {index}", "") for index in range(20)] + [("one", "a")])
    assert next(iter(found)) == "no_usable_rows"
    assert found["no_usable_rows"]["severity"] == "blocks"
    assert "1 row has an answer in 'label'" in found["no_usable_rows"]["message"]
    assert len(found["empty_target"]["rows"]) == 10


def test_few_rows_and_a_constant_answer_are_told(store: ArtifactStore) -> None:
    assert set(find(store, train=[("a", "x"), ("b", "x"), ("c", "x")])) == {"few_rows", "constant_target"}


def test_repeated_rows_name_the_later_ones(store: ArtifactStore) -> None:
    rows = clean()
    rows[7] = rows[39] = rows[3]
    assert find(store, train=rows)["duplicate_rows"]["rows"] == [8, 40]


def test_one_prompt_with_two_classes_warns(store: ArtifactStore) -> None:
    rows = [*clean(), ("text 3", "a")]
    found = find(store, train=rows)["same_prompt_other_target"]
    assert (found["severity"], found["rows"]) == ("warns", [4, 41])


def test_one_prompt_with_two_texts_is_only_noted(store: ArtifactStore) -> None:
    rows = [(f"text {index // 2}", f"answer {index}") for index in range(20)]
    assert find(store, train=rows)["same_prompt_other_target"]["severity"] == "notes"


def test_control_and_lost_characters_are_told(store: ArtifactStore) -> None:
    rows = clean()
    rows[1] = ("a\x07b", "a")
    rows[2] = ("caf\ufffd", "a")
    rows[3] = ("a\tb\nc", "a")
    assert find(store, train=rows)["control_characters"]["rows"] == [2, 3]


def test_empty_prompts_are_told(store: ArtifactStore) -> None:
    assert find(store, train=[*clean(), (" ", "a")])["empty_prompt"]["rows"] == [41]


def test_rows_of_validation_that_are_trained_on_are_told(store: ArtifactStore) -> None:
    found = find(store, train=clean(), validation=[("new", "a"), ("text 3", "b")])
    assert found["seen_in_training validation"]["rows"] == [2]
    assert "in the validation file" in found["seen_in_training validation"]["message"]


def test_a_look_at_the_first_rows_ends_there(store: ArtifactStore) -> None:
    rows = [*clean(3000), ("late", "")]
    assert "empty_target" in find(store, train=rows)
    assert "empty_target" not in find(store, train=rows, max_rows=1000)
