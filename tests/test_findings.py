"""What is told about rows before anything is trained on them."""

import json

import pytest
from tables import clean, find, order_of

from storage.artifacts import ArtifactStore
from storage.doctor.examine import examine, look_at


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
    assert found["empty_target"]["cases"][0] == {"row": 5, "cells": {"text": "text", "label": " "}}
    assert [each["kind"] for each in found["empty_target"]["repairs"]] == ["drop_empty_targets"]


def test_no_answer_at_all_blocks_and_comes_first(store: ArtifactStore) -> None:
    found = find(store, train=[(f"text {index}", "") for index in range(20)] + [("one", "a")])
    assert next(iter(found)) == "no_usable_rows"
    assert found["no_usable_rows"]["severity"] == "blocks"
    assert "1 row has an answer in “label”" in found["no_usable_rows"]["message"]
    assert len(found["empty_target"]["rows"]) == 10
    assert len(found["empty_target"]["cases"]) == 3


def test_one_single_row_blocks(store: ArtifactStore) -> None:
    assert find(store, train=[("a", "x")])["no_usable_rows"]["severity"] == "blocks"


def test_few_rows_and_a_constant_answer_are_told(store: ArtifactStore) -> None:
    assert set(find(store, train=[("a", "x"), ("b", "x"), ("c", "x")])) == {"few_rows", "constant_target"}


def test_repeated_rows_name_the_later_ones(store: ArtifactStore) -> None:
    rows = clean()
    rows[7] = rows[39] = rows[3]
    assert find(store, train=rows)["duplicate_rows"]["rows"] == [8, 40]


def test_an_identifier_hides_no_repeated_row(store: ArtifactStore) -> None:
    rows = [(str(index), text, label) for index, (text, label) in enumerate([*clean(), clean()[3]])]
    found = find(store, columns=("id", "text", "label"), train=rows)
    assert found["duplicate_rows"]["rows"] == [41]


def test_one_prompt_with_two_classes_warns(store: ArtifactStore) -> None:
    rows = [*clean(), ("text 3", "a")]
    found = find(store, train=rows)["same_prompt_other_target"]
    assert (found["severity"], found["rows"]) == ("warns", [4, 41])


def test_one_prompt_with_two_texts_is_only_noted(store: ArtifactStore) -> None:
    rows = [(f"text {index // 2}", f"answer {index}") for index in range(20)]
    assert find(store, train=rows)["same_prompt_other_target"]["severity"] == "notes"


def test_characters_that_came_to_harm_are_told_apart(store: ArtifactStore) -> None:
    rows = clean()
    rows[1] = ("a\x07b", "a")
    rows[2] = ("caf\ufffd", "a")
    rows[3] = ("a\tb\nc", "a")
    rows[4] = ("the cafÃ© â€“ it\x92s open", "a")
    rows[5] = ("family 👩‍👩‍👧, \u202eright to left, العربية, naïve — “quoted”", "b")
    found = find(store, train=rows)
    assert {code: one["rows"] for code, one in found.items()} == {
        "control_characters": [2],
        "lost_characters": [3],
        "mojibake": [5],
    }
    assert list(found["control_characters"]["cases"][0]["cells"]) == ["text"]


def test_a_case_shows_the_place_of_the_fault(store: ArtifactStore) -> None:
    rows = [*clean(), ("x" * 5000 + "\x07" + "y" * 5000, "a")]
    (case,) = find(store, train=rows)["control_characters"]["cases"]
    assert "\x07" in case["cells"]["text"]
    assert len(case["cells"]["text"]) < 200


def test_space_around_answers_is_noted(store: ArtifactStore) -> None:
    rows = [(f"text {index}", f"a longer answer {index}") for index in range(20)]
    rows[2] = ("text 2", " padded ")
    assert find(store, train=rows)["padded_target"]["rows"] == [3]


def test_empty_prompts_are_told(store: ArtifactStore) -> None:
    assert find(store, train=[*clean(), (" ", "a")])["empty_prompt"]["rows"] == [41]


def test_rows_of_validation_that_are_trained_on_are_told(store: ArtifactStore) -> None:
    found = find(store, train=clean(), validation=[("new", "a"), ("text 3", "b")])
    assert found["seen_in_training validation"]["rows"] == [2]
    assert "in the validation file" in found["seen_in_training validation"]["message"]
    assert [each["kind"] for each in found["seen_in_training validation"]["repairs"]] == [
        "drop_seen_in_training",
        "resplit",
    ]


def test_spellings_of_one_class_are_told(store: ArtifactStore) -> None:
    rows = [*clean(), ("new", "A"), ("newer", " b"), ("newest", "a ")]
    found = find(store, train=rows)["similar_labels"]
    assert found["rows"] == [41, 42, 43]
    assert "“A” and “a”" in found["message"]


def test_a_held_out_file_with_its_own_spellings_is_told(store: ArtifactStore) -> None:
    found = find(store, train=clean(), validation=[("new", "A"), ("newer", "b")])
    assert found["similar_labels validation"]["rows"] == [1]


def test_texts_are_no_classes(store: ArtifactStore) -> None:
    rows = [(f"text {index}", f"Answer {index}" if index % 2 else f"answer {index - 1}") for index in range(30)]
    assert find(store, train=rows) == {}


