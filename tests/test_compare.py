"""Side by side: one prompt, several models, one batch."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.running_role import (
    CHAT,
    CHAT_PREFIX,
    PLAIN,
    PREFIX,
    RENDERING,
    ROWS,
    SOFT_PROMPT,
    Role,
    running_role,
    server_events,
)
from tests.tiny import tiny_tokenizer
from worker.engine.rendering import Rendering
from worker.engine.tokens import draw_few_shot, encode_prompt

PROMPT = "The waiter brought a bowl of"
QUESTION = {"question": "What is soup?"}


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with running_role(tmp_path_factory.mktemp("compare") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(role: Role) -> Iterator[httpx.Client]:
    with role.client() as opened:
        yield opened


def compare(client: httpx.Client, **body: Any) -> Any:
    answer = client.post("/v1/compare", json={"max_tokens": 12, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def compare_stream(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/compare", json={"max_tokens": 12, "stream": True, **body}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(server_events(answer.iter_lines()))


def refusal(client: httpx.Client, **body: Any) -> tuple[int, str]:
    answer = client.post("/v1/compare", json=body)
    return answer.status_code, answer.json()["error"]["message"]


def test_columns_are_what_each_model_answers_alone(client: httpx.Client) -> None:
    models = [PLAIN, PREFIX, SOFT_PROMPT]
    together = compare(client, prompt=PROMPT, models=models)
    assert [column["model"] for column in together] == models
    for column in together:
        body = {"model": column["model"], "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
        assert column["text"] == client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        assert column["finish_reason"] == "length"
        assert column["tokens"] == 12


def test_stream_tells_prompt_proof_and_end_of_every_column(client: httpx.Client) -> None:
    events = compare_stream(client, prompt=PROMPT, models=[PLAIN, PREFIX])
    head, proofs = events[0], [event["proof"] for event in events if "proof" in event]
    assert head["prompt"] == PROMPT
    assert [column["prefix_tokens"] for column in head["columns"]] == [0, 6]
    assert {column["prompt_tokens"] for column in head["columns"]} == {len(tiny_tokenizer()(PROMPT).input_ids)}
    assert len(proofs) == 1
    ends = [event for event in events if event.get("done")]
    assert {event["column"] for event in ends} == {0, 1}
    assert all(event["tokens_per_second"] > 0 for event in ends)
    whole = compare(client, prompt=PROMPT, models=[PLAIN, PREFIX])
    for index in (0, 1):
        pieces = [event["text"] for event in events if event.get("column") == index and "text" in event]
        assert "".join(pieces) == whole[index]["text"]


def test_proof_says_that_the_base_is_untouched_and_the_prefix_is_not(client: httpx.Client) -> None:
    events = compare_stream(client, prompt=PROMPT, models=[PREFIX, PLAIN])
    proof = next(event["proof"] for event in events if "proof" in event)
    assert proof["base_verified"] is True
    assert proof["max_difference"] <= 1e-4
    assert proof["prefix_kl"] > 0.01


def test_comparison_without_the_base_has_no_proof(client: httpx.Client) -> None:
    assert not any("proof" in event for event in compare_stream(client, prompt=PROMPT, models=[PREFIX, SOFT_PROMPT]))


def test_fields_are_rendered_alike_for_every_column(client: httpx.Client) -> None:
    events = compare_stream(client, fields=QUESTION, models=[PLAIN, PREFIX])
    assert {column["prompt"] for column in events[0]["columns"]} == {"Question: What is soup?\nAnswer:"}


def test_contexts_stand_in_front_of_the_prompt(client: httpx.Client) -> None:
    models = [{"model": PLAIN, "context": "instruction"}, {"model": PLAIN, "context": "few-shot"}, PREFIX]
    prompts = [column["prompt"] for column in compare_stream(client, fields=QUESTION, models=models)[0]["columns"]]
    assert prompts[0] == "Answer in one word.\n\nQuestion: What is soup?\nAnswer:"
    assert prompts[1].count("Question:") == 5
    assert prompts[2] == "Question: What is soup?\nAnswer:"


def test_examples_are_drawn_from_the_training_part_only(client: httpx.Client) -> None:
    models = [{"model": PLAIN, "context": "few-shot"}, PREFIX]
    prompt = compare_stream(client, fields=QUESTION, models=models)[0]["columns"][0]["prompt"]
    tokenizer, rendering = tiny_tokenizer(), Rendering.from_dict(RENDERING)
    shown = [row for row in ROWS if f"Question: {row['question']}\n" in prompt]
    assert len(shown) == 4
    # The drawn rows depend on the split, which test_rows holds; given the rows, the order is that of the contract.
    shots = sorted(draw_few_shot(rendering, shown), key=lambda shot: prompt.index(shot[0]))
    expected = encode_prompt(
        tokenizer, rendering, "Question: What is soup?\nAnswer:", context="few-shot", few_shot=shots
    )
    assert prompt == tokenizer.decode(expected)


def test_rendering_that_is_sent_replaces_that_of_the_prefix(client: httpx.Client) -> None:
    rendering = {"template": "{question}\n", "instruction": "Be brief."}
    models = [{"model": PLAIN, "context": "instruction"}, PREFIX]
    columns = compare_stream(client, fields=QUESTION, models=models, rendering=rendering)[0]["columns"]
    assert [column["prompt"] for column in columns] == ["Be brief.\n\nWhat is soup?\n", "What is soup?\n"]


def test_chat_base_renders_fields_and_messages_through_its_template(client: httpx.Client) -> None:
    fields = compare_stream(client, fields=QUESTION, models=[CHAT, CHAT_PREFIX])[0]["columns"]
    turn = "<|im_start|>user\nQuestion: What is soup?\nAnswer:<|im_end|>\n<|im_start|>assistant\n"
    assert [column["prompt"] for column in fields] == [turn, turn]
    models = [{"model": CHAT, "context": "instruction"}, {"model": CHAT, "context": "few-shot"}, CHAT_PREFIX]
    messages = [{"role": "user", "content": "Soup?"}]
    asked = compare_stream(client, messages=messages, models=models)[0]["columns"]
    assert asked[0]["prompt"].startswith("<|im_start|>system\nAnswer in one word.<|im_end|>\n")
    assert asked[1]["prompt"].count("<|im_start|>user") == 5
    assert asked[2]["prompt"] == "<|im_start|>user\nSoup?<|im_end|>\n<|im_start|>assistant\n"


def test_columns_with_conversations_of_their_own_are_asked_these(client: httpx.Client) -> None:
    hello, soup = ({"role": "user", "content": text} for text in ("Hello", "What is soup?"))
    turns = {CHAT: [hello], CHAT_PREFIX: [hello, {"role": "assistant", "content": "Yes."}, soup]}
    together = compare(client, models=[{"model": name, "messages": told} for name, told in turns.items()])
    for column, (name, told) in zip(together, turns.items(), strict=True):
        assert column["text"] == compare(client, messages=told, models=[name])[0]["text"]
    mixed = [{"model": CHAT, "messages": [hello]}, CHAT_PREFIX]
    assert refusal(client, models=mixed, prompt="x")[1].startswith("Some columns have messages of their own")


def test_same_seed_gives_the_same_answers(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "models": [PLAIN, PREFIX, PLAIN], "temperature": 1.3, "top_p": 0.95, "seed": 4}
    first = [column["text"] for column in compare(client, **body)]
    assert first == [column["text"] for column in compare(client, **body)]
    assert first[0] == first[2]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": "a", "models": [PLAIN, CHAT]}, "different bases, 'tiny' and 'org/tiny-chat'"),
        ({"prompt": "a", "models": []}, "list of 1 to 6"),
        ({"prompt": "a", "models": [PLAIN] * 7}, "list of 1 to 6"),
        ({"prompt": "a", "models": [{"model": PLAIN, "context": "magic"}]}, "none, instruction, few-shot"),
        ({"prompt": "a", "models": [5]}, "models is 5; expected a text"),
        ({"models": [PLAIN]}, "nothing to ask"),
        ({"prompt": "a", "fields": {}, "models": [PLAIN]}, "prompt and fields; expected one of"),
        ({"fields": QUESTION, "models": [PLAIN]}, "fields need a template"),
        ({"fields": {"query": "x"}, "models": [PREFIX]}, "{question}, but the row has no such column"),
        ({"fields": {"question": 5}, "models": [PREFIX]}, "fields.question is 5; expected a text"),
        ({"prompt": "a", "models": [{"model": PLAIN, "context": "instruction"}]}, "needs a rendering"),
        ({"prompt": "a", "models": [{"model": PLAIN, "context": "few-shot"}]}, "examples from the rows of a prefix"),
        ({"messages": [{"role": "user", "content": "a"}], "models": [PREFIX]}, "no chat template"),
        ({"messages": [{"role": "tool", "content": "a"}], "models": [CHAT]}, "messages[0] is"),
        ({"fields": {"q": "x"}, "models": [PLAIN], "rendering": {"kind": "latin"}}, "auto, plain, chat"),
        (
            {"fields": {"q": "x"}, "models": [PLAIN], "rendering": {"kind": "chat", "template": "{q}"}},
            "no chat template",
        ),
        ({"prompt": "a" * 200_001, "models": [PLAIN]}, "200,001 characters; expected at most 200,000"),
        ({"fields": {"q": "x" * 60_000}, "models": [PLAIN], "rendering": {"template": "{q}" * 4}}, "about 240,012"),
        ({"prompt": "a", "models": [PLAIN], "stream": "yes"}, 'stream is "yes"; expected true or false'),
    ],
)
def test_request_that_cannot_be_answered_is_refused_in_a_sentence(
    client: httpx.Client, body: dict[str, Any], sentence: str
) -> None:
    status, message = refusal(client, **body)
    assert status == 400
    assert sentence in message


@pytest.mark.parametrize("body", [b'{"temperature": NaN', b"[]", b"[" * 100_000, b"\xff", b""])
def test_body_that_is_no_object_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/compare", content=body)
    assert answer.status_code == 400
    assert "body of the request" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("number", "shown"), [("NaN", "nan"), ("Infinity", "inf"), ("-1e999", "-inf")])
def test_number_that_is_none_is_refused(client: httpx.Client, number: str, shown: str) -> None:
    body = f'{{"prompt": "a", "models": ["{PLAIN}"], "temperature": {number}}}'
    answer = client.post("/v1/compare", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f"temperature is {shown}; expected a number from 0 to 2."


def test_half_a_character_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/compare", content=f'{{"prompt": "a\\ud800b", "models": ["{PLAIN}"]}}')
    assert answer.status_code == 400
    assert "U+D800" in answer.json()["error"]["message"]


def test_body_over_the_cap_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/compare", content=b" " * 4_000_001)
    assert answer.status_code == 413


def test_caller_who_leaves_ends_the_generation(client: httpx.Client) -> None:
    body = {"prompt": "Is", "models": [PLAIN] * 6, "max_tokens": 250, "stream": True}
    began = time.perf_counter()
    compare_stream(client, **{**body, "max_tokens": 250})
    full_s = time.perf_counter() - began
    with client.stream("POST", "/v1/compare", json=body) as answer:
        next(server_events(answer.iter_lines()))
    began = time.perf_counter()
    compare(client, prompt="Is", models=[PLAIN], max_tokens=1)
    assert time.perf_counter() - began < full_s / 2


def test_explanation_follows_the_end_of_every_column_with_a_prefix(client: httpx.Client) -> None:
    models = [PLAIN, PREFIX, {"model": SOFT_PROMPT, "context": "instruction"}]
    events = compare_stream(client, prompt=PROMPT, models=models, explain=True)
    explained = {event["column"]: event["explained"] for event in events if "explained" in event}
    assert set(explained) == {1, 2}
    assert any("proof" in event for event in events)
    for index, told in explained.items():
        places = [place for place, event in enumerate(events) if event.get("column") == index]
        assert events[places[-1]].keys() == {"column", "explained"}
        text = "".join(event["text"] for event in events if event.get("column") == index and "text" in event)
        assert "".join(token["text"] for token in told["tokens"]) == text
        divergences = [token["kl"] for token in told["tokens"]]
        assert told["mean_kl"] == pytest.approx(sum(divergences) / len(divergences), abs=1e-4)
        assert told["mean_kl"] > 0.01
        # Greedy answers take the likeliest token, so it heads the list of the prefixed side.
        assert all(token["top"][0][1] == token["logprob"] for token in told["tokens"])


def test_whole_comparison_carries_its_explanations_where_asked(client: httpx.Client) -> None:
    base, prefixed = compare(client, prompt=PROMPT, models=[PLAIN, PREFIX], explain=True)
    assert "explained" not in base
    assert "".join(token["text"] for token in prefixed["explained"]["tokens"]) == prefixed["text"]
    assert "explained" not in compare(client, prompt=PROMPT, models=[PREFIX])[0]


def test_explanation_agrees_with_the_log_probabilities_of_the_answer(client: httpx.Client) -> None:
    told = compare(client, prompt=PROMPT, models=[PREFIX], explain=True)[0]["explained"]["tokens"]
    body = {"model": PREFIX, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "logprobs": 0}
    alone = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert [token["logprob"] for token in told] == pytest.approx(alone, abs=1e-3)
    body = {**body, "model": PLAIN}
    base = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert told[0]["base_logprob"] != pytest.approx(base[0], abs=1e-3), "the base would have said something else"


def test_columns_say_their_strength_and_their_time_to_the_first_token(client: httpx.Client) -> None:
    models = [PLAIN, {"model": PREFIX, "strength": 40}, {"model": PREFIX, "strength": 100}]
    events = compare_stream(client, prompt=PROMPT, models=models)
    assert [column["strength"] for column in events[0]["columns"]] == [100, 40, 100]
    ends = [event for event in events if event.get("done")]
    assert all(0 < event["first_token_s"] < 60 and event["tokens"] == 12 for event in ends)
    assert "prompt_ids" not in events[0]["columns"][0]


@pytest.mark.parametrize("strength", [-1, 101, "half", True])
def test_strength_out_of_range_is_refused(client: httpx.Client, strength: object) -> None:
    status, message = refusal(client, prompt="a", models=[{"model": PREFIX, "strength": strength}])
    assert status == 400
    assert "expected a number from 0 to 100" in message
