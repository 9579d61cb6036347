"""Rows are counted in the tokens of the base they would be trained on; those over its context are told by number."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.services import lengths
from storage.artifacts import ArtifactStore
from storage.errors import InvalidInputError
from tests.tables import order_of
from tests.tiny import CONTEXT_LENGTH, tiny_base_folder, tiny_tokenizer
from worker import row_lengths
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_example

RENDERING = {"kind": "auto", "template": "Say: {text}", "target": "label"}
ROWS = [
    *((f"message {index}", "ab"[index % 2]) for index in range(30)),
    ("the river " * 200, "a"),
    ("x", "soup " * 300),
]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    tiny_base_folder(folder)
    return folder


def request(store: ArtifactStore, base_folder: Path, rows: list[tuple[str, ...]], **changes: Any) -> dict[str, Any]:
    paths = order_of(store, train=rows).paths
    return {
        "tokenizer": str(base_folder),
        "paths": {part: str(path) for part, path in paths.items()},
        "rendering": RENDERING,
        "has_encoder": False,
        "room": CONTEXT_LENGTH // 2,
        **changes,
    }


def measured(told: dict[str, Any], base_folder: Path) -> dict[str, Any]:
    return {**told, "base_model": "tiny", "base_config": json.loads((base_folder / "config.json").read_text())}


def test_long_rows_are_counted_as_a_training_would(store: ArtifactStore, base_folder: Path) -> None:
    told = row_lengths.measure(request(store, base_folder, ROWS))
    rendering = Rendering("plain", "Say: {text}", "label")
    examples = [
        encode_example(tiny_tokenizer(), rendering, dict(zip(("text", "label"), row, strict=True))) for row in ROWS[30:]
    ]
    expected = [
        [31 + index, len(example.prompt_ids), len(example.target_ids)] for index, example in enumerate(examples)
    ]
    assert told["long"] == {"train": expected}
    assert told["is_whole"]
    assert told["sampled"] == told["num_rows"] == 32
    assert told["total"]["longest"] == max(prompt + target for _, prompt, target in expected)


def test_rows_over_the_context_are_told_with_how_much(store: ArtifactStore, base_folder: Path) -> None:
    told = measured(row_lengths.measure(request(store, base_folder, ROWS)), base_folder)
    (found,) = lengths.too_long(told, 20)
    _, prompt, target = told["long"]["train"][1]
    most = max(sum(each[1:]) for each in told["long"]["train"]) + 20 - CONTEXT_LENGTH
    assert (found["count"], found["rows"]) == (2, [31, 32])
    assert f"longer than the {CONTEXT_LENGTH - 20} tokens" in found["message"]
    assert f"by up to {most:,}" in found["message"]
    assert found["repairs"][0]["rows"] == {"train": [31, 32]}
    assert found["cases"][1]["cells"] == {"too long by": f"{prompt + target + 20 - CONTEXT_LENGTH:,} tokens"}


def test_a_longer_prefix_leaves_less_room(store: ArtifactStore, base_folder: Path) -> None:
    rows = [("soup", "a"), ("the window by the table " * 32, "b")]
    told = measured(row_lengths.measure(request(store, base_folder, rows)), base_folder)
    ((_, prompt, target),) = told["long"]["train"]
    room = CONTEXT_LENGTH - prompt - target
    assert 0 < room < CONTEXT_LENGTH // 2
    assert lengths.too_long(told, room) == []
    assert lengths.too_long(told, room + 1)[0]["rows"] == [2]


def test_rows_without_an_answer_are_not_counted(store: ArtifactStore, base_folder: Path) -> None:
    told = row_lengths.measure(request(store, base_folder, [*ROWS, ("the river " * 100, " ")]))
    assert [row[0] for row in told["long"]["train"]] == [31, 32]


def test_conversations_are_counted_by_their_longest_turn(
    store: ArtifactStore, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "chat"
    tiny_base_folder(folder, chat=True)
    turns = [{"role": role, "content": "soup " * 60} for role in ("user", "assistant", "user", "assistant")]
    rows = [(json.dumps(turns[:2]),), (json.dumps(turns),)]
    order = order_of(store, columns=("messages",), prompt=("messages",), train=rows)
    asked = request(store, folder, [("a", "b")])
    asked["paths"] = {"train": str(order.paths["train"])}
    asked["rendering"] = {"kind": "conversation", "template": "{messages}", "target": "messages"}
    told = row_lengths.measure(asked)
    counted = {row[0]: row[1:] for row in told["long"]["train"]}
    assert counted[2][0] > counted[1][0]


def test_a_large_table_is_sampled_and_its_long_rows_are_still_found(
    store: ArtifactStore, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_lengths, "MAX_SAMPLED", 5)
    told = row_lengths.measure(request(store, base_folder, ROWS))
    assert told["sampled"] <= 6
    assert [row[0] for row in told["long"]["train"]] == [31, 32]
    monkeypatch.setattr(row_lengths, "BUDGET_S", -1.0)
    assert not row_lengths.measure(request(store, base_folder, ROWS))["is_whole"]


def test_counting_runs_in_a_process_of_its_own(store: ArtifactStore, base_folder: Path, tmp_path: Path) -> None:
    asked = request(store, base_folder, ROWS)
    assert lengths.run_child(asked, tmp_path) == row_lengths.measure(asked)
    broken = {**asked, "rendering": {**RENDERING, "kind": "chat"}}
    with pytest.raises(InvalidInputError, match="has no chat template"):
        lengths.run_child(broken, tmp_path)
