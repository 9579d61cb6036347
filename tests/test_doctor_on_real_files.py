"""The doctor on files as people publish them: what is wrong with them is found, mended, and nothing else touched."""

from pathlib import Path
from typing import Any

import pytest

from app.context import AppContext
from app.services import datasets
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.settings import Settings


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


@pytest.fixture
def data_folder(shared_folder: Path) -> Path:
    return shared_folder / "data"


def upload(context: AppContext, *paths: Path) -> dict[str, Any]:
    return datasets.upload(context, [(path.name, path) for path in paths], None)


def counts(dataset: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(one["code"], one.get("part", "")): one["count"] for one in dataset["findings"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("banking77_crlf.csv", {}),
        ("snips.parquet", {"duplicate_rows": 3}),
        ("rt_polarity.xlsx", {"mojibake": 21}),
        ("sms_no_header.tsv", {"mojibake": 35, "duplicate_rows": 403, "dominating_class": 4827}),
        ("cabinet_bom_crlf.csv", {"dominating_class": 307, "constant_columns": 2}),
        ("onestop_cp1252.csv", {"empty_prompt": 1}),
        ("chat_messages_parts.jsonl", {"duplicate_rows": 1, "same_prompt_other_target": 2}),
    ],
)
def test_dirty_file_shows_what_is_wrong_with_it(
    context: AppContext, data_folder: Path, name: str, expected: dict[str, int]
) -> None:
    dataset = upload(context, data_folder / "dirty" / name)
    assert counts(dataset) == {(code, "train"): count for code, count in expected.items()}
    assert not dataset["blocked"]


def test_safe_repairs_leave_nothing_that_is_safe_to_repair(context: AppContext, data_folder: Path) -> None:
    before = upload(context, data_folder / "dirty" / "sms_no_header.tsv")
    after = datasets.change(context, before["id"], {"repairs": "safe"})
    assert set(counts(after)) == {("dominating_class", "train")}
    # Two messages are only alike once their characters are restored.
    assert before["num_rows"] - after["num_rows"] == 404


def test_rows_of_the_other_files_leave_the_training_file(context: AppContext, data_folder: Path) -> None:
    parts = [data_folder / "tasks" / "restaurant8k" / f"{part}.jsonl" for part in ("train", "validation", "test")]
    before = upload(context, *parts)
    assert counts(before)[("seen_in_training", "validation")] == 22
    after = datasets.change(context, before["id"], {"repairs": ["drop_seen_in_training"]})
    assert not {code for code, _ in counts(after)} & {"seen_in_training"}
    assert (after["num_validation"], after["num_test"]) == (before["num_validation"], before["num_test"])
