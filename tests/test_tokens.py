"""What the golden examples cannot hold: refusals, limits, and agreement with transformers' own calls."""

import threading

import pytest

from tests.test_golden import golden_tokenizer
from tests.tiny import tiny_tokenizer
from worker.engine import chat_template
from worker.engine.chat_template import ChatTemplateError, chat_format, conversation_ids, with_instruction
from worker.engine.errors import ContextOverflowError, EngineError, InvalidRecipeError
from worker.engine.rendering import InvalidTemplateError, Rendering
from worker.engine.tokens import (
    check_context,
    choose_rendering_kind,
    draw_few_shot,
    encode_example,
    encode_prompt,
    initialisation_ids,
    raw_prompt_ids,
)
from worker.engine.training_rows import encode_conversation

PLAIN = Rendering(kind="plain", template="{question}", target="answer", instruction="Answer.")
CHAT = Rendering(kind="chat", template="{question}", target="answer", instruction="Answer.")
ROW = {"question": "Soup?", "answer": "Bread."}
USER = {"role": "user", "content": "Soup?"}


def test_rendering_kind_follows_the_tokenizer_unless_told() -> None:
    assert choose_rendering_kind(tiny_tokenizer()) == "plain"
    assert choose_rendering_kind(tiny_tokenizer(chat=True)) == "chat"
    assert choose_rendering_kind(tiny_tokenizer(chat=True), "plain") == "plain"
    with pytest.raises(ChatTemplateError, match="no chat template"):
        choose_rendering_kind(tiny_tokenizer(), "chat")


@pytest.mark.parametrize("name", ["chat", "chat_without_system"])
def test_conversation_has_the_ids_of_apply_chat_template(name: str) -> None:
    tokenizer = golden_tokenizer(name)
    expected = tokenizer.apply_chat_template([USER], add_generation_prompt=True)["input_ids"]
    assert conversation_ids(tokenizer, [USER]) == expected
    assert encode_prompt(tokenizer, CHAT, "Soup?") == expected


@pytest.mark.parametrize(("name", "end"), [("chat", "<|im_end|>"), ("chat_without_system", "<end_turn>")])
def test_answer_ends_with_the_end_of_the_turn(name: str, end: str) -> None:
    tokenizer = golden_tokenizer(name)
    assert encode_example(tokenizer, CHAT, ROW).target_ids[-1] == tokenizer.convert_tokens_to_ids(end)


def test_turn_without_a_control_token_ends_with_the_end_token() -> None:
    tokenizer = golden_tokenizer("chat")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    assert chat_format(tokenizer).turn_end_id == tokenizer.eos_token_id


def test_replaced_template_is_looked_at_again() -> None:
    tokenizer = golden_tokenizer("chat")
    assert chat_format(tokenizer).takes_system
    tokenizer.chat_template = golden_tokenizer("chat_without_system").chat_template
    assert not chat_format(tokenizer).takes_system


def test_template_that_drops_the_system_message_gets_the_instruction_in_the_user_message() -> None:
    tokenizer = golden_tokenizer("chat")
    tokenizer.chat_template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
    assert with_instruction(tokenizer, [USER], "Answer.") == [{"role": "user", "content": "Answer.\n\nSoup?"}]


def test_instruction_joins_the_system_message_that_is_there() -> None:
    messages = [{"role": "system", "content": "Be kind."}, USER]
    expected = [{"role": "system", "content": "Answer.\n\nBe kind."}, USER]
    assert with_instruction(golden_tokenizer("chat"), messages, "Answer.") == expected


def test_conversation_gives_an_example_for_every_turn_of_the_assistant() -> None:
    tokenizer = golden_tokenizer("chat")
    messages = [USER, {"role": "assistant", "content": "Yes."}, USER, {"role": "assistant", "content": "No."}]
    examples = encode_conversation(tokenizer, messages)
    assert [tokenizer.decode(example.target_ids) for example in examples] == ["Yes.<|im_end|>", "No.<|im_end|>"]
    assert "Yes.<|im_end|>" in tokenizer.decode(examples[1].prompt_ids)


def test_prompt_of_raw_text_is_what_the_tokenizer_makes_of_it() -> None:
    tokenizer = golden_tokenizer("start")
    assert raw_prompt_ids(tokenizer, "Soup? ") == tokenizer("Soup? ").input_ids


def test_empty_prompt_without_any_special_token_is_refused() -> None:
    tokenizer = golden_tokenizer("no_end")
    tokenizer.bos_token = None
    with pytest.raises(EngineError, match=r"empty.*no start token"):
        raw_prompt_ids(tokenizer, "")


def test_row_without_the_answer_column_is_refused() -> None:
    with pytest.raises(InvalidTemplateError, match=r"{answer}.*no such column"):
        encode_example(golden_tokenizer("start"), PLAIN, {"question": "Soup?"})


def test_few_shot_examples_are_fixed_by_their_seed() -> None:
    rows = [{"question": str(number), "answer": "yes"} for number in range(50)]
    first = draw_few_shot(PLAIN, rows)
    assert first == draw_few_shot(PLAIN, rows)
    assert len(first) == 4
    other = Rendering(kind="plain", template="{question}", target="answer", few_shot_seed=1)
    assert draw_few_shot(other, rows) != first
    assert len(draw_few_shot(PLAIN, rows[:2])) == 2


def test_prefix_cannot_start_from_nothing() -> None:
    bare = Rendering(kind="plain", template="{question}", target="answer")
    with pytest.raises(InvalidRecipeError, match="neither an instruction nor a row"):
        initialisation_ids(golden_tokenizer("start"), bare, [], 8)


def test_context_overflow_names_the_numbers() -> None:
    check_context(100, num_target_tokens=20, num_virtual_tokens=8, context_length=128)
    check_context(10**6, num_target_tokens=20, num_virtual_tokens=8, context_length=None)
    with pytest.raises(ContextOverflowError, match=r"101 tokens.* 20 .*8: 129 together.* 128"):
        check_context(101, num_target_tokens=20, num_virtual_tokens=8, context_length=128)


def test_base_without_a_template_refuses_messages() -> None:
    with pytest.raises(ChatTemplateError, match="no chat template"):
        conversation_ids(tiny_tokenizer(), [USER])


def test_template_that_refuses_messages_is_quoted() -> None:
    with pytest.raises(ChatTemplateError, match="only user and assistant speak here"):
        conversation_ids(golden_tokenizer("chat_without_system"), [{"role": "system", "content": "x"}])


def test_overlong_message_is_refused_before_the_template_runs() -> None:
    with pytest.raises(ChatTemplateError, match=r"300,000 characters.*200,000"):
        conversation_ids(golden_tokenizer("chat"), [{"role": "user", "content": "a" * 300_000}])


def test_template_that_swells_is_refused() -> None:
    tokenizer = golden_tokenizer("chat")
    tokenizer.chat_template = "{{ messages[0]['content'] * 2000000 }}"
    with pytest.raises(ChatTemplateError, match=r"made 10,000,000 characters"):
        conversation_ids(tokenizer, [USER])


def test_template_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "RENDER_TIMEOUT_S", 0.2)
    tokenizer = golden_tokenizer("chat")
    tokenizer.chat_template = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match=r"more than 0\.2 s"):
        conversation_ids(tokenizer, [USER])


def test_stopped_template_leaves_no_thread_running(monkeypatch: pytest.MonkeyPatch) -> None:
    test_template_that_does_not_end_is_stopped(monkeypatch)
    for thread in threading.enumerate():
        if thread.name == "chat-template":
            thread.join(timeout=5)
            assert not thread.is_alive()