def test_rare_and_dominating_classes_are_told(store: ArtifactStore) -> None:
    rows = [(f"text {index}", "ham") for index in range(90)] + [(f"win {index}", "spam") for index in range(4)]
    found = find(store, train=rows)
    assert "96% of the rows have the answer “ham”" in found["dominating_class"]["message"]
    assert "“spam” (4)" in found["rare_classes"]["message"]
    assert found["rare_classes"]["rows"] == [91, 92, 93, 94]


def test_constant_columns_are_noted_with_what_they_hold(store: ArtifactStore) -> None:
    rows = [("", "v1", text, label) for text, label in clean()]
    columns = ("note", "version", "text", "label")
    found = find(store, columns=columns, prompt=("version", "text"), train=rows)["constant_columns"]
    assert "“note” (empty), “version” (“v1”)" in found["message"]
    assert [(each["kind"], each["columns"]) for each in found["repairs"]] == [
        ("drop_columns", ["note"]),
        ("leave_out_of_prompt", ["version"]),
    ]


@pytest.mark.parametrize("told", [{"a": "0", "b": "1"}, {"a": "a", "b": "b"}])
def test_a_column_of_the_prompt_that_gives_the_answer_away_is_told(store: ArtifactStore, told: dict[str, str]) -> None:
    rows = [(text, told[label], label) for text, label in clean()]
    found = find(store, columns=("text", "code", "label"), prompt=("text", "code"), train=rows)
    assert found["telling_columns"]["severity"] == "warns"
    assert found["telling_columns"]["repairs"][0]["columns"] == ["code"]


def test_an_answer_within_the_text_is_told(store: ArtifactStore) -> None:
    rows = [(f"{text}. Mood: {label * 3}", label * 3) for text, label in clean()]
    assert find(store, train=rows)["answer_in_text"]["severity"] == "warns"
    rows = [(f"Read: the long answer {index}.", f"the long answer {index}") for index in range(30)]
    assert find(store, train=rows)["answer_in_text"]["severity"] == "notes"


def test_words_that_stand_in_any_text_are_no_answer_within_it(store: ArtifactStore) -> None:
    rows = [(f"a text with a b and more {index}", label) for index, (_, label) in enumerate(clean())]
    assert find(store, train=rows) == {}


def test_conversations_are_looked_at_by_their_turns(store: ArtifactStore) -> None:
    def chat(asked: str, answered: str) -> tuple[str]:
        return (f'[{{"role": "user", "content": "{asked}"}}, {{"role": "assistant", "content": "{answered}"}}]',)

    rows = [chat(f"Question {index}", f"Answer {index}") for index in range(12)]
    rows += [rows[2], ("",)]
    found = find(store, columns=("messages",), prompt=("messages",), train=rows)
    assert {code: one["rows"] for code, one in found.items()} == {"duplicate_rows": [13], "empty_target": [14]}


def test_a_look_at_the_first_rows_ends_there(store: ArtifactStore) -> None:
    order = order_of(store, train=[*clean(3000), ("late", "")])
    assert examine(order)["findings"] != []
    assert look_at(order.paths, order.view, order.mapping, max_rows=1000)["findings"] == []


def test_the_report_counts_parts_lengths_and_classes(store: ArtifactStore) -> None:
    report = examine(order_of(store, train=[*clean(), ("x" * 400, " ")]))["report"]
    assert report["counts"] == {"train": 36, "validation": 4, "test": 0}
    assert report["classes"] == [["a", 20], ["b", 20]]
    assert report["lengths"]["prompt"]["longest"] == 400
    assert sum(report["lengths"]["prompt"]["rows"]) == 41


def chat(*turns: tuple[str, str]) -> tuple[str]:
    return (json.dumps([{"role": role, "content": content} for role, content in turns]),)


CHAT = {"columns": ("messages",), "prompt": ("messages",)}


def test_a_conversation_without_an_answer_is_one_finding(store: ArtifactStore) -> None:
    rows = [chat(("user", f"q{n}"), ("assistant", f"a{n}")) for n in range(12)] + [("",)]
    found = find(store, train=rows, **CHAT)
    assert list(found) == ["empty_target"]
    assert "1 row in which the assistant answers nothing will be left out." in found["empty_target"]["message"]


def test_conversations_without_any_answer_block_with_what_is_needed(store: ArtifactStore) -> None:
    found = find(store, train=[("",)] * 12, **CHAT)
    assert "The assistant answers in 0 conversations of 12" in found["no_usable_rows"]["message"]


def test_conversations_that_differ_only_in_who_speaks_when_are_no_copies(store: ArtifactStore) -> None:
    one = chat(("user", "a"), ("assistant", "b"), ("user", "c"))
    other = chat(("user", "a"), ("user", "c"), ("assistant", "b"))
    rows = [chat(("user", f"q{n}"), ("assistant", f"a{n}")) for n in range(12)]
    assert "duplicate_rows" not in find(store, train=[*rows, one, other], **CHAT)
    assert find(store, train=[*rows, one, one], **CHAT)["duplicate_rows"]["rows"] == [14]
