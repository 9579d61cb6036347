"""Datasets of the Hugging Face Hub: the right files at a commit, within the caps, or a sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from app.context import AppContext
from app.services.reading import add_hub_dataset
from storage.artifacts import ArtifactStore
from storage.bases.hub import HubUnreachableError
from storage.database import Database
from storage.errors import InvalidInputError, NotFoundError, StudioError, TooLargeError
from storage.hub_datasets.look_up import look_up_dataset
from storage.settings import Settings
from tests.hub_server import COMMIT, HubServer
from tests.studio import free_port
from tests.test_parse import parquet_bytes

HUB_ID = "someone/reviews"


def part(start: int, count: int) -> bytes:
    rows = [{"text": f"row {number}", "label": f"class {number % 2}"} for number in range(start, start + count)]
    return parquet_bytes(pa.Table.from_pylist(rows))


FILES = {
    "README.md": b"about",
    "data/train-00000-of-00002.parquet": part(0, 30),
    "data/train-00001-of-00002.parquet": part(30, 10),
    "data/test-00000-of-00001.parquet": part(40, 5),
}


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with HubServer(HUB_ID, dict(FILES)) as server:
        yield server


def uploads(context: AppContext) -> list[Path]:
    return list((context.settings.home / "uploads").iterdir())


def test_a_dataset_is_fetched_at_its_commit_and_its_shards_are_joined(context: AppContext, server: HubServer) -> None:
    heard: list[tuple[int, int]] = []
    found = add_hub_dataset(
        context, HUB_ID, endpoint=server.url, on_progress=lambda now, total: heard.append((now, total))
    )
    assert (found["name"], found["columns"], found["num_rows"]) == (HUB_ID, ["text", "label"], 45)
    assert (found["num_train"] + found["num_validation"], found["num_test"]) == (40, 5)
    assert found["detected"]["hub"] == {"hub_id": HUB_ID, "revision": COMMIT, "subset": ""}
    assert found["mapping"]["target"] == "label"
    total = sum(len(data) for name, data in FILES.items() if name.endswith(".parquet"))
    assert all(each == total for _, each in heard)
    assert not any("README" in request for request in server.requests)
    assert uploads(context) == []


def test_the_parquet_copy_of_the_hub_stands_in(context: AppContext, server: HubServer) -> None:
    server.files = {"data.csv": b"text,label\na,x\n"}
    server.converted = {"default/train/0000.parquet": part(0, 12), "default/validation/0000.parquet": part(12, 3)}
    found = add_hub_dataset(context, HUB_ID, endpoint=server.url)
    assert (found["num_train"], found["num_validation"]) == (12, 3)


def test_one_of_several_subsets_is_asked_for(server: HubServer) -> None:
    server.files = {"de/train-0.parquet": part(0, 5), "fr/train-0.parquet": part(5, 5)}
    with pytest.raises(InvalidInputError, match=r"has 2 subsets: de, fr\. Choose one"):
        look_up_dataset(HUB_ID, subset=None, max_bytes=10**9, endpoint=server.url)
    found = look_up_dataset(HUB_ID, subset="fr", max_bytes=10**9, endpoint=server.url)
    assert [file.name for file in found.files] == ["fr/train-0.parquet"]
    with pytest.raises(InvalidInputError, match="no subset “it”; it has de, fr"):
        look_up_dataset(HUB_ID, subset="it", max_bytes=10**9, endpoint=server.url)


@pytest.mark.parametrize(
    ("files", "kind", "sentence"),
    [
        ({"data.csv": b"x"}, InvalidInputError, "has no Parquet files"),
        ({"data/test-0.parquet": b"x"}, InvalidInputError, "no part for training"),
        ({"train.parquet": b"x" * 2000}, TooLargeError, "of Parquet; expected at most"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_fetched(
    server: HubServer, files: dict[str, bytes], kind: type[StudioError], sentence: str
) -> None:
    server.files = files
    with pytest.raises(kind, match=sentence):
        look_up_dataset(HUB_ID, subset=None, max_bytes=1000, endpoint=server.url)


def test_a_dataset_that_is_not_there_is_told_from_a_hub_that_is_not(
    context: AppContext, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="has no dataset someone/else"):
        add_hub_dataset(context, "someone/else", endpoint=server.url)
    with pytest.raises(HubUnreachableError, match=r"cannot be reached.*upload the table as a file"):
        add_hub_dataset(context, HUB_ID, endpoint=f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubUnreachableError, match=r"HF_HUB_OFFLINE is set\. Unset it, or upload the table as a file"):
        add_hub_dataset(context, HUB_ID, endpoint=server.url)
    assert uploads(context) == []


def test_a_damaged_file_leaves_nothing(context: AppContext, server: HubServer) -> None:
    server.damaged = {"data/test-00000-of-00001.parquet"}
    with pytest.raises(StudioError, match="came damaged"):
        add_hub_dataset(context, HUB_ID, endpoint=server.url)
    assert uploads(context) == []
    assert not list(context.store.hashes())


@pytest.mark.parametrize("hub_id", ["https://huggingface.co/datasets/a/b", "../x", "a/b@main", ""])
def test_an_id_is_checked_before_anything_is_asked(context: AppContext, hub_id: Any) -> None:
    with pytest.raises(InvalidInputError):
        add_hub_dataset(context, hub_id)
