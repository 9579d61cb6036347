"""The example data sets: made by their script, disjoint by construction, and fit for the service that takes them."""

import csv
import re
from itertools import pairwise
from pathlib import Path

import pytest

from app.examples import events, letters, make, support_phrases
from app.examples.catalog import EXAMPLES, Example
from storage.tables.parts import assign_parts
from worker.engine.rendering import check_template, render_prompt, template_columns

NAMES = sorted(make.NUM_ROWS)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def both_parts(name: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    example = next(each for each in EXAMPLES if each.key == name)
    return read(example.files[0]), read(example.files[1])


def masked(message: str) -> str:
    slots = "|".join([*support_phrases.ITEMS, *support_phrases.DAYS])
    return re.sub(rf"\b({slots})\b", "_", message)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", ["train", "validation"])
def test_files_are_what_the_script_writes(name: str, part: str) -> None:
    example = next(each for each in EXAMPLES if each.key == name)
    path = next(path for path in example.files if part in path.name)
    assert path.read_bytes() == make.as_csv(name, part).encode()


def test_script_writes_every_file_into_the_folder(tmp_path: Path) -> None:
    make.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for each in EXAMPLES for path in each.files}


@pytest.mark.parametrize("name", NAMES)
def test_tables_have_the_size_of_a_small_real_task_and_no_row_twice(name: str) -> None:
    train, validation = both_parts(name)
    assert 200 <= len(train) + len(validation) <= 600
    rows = [tuple(row.values()) for row in [*train, *validation]]
    assert len(set(rows)) == len(rows)
    assert all(cell.strip() for row in rows for cell in row)


def test_support_wordings_for_checking_occur_in_no_training_message() -> None:
    train, validation = both_parts("support")
    trained = [masked(row["message"]).lower() for row in train]
    for phrases in support_phrases.VALIDATION.values():
        for phrase in phrases:
            wording = masked(phrase.format(item="_", day="_")).lower().rstrip(".?")
            assert not any(wording in message for message in trained), phrase
    assert not {masked(row["message"]) for row in validation} & {masked(row["message"]) for row in train}
    for part, other in (("train", "validation"), ("validation", "train")):
        assert not set(filter(None, support_phrases.OPENINGS[part])) & set(support_phrases.OPENINGS[other])
        assert not set(filter(None, support_phrases.CLOSINGS[part])) & set(support_phrases.CLOSINGS[other])


def test_support_queues_come_equally_often() -> None:
    for rows in both_parts("support"):
        counts = {queue: sum(row["queue"] == queue for row in rows) for queue in support_phrases.TRAIN}
        assert set(counts.values()) == {len(rows) // 5}
    assert set(support_phrases.TRAIN) == set(support_phrases.VALIDATION)


def test_no_event_is_checked_at_a_place_where_it_was_trained() -> None:
    train, validation = both_parts("events")
    assert not {(row["event"], row["place"]) for row in train} & {(row["event"], row["place"]) for row in validation}
    for column in ("event", "place", "day", "time", "price"):
        assert {row[column] for row in validation} <= {row[column] for row in train}


def test_every_notice_names_every_value_of_its_row() -> None:
    for row in [row for part in both_parts("events") for row in part]:
        assert all(row[column] in row["notice"] for column in events.COLUMNS)


def test_no_action_is_checked_that_was_trained_but_all_its_words_were() -> None:
    train, validation = both_parts("letters")

    def action(row: dict[str, str]) -> str:
        times = "|".join(letters.TIMES)
        found = re.search(rf"could you please (.+) (?:{times})\?", row["letter"])
        assert found
        return found[1]

    trained, checked = {action(row) for row in train}, {action(row) for row in validation}
    assert not trained & checked
    assert {word for each in checked for word in each.split()} <= {word for each in trained for word in each.split()}


def test_every_letter_is_addressed_to_and_signed_by_the_people_of_its_note() -> None:
    for row in [row for part in both_parts("letters") for row in part]:
        to, _, sender = re.fullmatch(r"Dear (\w+),\n(.+)\nWith kind wishes, (\w+)", row["letter"]).groups()
        assert to != sender
        assert {to, sender} <= set(re.findall(r"\w+", row["note"]))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.key)
def test_mapping_fits_the_files(example: Example) -> None:
    assert assign_parts([path.name for path in example.files]) == {"train": 0, "validation": 1}
    rows = read(example.files[0])
    check_template(example.mapping["template"], rows[0])
    assert set(template_columns(example.mapping["template"])) | {example.mapping["target"]} == set(rows[0])
    assert example.mapping["target"] not in template_columns(example.mapping["template"])
    assert len({render_prompt(example.mapping["template"], row) for row in rows}) == len(rows)


def test_keys_and_titles_of_the_examples_are_unique() -> None:
    for names in ([each.key for each in EXAMPLES], [each.title for each in EXAMPLES]):
        assert all(first != second for first, second in pairwise(sorted(names)))
