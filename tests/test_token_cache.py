"""Token ids that are kept by content: read back as they were, and never for other rows, words or code."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from storage.cache import trim_cache
from tests.tiny import tiny_base_folder
from worker.engine.base import LoadedBase, load_base
from worker.engine.example import Example
from worker.engine.rendering import Rendering
from worker.training import token_cache
from worker.training.token_cache import content_key, examples_of

ROWS = [{"question": f"What is {number}?", "answer": str(number)} for number in range(6)]
EXAMPLES = [Example((1, 2, number), (number,) * (number + 1)) for number in range(6)]
RENDERING = Rendering(kind="plain", template="{question}", target="answer")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("base")), device="cpu")


@pytest.fixture(autouse=True)
def _every_table_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "MIN_ROWS", 2)


class Encoder:
    """Counts how often rows are encoded."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Iterator[Example]:
        self.calls += 1
        yield from EXAMPLES


def read(
    folder: Path | None, base: LoadedBase, encoder: Encoder, rows: Sequence[dict[str, str]] = ROWS
) -> list[Example]:
    return examples_of(folder, base, RENDERING, rows, encoder)


def test_rows_are_encoded_once(tmp_path: Path, base: LoadedBase) -> None:
    encoder = Encoder()
    assert read(tmp_path, base, encoder) == EXAMPLES
    assert read(tmp_path, base, encoder) == EXAMPLES
    assert encoder.calls == 1


def test_other_rows_are_encoded_anew(tmp_path: Path, base: LoadedBase) -> None:
    encoder = Encoder()
    read(tmp_path, base, encoder)
    read(tmp_path, base, encoder, [*ROWS[:-1], {"question": "What is 5?", "answer": "five"}])
    assert encoder.calls == 2


def test_another_rendering_tokenizer_or_code_is_other_content(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {content_key(base, RENDERING, ROWS), content_key(base, replace(RENDERING, template="Q: {question}"), ROWS)}
    monkeypatch.setattr(base.tokenizer, "chat_template", "{{ messages }}")
    keys.add(content_key(base, RENDERING, ROWS))
    monkeypatch.setattr(token_cache, "ENCODERS", (token_cache,))
    keys.add(content_key(base, RENDERING, ROWS))
    assert len(keys) == 4


def test_few_rows_and_no_folder_keep_nothing(tmp_path: Path, base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(None, base, Encoder()) == EXAMPLES
    monkeypatch.setattr(token_cache, "MIN_ROWS", 100)
    assert read(tmp_path, base, Encoder()) == EXAMPLES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"no archive", None], ids=["empty", "other bytes", "cut off"])
def test_a_damaged_file_is_written_anew(tmp_path: Path, base: LoadedBase, damage: bytes | None) -> None:
    encoder = Encoder()
    read(tmp_path, base, encoder)
    (path,) = tmp_path.glob("*.arrow")
    path.write_bytes(path.read_bytes()[:200] if damage is None else damage)
    assert read(tmp_path, base, encoder) == EXAMPLES
    assert read(tmp_path, base, encoder) == EXAMPLES
    assert encoder.calls == 2


def test_a_full_disk_does_not_end_a_training(tmp_path: Path, base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, examples: Sequence[Example]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache, "_write", refuse)
    assert read(tmp_path, base, Encoder()) == EXAMPLES


def test_only_the_latest_files_stay(tmp_path: Path, base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "trim_cache", partial(trim_cache, max_files=2))
    for count in (3, 4, 5):
        read(tmp_path, base, Encoder(), ROWS[:count])
    assert len(list(tmp_path.iterdir())) == 2
