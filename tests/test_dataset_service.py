"""Datasets through the services that the page and REST share."""

import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.context import AppContext
from app.main import create_app
from app.services import datasets
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.datasets import get_version
from storage.errors import InvalidInputError, NotFoundError
from storage.rows import load_parts
from storage.settings import Settings


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


def reviews(tmp_path: Path, num_rows: int = 40, name: str = "reviews.csv") -> list[tuple[str, Path]]:
    path = tmp_path / name
    lines = [f"text {index} {name},{'good' if index % 2 else 'bad'}" for index in range(num_rows)]
    path.write_text("\n".join(["text,label", *lines]))
    return [(name, path)]


def left_behind(context: AppContext) -> list[str]:
    uploads = context.settings.home / "uploads"
    return [path.name for path in uploads.iterdir()] + list(context.store.hashes())


def test_upload_reads_guesses_and_shows_samples(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    assert dataset["name"] == "reviews.csv"
    assert dataset["columns"] == ["text", "label"]
    assert (dataset["num_rows"], dataset["num_train"], dataset["num_validation"]) == (40, 36, 4)
    assert dataset["mapping"] == {
        "template": "{text}",
        "target": "label",
        "instruction": "Classify the text as one of: bad, good.",
        "validation_fraction": 0.1,
        "seed": 0,
        "rendering": "auto",
    }
    assert dataset["samples"][0] == {"prompt": "text 0 reviews.csv", "target": "bad", "row": 1}
    assert len(dataset["samples"]) == 3
    assert dataset["preview"][19] == {"text": "text 19 reviews.csv", "label": "good"}
    assert (dataset["findings"], dataset["blocked"]) == ([], False)
    assert dataset["detected"]["description"] == "CSV in UTF-8"


def test_describe_and_listing_tell_the_same_as_upload(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    assert datasets.describe(context, dataset["id"]) == dataset
    (listed,) = datasets.listing(context)
    assert listed == {name: dataset[name] for name in listed}
    assert "preview" not in listed


def test_given_fields_of_the_mapping_stand_and_the_others_are_guessed(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), {"template": "Review: {text}\nMood:"}, name="Moods")
    assert dataset["name"] == "Moods"
    assert dataset["mapping"]["target"] == "label"
    assert dataset["samples"][0]["prompt"] == "Review: text 0 reviews.csv\nMood:"


def test_own_parts_are_kept_apart(context: AppContext, tmp_path: Path) -> None:
    files = [*reviews(tmp_path, 5, "mood-test.csv"), *reviews(tmp_path, 20, "mood-train.csv")]
    files += reviews(tmp_path, 7, "mood-dev.csv")
    dataset = datasets.upload(context, files, None)
    assert dataset["name"] == "mood"
    assert [dataset[name] for name in ("num_train", "num_validation", "num_test")] == [20, 7, 5]


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"template": "{title}"}, r"names \{title\}, but the table has no such column; it has \{text\}, \{label\}"),
        ({"template": "Say it."}, "names no column"),
        ({"target": "mood"}, "to come from “mood”, but the table has no such column"),
        ({"prompt": "{text}"}, "no field “prompt”"),
        ({"rendering": "fancy"}, "expected one of auto, plain, chat"),
        ({"validation_fraction": 0.9}, "expected a number from 0 to 0.5"),
        ({"validation_fraction": float("nan")}, "expected a number"),
        ({"seed": True}, "expected a number"),
        ({"instruction": 7}, "expected text"),
        ({"instruction": "half \ud83d"}, "half of a character"),
    ],
)
def test_a_mapping_that_does_not_fit_leaves_nothing(
    context: AppContext, tmp_path: Path, mapping: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        datasets.upload(context, reviews(tmp_path), mapping)
    assert left_behind(context) == []
    assert datasets.listing(context) == []


def test_a_bad_file_leaves_nothing(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("text,label\na,x\nb,y,z\n")
    with pytest.raises(InvalidInputError, match="Row 2") as caught:
        datasets.upload(context, [("bad.csv", path)], None)
    assert caught.value.row == 2
    assert left_behind(context) == []


def test_change_makes_a_version_and_keeps_the_earlier_one(context: AppContext, tmp_path: Path) -> None:
    first = datasets.upload(context, reviews(tmp_path), None)
    second = datasets.change(context, first["id"], {"mapping": {"instruction": "Judge."}, "name": "Judged"})
    assert (second["version"], second["name"], second["mapping"]["instruction"]) == (2, "Judged", "Judge.")
    assert second["mapping"]["template"] == first["mapping"]["template"]
    with context.database.read() as session:
        assert get_version(session, first["version_id"]).mapping == first["mapping"]


def test_change_to_the_same_mapping_makes_no_version(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    assert datasets.change(context, dataset["id"], {"mapping": dataset["mapping"]})["version"] == 1


def test_change_counts_the_findings_anew(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label,other\n" + "".join(f"t {index},{'ab'[index % 2]},\n" for index in range(20)))
    dataset = datasets.upload(context, [("t.csv", path)], None)
    assert dataset["blocked"] is False
    changed = datasets.change(context, dataset["id"], {"mapping": {"target": "other"}})
    assert changed["blocked"] is True
    assert changed["findings"][0]["code"] == "no_usable_rows"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mapping": {"template": "{nope}"}}, "no such column"),
        ({"columns": []}, "no field “columns” to change"),
        ({"name": " "}, "name is empty"),
    ],
)
def test_a_change_that_cannot_be_is_refused(
    context: AppContext, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    with pytest.raises(InvalidInputError, match=sentence):
        datasets.change(context, dataset["id"], changes)
    assert datasets.describe(context, dataset["id"]) == dataset


def test_samples_are_rendered_and_nothing_is_stored(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    tried = datasets.render_samples(context, dataset["id"], {"template": "{{{label}}} {text}"})
    assert tried["samples"][1]["prompt"] == "{good} text 1 reviews.csv"
    assert tried["findings"][0]["code"] == "answer_in_prompt"
    assert tried["blocked"] is False
    assert datasets.describe(context, dataset["id"]) == dataset


@pytest.mark.parametrize("mapping", [{"template": "{nope}"}, {"template": "plain"}, {"target": "nope"}])
def test_samples_of_a_bad_mapping_block_without_raising(
    context: AppContext, tmp_path: Path, mapping: dict[str, str]
) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    tried = datasets.render_samples(context, dataset["id"], mapping)
    assert tried["blocked"] is True
    assert tried["findings"][0]["severity"] == "blocks"


def test_a_random_row_is_one_that_training_never_sees(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    with context.database.read() as session:
        parts = load_parts(context.store, get_version(session, dataset["version_id"]))
    drawn = [datasets.random_validation_row(context, dataset["version_id"], seed) for seed in range(12)]
    assert all(row["fields"] in parts.validation for row in drawn)
    assert len({row["row"] for row in drawn}) > 1
    assert drawn[0] == datasets.random_validation_row(context, dataset["version_id"], 0)
    assert drawn[0]["prompt"] == drawn[0]["fields"]["text"]


def test_a_dataset_without_validation_rows_has_no_random_one(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), {"validation_fraction": 0})
    with pytest.raises(NotFoundError, match="keeps no row for validation"):
        datasets.random_validation_row(context, dataset["version_id"], 0)


def test_remove_deletes_the_dataset(context: AppContext, tmp_path: Path) -> None:
    dataset = datasets.upload(context, reviews(tmp_path), None)
    datasets.remove(context, dataset["id"])
    with pytest.raises(NotFoundError, match="no dataset"):
        datasets.describe(context, dataset["id"])


def test_long_cells_are_cut_in_the_preview_only(context: AppContext, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("text,label\n" + f"{'x' * 5000},a\n" * 2)
    dataset = datasets.upload(context, [("long.csv", path)], None)
    assert len(dataset["preview"][0]["text"]) == 2002
    assert len(dataset["samples"][0]["prompt"]) == 5000


def test_what_a_killed_web_role_left_is_gone_once_the_next_one_answers(context: AppContext) -> None:
    sent, kept = (datasets.uploads_folder(context) / name for name in ("sent-young", "raw-young"))
    for folder in (sent, kept):
        folder.mkdir()
    with TestClient(create_app(context.settings, page=False), base_url="http://127.0.0.1") as client:
        assert client.get("/api/v1/datasets").status_code == 200
        assert (sent.exists(), kept.exists()) == (False, True)


def test_uploads_left_by_a_killed_process_are_swept(context: AppContext, tmp_path: Path) -> None:
    stale = datasets.uploads_folder(context) / "sent-old"
    stale.mkdir()
    os.utime(stale, (0, 0))
    datasets.upload(context, reviews(tmp_path), None)
    assert not stale.exists()


@pytest.mark.parametrize("names", ["{a},label", "te}xt,label"])
def test_a_column_with_braces_in_its_name_is_told_where_it_is_all_that_a_prompt_could_show(
    context: AppContext, tmp_path: Path, names: str
) -> None:
    rows = "".join(f"text number {number},{'ab'[number % 2]}\n" for number in range(12))
    path = tmp_path / "upload"
    path.write_text(f"{names}\n{rows}")
    found = datasets.upload(context, [("t.csv", path)], None)["findings"][0]
    assert (found["code"], found["severity"]) == ("invalid_template", "blocks")
    name = names.partition(",")[0]
    assert f"The column “{name}” cannot be inserted because of the braces in the name." in found["message"]
