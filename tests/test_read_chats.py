"""Chat files of every kind become one column of messages; what is no conversation is refused with its row."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import InvalidInputError
from tests.reading import read, rows_of
from tests.test_parse import parquet_bytes

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "value": "i"}], "loss_weight": 0},
    {"role": "assistant", "content": [{"type": "text", "value": "hello"}]},
]


def lines(*records: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def messages_of(tmp_path: Path, name: str, data: bytes) -> list[list[dict[str, str]]]:
    return [json.loads(row["messages"]) if row["messages"] else [] for row in rows_of(tmp_path, name, data)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.jsonl", lines({"messages": TURNS})),
        ("t.jsonl", lines({"messages": PARTS})),
        ("t.jsonl", lines({"conversations": SHAREGPT})),
        ("t.json", json.dumps([{"conversation": SHAREGPT}]).encode()),
        ("t.jsonl", lines({"prompt": TURNS[:1], "completion": TURNS[1:]})),
        ("t.jsonl", lines({"messages": [{"role": "human", "content": "hi"}, {"role": "model", "content": "hello"}]})),
        ("t.parquet", parquet_bytes(pa.Table.from_pylist([{"messages": TURNS}]))),
        ("t.csv", b'id,messages\n1,"' + json.dumps(TURNS).replace('"', '""').encode() + b'"\n'),
    ],
)
def test_every_chat_format_gives_the_same_messages(tmp_path: Path, name: str, data: bytes) -> None:
    assert messages_of(tmp_path, name, data) == [TURNS]


def test_what_was_found_is_told(tmp_path: Path) -> None:
    result, _ = read(tmp_path, {"t.jsonl": lines({"conversations": SHAREGPT, "tools": "[]"})})
    detected = result["detected"]
    assert (detected["kind"], detected["chat_format"]) == ("conversation", "ShareGPT")
    assert result["columns"] == ["messages", "tools"]
    assert detected["notes"] == ["The model is shown the messages alone; tools is kept beside."]
    assert detected["description"] == "conversations as JSON Lines in UTF-8"


def test_a_system_column_opens_the_conversation(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    data = lines({"system": "Be kind.", "conversations": SHAREGPT}, {"system": "", "conversations": SHAREGPT})
    assert messages_of(tmp_path, "t.jsonl", data) == [[system, *TURNS], TURNS]


def test_calls_of_tools_are_kept_as_text(tmp_path: Path) -> None:
    call = [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": {"text": "rain"}},
        {"role": "assistant", "content": "It rains."},
    ]
    found = messages_of(tmp_path, "t.jsonl", lines({"messages": turns}))[0]
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool", "assistant"]
    assert json.loads(found[1]["content"]) == call
    sharegpt = [*SHAREGPT, {"from": "function_call", "value": "f()"}, {"from": "observation", "value": "1"}]
    found = messages_of(tmp_path, "t.jsonl", lines({"conversations": sharegpt}))[0]
    assert [turn["role"] for turn in found[2:]] == ["assistant", "tool"]


def test_a_conversation_without_an_answer_becomes_an_empty_cell(tmp_path: Path) -> None:
    rows = [{"messages": TURNS}, {"messages": TURNS[:1]}, {"messages": TURNS[1:]}, {"messages": []}, {"messages": None}]
    assert messages_of(tmp_path, "t.jsonl", lines(*rows)) == [TURNS, [], [], [], []]


@pytest.mark.parametrize(
    ("turn", "sentence"),
    [
        ({"role": "narrator", "content": "x"}, "Row 2 of t.jsonl has the role “narrator” in message 1"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "Row 2 .* type “image_url”"),
        ({"role": "user", "content": None}, "Row 2 of t.jsonl has no content in message 1"),
        ({"role": "user", "content": {"a": 1}}, "Row 2 of t.jsonl has a part without text in message 1"),
        ({"content": "x"}, "Row 2 of t.jsonl has a message 1 that is no object with role and content"),
        ("hi", "Row 2 of t.jsonl has a message 1 that is no object"),
    ],
)
def test_a_message_of_another_form_is_refused_with_its_row(tmp_path: Path, turn: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as caught:
        read(tmp_path, {"t.jsonl": lines({"messages": TURNS}, {"messages": [turn, TURNS[1]]})})
    assert caught.value.row == 2


def test_a_column_of_that_name_without_turns_is_an_ordinary_one(tmp_path: Path) -> None:
    data = lines({"messages": ["a", "b"], "label": "x"}, {"messages": [], "label": "y"})
    assert rows_of(tmp_path, "t.jsonl", data)[0] == {"messages": '["a", "b"]', "label": "x"}


def test_chats_may_come_in_parts(tmp_path: Path) -> None:
    files = {"train.jsonl": lines({"messages": TURNS}), "valid.jsonl": lines({"conversations": SHAREGPT})}
    result, parts = read(tmp_path, files)
    assert result["num_rows"] == {"train": 1, "validation": 1}
    assert parts["train"] == parts["validation"]


def test_a_list_of_one_object_in_every_row_is_read_as_that_object(tmp_path: Path) -> None:
    data = lines(
        {"task": "a", "instances": [{"input": "i", "output": "o"}]},
        {"task": "b", "instances": [{"input": "", "output": "p"}]},
    )
    assert rows_of(tmp_path, "t.jsonl", data) == [
        {"task": "a", "instances.input": "i", "instances.output": "o"},
        {"task": "b", "instances.input": "", "instances.output": "p"},
    ]
    longer = lines({"a": [{"b": "1"}], "c": "x"}, {"a": [{"b": "1"}, {"b": "2"}], "c": "y"})
    assert rows_of(tmp_path, "t.jsonl", longer)[0] == {"a": '[{"b": "1"}]', "c": "x"}
