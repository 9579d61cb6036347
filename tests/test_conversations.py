"""Rows that are conversations: what is learnt from them, and how they are asked and shown."""

import json

import pytest

from tests.tiny import tiny_tokenizer
from worker.engine.chat_template import ChatTemplateError
from worker.engine.conversations import (
    ConversationError,
    exchanges,
    prompt_messages,
    prompt_turns,
    read_turns,
    split_last_answer,
    transcript,
    write_turns,
)
from worker.engine.rendering import Rendering
from worker.engine.tokens import choose_rendering_kind, encode_prompt, render_row
from worker.engine.training_rows import encode_row

SYSTEM = {"role": "system", "content": "Be brief."}
ASK, ANSWER = {"role": "user", "content": "Soup?"}, {"role": "assistant", "content": "Yes."}
MORE, LAST = {"role": "user", "content": "Hot?"}, {"role": "assistant", "content": "Very."}
TURNS = [SYSTEM, ASK, ANSWER, MORE, LAST]
ROW = {"messages": write_turns(TURNS), "id": "7"}
TALK = Rendering(kind="conversation", template="{messages}", target="messages", instruction="Answer.")


def test_every_answer_of_a_conversation_is_learnt_with_the_turns_before_it() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    pairs = encode_row(tokenizer, TALK, ROW)
    assert [tokenizer.decode(example.target_ids) for _, example in pairs] == ["Yes.<|im_end|>", "Very.<|im_end|>"]
    expected = tokenizer.apply_chat_template(TURNS[:4], add_generation_prompt=True, return_dict=False)
    assert list(pairs[1][1].prompt_ids) == expected


def test_each_answer_comes_with_the_row_that_asks_for_it_alone() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    for row, example in encode_row(tokenizer, TALK, ROW):
        prompt, answer = render_row(TALK, row)
        assert tuple(encode_prompt(tokenizer, TALK, prompt)) == example.prompt_ids
        assert tokenizer.decode(example.target_ids) == f"{answer}<|im_end|>"
        assert row["id"] == "7"


def test_an_ordinary_row_gives_itself() -> None:
    rendering = Rendering(kind="plain", template="{text}", target="label")
    ((row, example),) = encode_row(tiny_tokenizer(), rendering, {"text": "a", "label": "x"})
    assert row == {"text": "a", "label": "x"}
    assert example.target_ids


def test_a_conversation_on_a_base_without_a_template_is_refused_with_the_remedy() -> None:
    with pytest.raises(ChatTemplateError, match=r"conversations, and this base model has no chat template.*chat model"):
        choose_rendering_kind(tiny_tokenizer(), "conversation")
    assert choose_rendering_kind(tiny_tokenizer(chat=True), "conversation") == "conversation"


def test_a_prompt_may_hold_turns_or_be_one_message() -> None:
    prompt, answer = split_last_answer(ROW["messages"])
    assert (prompt_turns(prompt), answer) == (TURNS[:4], "Very.")
    assert prompt_turns("Soup?") == [ASK]
    for text in ("[1, 2]", "[not json", '[{"role": "user"}]', "[]"):
        assert prompt_turns(text) == [{"role": "user", "content": text}]


def test_examples_stand_behind_the_system_message() -> None:
    shot = (write_turns([SYSTEM, MORE]), "Very.")
    asked = prompt_messages(write_turns([SYSTEM, ASK]), [shot], may_hold_turns=True)
    assert asked == [SYSTEM, MORE, LAST, ASK]
    assert prompt_messages("[]", [("Hot?", "Very.")], may_hold_turns=False)[-1] == {"role": "user", "content": "[]"}


def test_the_instruction_joins_the_system_message() -> None:
    tokenizer = tiny_tokenizer(chat=True)
    ids = encode_prompt(tokenizer, TALK, write_turns([SYSTEM, ASK]), context="instruction")
    assert "system\nAnswer.\n\nBe brief.<|im_end|>" in tokenizer.decode(ids)


def test_a_transcript_says_who_speaks() -> None:
    assert transcript(write_turns([SYSTEM, ASK])) == "System: Be brief.\n\nUser: Soup?"
    assert transcript(write_turns([ASK])) == transcript("Soup?") == "Soup?"


def test_a_first_turn_of_the_assistant_answers_nothing() -> None:
    assert [json.loads(text) for text in exchanges(write_turns([LAST, ASK, ANSWER]))] == [[LAST, ASK, ANSWER]]


@pytest.mark.parametrize("text", ["", "hello", '{"role": "user"}', '[{"role": "user", "content": 1}]'])
def test_a_cell_without_turns_is_refused(text: str) -> None:
    with pytest.raises(ConversationError, match="expected a list of messages"):
        read_turns(text)


def test_a_conversation_without_an_answer_is_refused() -> None:
    with pytest.raises(ConversationError, match="no answer of the assistant"):
        split_last_answer(write_turns([SYSTEM, ASK]))
