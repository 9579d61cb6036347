"""OpenAI's own client against the running role: what works, and how refusals reach it."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import httpx
import openai
import pytest
import torch

from tests.running_role import ABSENT, CHAT, CHAT_PREFIX, PLAIN, PREFIX, SOFT_PROMPT, STRANGER, Role, running_role
from tests.tiny import tiny_model, tiny_tokenizer
from worker.inference.limits import Limits

PROMPT = "The waiter brought a bowl of"
GREEDY = {"temperature": 0, "max_tokens": 12}
MAX_OPEN = Limits().max_open
MESSAGES = [{"role": "user", "content": "Soup?"}]


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with running_role(tmp_path_factory.mktemp("openai") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def client(role: Role) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False) as http_client:
        yield openai.OpenAI(
            base_url=f"{role.url}/v1", api_key=role.secret, max_retries=0, timeout=60, http_client=http_client
        )


def untouched_text(num_new: int) -> str:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(PROMPT, return_tensors="pt")
    made = tiny_model("llama").generate(
        **ids, max_new_tokens=num_new, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    return tokenizer.decode(made[0, ids.input_ids.shape[1] :]).rstrip("\ufffd")


def test_models_are_the_bases_here_and_the_prefixes_on_them(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert names == {PLAIN, CHAT, PREFIX, SOFT_PROMPT, CHAT_PREFIX, STRANGER}
    assert client.models.retrieve(CHAT).id == CHAT
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.models.retrieve(ABSENT)


def test_completion_of_a_base_is_what_transformers_generates(client: openai.OpenAI) -> None:
    made = client.completions.create(model=PLAIN, prompt=PROMPT, **GREEDY)
    assert made.choices[0].text == untouched_text(12)
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.completion_tokens == 12
    assert made.usage.prompt_tokens == len(tiny_tokenizer()(PROMPT).input_ids)


def test_prefixes_of_both_methods_answer_each_in_its_way(client: openai.OpenAI) -> None:
    texts = {
        name: client.completions.create(model=name, prompt=PROMPT, **GREEDY).choices[0].text
        for name in (PLAIN, PREFIX, SOFT_PROMPT)
    }
    assert len(set(texts.values())) == 3


def test_streamed_completion_adds_up_to_the_whole_one(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=PREFIX, prompt=PROMPT, **GREEDY)
    chunks = list(
        client.completions.create(
            model=PREFIX, prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage


def test_seed_repeats_a_sampled_completion(client: openai.OpenAI) -> None:
    def sampled(seed: int) -> str:
        made = client.completions.create(model=PLAIN, prompt=PROMPT, temperature=1.5, seed=seed, max_tokens=20)
        return made.choices[0].text

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


def test_stop_text_ends_a_completion(client: openai.OpenAI) -> None:
    free = untouched_text(12)
    stop = free[5:7]
    made = client.completions.create(model=PLAIN, prompt=PROMPT, stop=stop, **GREEDY)
    assert made.choices[0].text == free[: free.index(stop)]
    assert made.choices[0].finish_reason == "stop"


def test_max_tokens_is_capped_to_what_the_context_holds(client: openai.OpenAI) -> None:
    made = client.completions.create(model=PLAIN, prompt=PROMPT, temperature=0, max_tokens=100_000)
    assert made.usage is not None
    assert made.usage.total_tokens == 256


@pytest.mark.parametrize("name", [CHAT, CHAT_PREFIX])
def test_chat_goes_through_the_template(client: openai.OpenAI, name: str) -> None:
    made = client.chat.completions.create(model=name, messages=MESSAGES, **GREEDY)  # type: ignore[arg-type]
    tokenizer = tiny_tokenizer(chat=True)
    expected = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    assert made.usage is not None
    assert made.usage.prompt_tokens == len(expected)
    streamed = client.chat.completions.create(model=name, messages=MESSAGES, stream=True, **GREEDY)  # type: ignore[arg-type]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == made.choices[0].message.content


def test_text_parts_and_developer_messages_are_taken(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Sou"}, {"type": "text", "text": "p?"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    made = client.chat.completions.create(model=CHAT, messages=messages, **GREEDY)  # type: ignore[arg-type]
    same = [{"role": "system", "content": "Be kind."}, *MESSAGES]
    expected = client.chat.completions.create(model=CHAT, messages=same, **GREEDY)  # type: ignore[arg-type]
    assert made.choices[0].message.content == expected.choices[0].message.content


def test_chat_on_a_base_without_a_template_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(model=PREFIX, messages=MESSAGES)  # type: ignore[arg-type]


def test_unknown_and_absent_models_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'nobody'") as refusal:
        client.completions.create(model="nobody", prompt="a")
    assert refusal.value.code == "model_not_found"
    with pytest.raises(openai.ConflictError, match="not on this machine"):
        client.completions.create(model=ABSENT, prompt="a")


def test_prefix_of_other_weights_is_refused_naming_both(client: openai.OpenAI) -> None:
    with pytest.raises(openai.ConflictError, match=r"fingerprint 0000000000000000, and 'tiny' has [0-9a-f]{16}"):
        client.completions.create(model=STRANGER, prompt="a")


def test_prompt_over_the_context_is_refused_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"prompt has 300 tokens.*prefix 6: 307 together.*holds 256"):
        client.completions.create(model=PREFIX, prompt="😀" * 75, stream=True)


def test_list_of_prompts_is_answered_in_order_as_each_alone(client: openai.OpenAI) -> None:
    prompts = ["Is", PROMPT]
    made = client.completions.create(model=PREFIX, prompt=prompts, **GREEDY)
    alone = [client.completions.create(model=PREFIX, prompt=prompt, **GREEDY) for prompt in prompts]
    assert [choice.index for choice in made.choices] == [0, 1]
    assert [choice.text for choice in made.choices] == [one.choices[0].text for one in alone]
    assert made.usage is not None
    assert made.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone if one.usage)
    assert made.usage.completion_tokens == 24
    assert client.completions.create(model=PLAIN, prompt=[PROMPT], **GREEDY).choices[0].text == untouched_text(12)


def test_prompts_that_are_no_texts_or_too_many_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Token ids are not taken"):
        client.completions.create(model=PLAIN, prompt=[1, 2, 3])
    with pytest.raises(openai.BadRequestError, match="17 prompts times 2 answers; expected 1 to 32"):
        client.completions.create(model=PLAIN, prompt=["a"] * 17, n=2)
    with pytest.raises(openai.BadRequestError, match="0 prompts"):
        client.completions.create(model=PLAIN, prompt=[])


def test_several_answers_to_one_prompt_are_drawn_apart_and_again_alike(client: openai.OpenAI) -> None:
    def drawn() -> list[str]:
        made = client.completions.create(model=PLAIN, prompt=PROMPT, n=3, seed=5, temperature=1.5, max_tokens=12)
        return [choice.text for choice in made.choices]

    assert len(set(drawn())) == 3
    assert drawn() == drawn()
    messages = [{"role": "user", "content": "Soup?"}]
    chat = client.chat.completions.create(model=CHAT, messages=messages, n=2, temperature=0, max_tokens=5)  # type: ignore[arg-type]
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert chat.choices[0].message == chat.choices[1].message
    streamed = client.completions.create(model=PLAIN, prompt=["Is", PROMPT], n=2, stream=True, **GREEDY)
    texts = ["", "", "", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == texts[1] != texts[2] == texts[3] == untouched_text(12)


def test_log_probabilities_of_a_completion_are_those_of_the_model(client: openai.OpenAI) -> None:
    made = client.completions.create(model=PLAIN, prompt=PROMPT, logprobs=3, **GREEDY)
    told = made.choices[0].logprobs
    assert told is not None
    tokenizer = tiny_tokenizer()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = tiny_model("llama")(ids).logits[0, -1].log_softmax(-1)
    best = expected.topk(3)
    assert told.token_logprobs[0] == pytest.approx(float(best.values[0]), abs=1e-4)
    assert list(told.top_logprobs[0].values()) == pytest.approx(best.values.tolist(), abs=1e-4)
    assert list(told.top_logprobs[0]) == [tokenizer.decode([token_id]) for token_id in best.indices]
    assert len(told.tokens) == len(told.text_offset) == 12
    assert told.text_offset[:2] == [0, len(told.tokens[0])]
    sampled = client.completions.create(
        model=PLAIN, prompt=PROMPT, logprobs=0, temperature=2.0, seed=1, max_tokens=5
    ).choices[0]
    assert sampled.logprobs is not None
    assert [len(top) for top in sampled.logprobs.top_logprobs] == [1] * 5


def test_streamed_log_probabilities_add_up_to_the_whole_ones(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=PLAIN, prompt=PROMPT, logprobs=2, **GREEDY).choices[0].logprobs
    chunks = list(client.completions.create(model=PLAIN, prompt=PROMPT, logprobs=2, stream=True, **GREEDY))
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert whole is not None
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [each for part in parts for each in getattr(part, name)] == getattr(whole, name)


def test_log_probabilities_of_a_chat_come_token_by_token(client: openai.OpenAI) -> None:
    asked = {"model": CHAT, "messages": MESSAGES, "logprobs": True, "top_logprobs": 2, **GREEDY}
    made = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    content = made.choices[0].logprobs.content
    assert "".join(token.token for token in content).rstrip("\ufffd") == made.choices[0].message.content
    for token in content:
        assert [token.top_logprobs[0].token, token.top_logprobs[0].logprob] == [token.token, token.logprob]
        assert len(token.top_logprobs) == 2
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = client.chat.completions.create(stream=True, **asked)  # type: ignore[call-overload]
    streamed = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert streamed == content
    plain = client.chat.completions.create(**{**asked, "logprobs": False, "top_logprobs": None})  # type: ignore[call-overload]
    assert plain.choices[0].logprobs is None


def test_end_token_has_no_log_probability_as_it_is_not_shown(client: openai.OpenAI) -> None:
    made = client.completions.create(
        model=PLAIN, prompt=PROMPT, logprobs=0, temperature=2.0, seed=0, n=32, max_tokens=60
    )
    ended = [choice for choice in made.choices if choice.finish_reason == "stop"]
    assert ended, "no draw ended by itself"
    assert made.usage is not None
    num_shown = sum(len(choice.logprobs.tokens) for choice in made.choices if choice.logprobs)
    assert made.usage.completion_tokens == num_shown + len(ended)


def test_strength_of_a_prefix_goes_along_as_a_further_field(client: openai.OpenAI) -> None:
    def text(**more: float) -> str:
        made = client.completions.create(model=PREFIX, prompt=PROMPT, extra_body=more, **GREEDY)
        return made.choices[0].text

    assert text(strength=100) == text()
    with pytest.raises(openai.BadRequestError, match="strength is 101; expected a number from 0 to 100"):
        text(strength=101)


def test_empty_prompt_is_answered(client: openai.OpenAI) -> None:
    assert client.completions.create(model=PLAIN, prompt="", **GREEDY).usage.prompt_tokens == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("n", 33, "n is 33; expected a whole number from 1 to 32"),
        ("best_of", 2, "best_of is 2, which this server does not offer"),
        ("echo", True, "echo is true, which this server does not offer. Leave echo out"),
        ("suffix", " end", 'suffix is " end", which this server does not offer'),
        ("logprobs", 6, "logprobs is 6; expected a whole number from 0 to 5"),
        ("stream_options", {"include_usage": True}, "only together with stream true"),
        ("logit_bias", {"1": 5}, "logit_bias is"),
        ("temperature", -1, "temperature is -1; expected a number from 0 to 2"),
        ("temperature", 1e300, "temperature is 1e"),
        ("top_p", 1.5, "top_p is 1.5; expected a number from 0 to 1"),
        ("max_tokens", 0, "max_tokens is 0; expected a whole number from 1"),
        ("max_tokens", 10**40, "max_tokens is a very large number"),
        ("max_tokens", 2.5, r"max_tokens is 2\.5; expected a whole number"),
        ("seed", -1, "seed is -1"),
        ("stop", ["a"] * 5, "stop is .*list of up to 4"),
        ("stop", [5], "stop is 5; expected a text"),
    ],
)
def test_settings_out_of_range_are_refused(client: openai.OpenAI, name: str, value: object, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence) as refusal:
        client.completions.create(**{"model": PLAIN, "prompt": "a", name: value})  # type: ignore[call-overload]
    assert refusal.value.param == name


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("top_logprobs", 5, "top_logprobs is 5 without logprobs"),
        ("top_logprobs", 21, "top_logprobs is 21; expected a whole number from 0 to 20"),
        ("logprobs", 5, "logprobs is 5; expected true or false"),
        ("tools", [{"type": "function"}], "tools is .* which this server does not offer"),
        ("response_format", {"type": "json_object"}, "response_format is"),
        ("max_completion_tokens", 0, "max_completion_tokens is 0; expected a whole number from 1"),
    ],
)
def test_chat_settings_out_of_range_are_refused(client: openai.OpenAI, name: str, value: object, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence) as refusal:
        client.chat.completions.create(**{"model": CHAT, "messages": MESSAGES, name: value})  # type: ignore[call-overload]
    assert refusal.value.param == name


def test_answer_of_a_chat_is_as_long_as_either_name_of_the_limit_says(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        made = client.chat.completions.create(model=CHAT, messages=MESSAGES, temperature=0, **{name: 3})  # type: ignore[call-overload]
        assert made.usage.completion_tokens == 3
        assert made.choices[0].finish_reason == "length"


def test_many_clients_at_once_each_get_what_they_would_get_alone(role: Role, client: openai.OpenAI) -> None:
    words = ("soup", "bread", "river", "window", "table", "film", "price", "reset")
    asked = [
        {"model": model, "prompt": f"The secret of {word} is", "temperature": 1.2, "top_p": 0.9, "seed": place}
        for place, word in enumerate(words)
        for model in (PLAIN, PREFIX, SOFT_PROMPT)
    ]
    alone = [client.completions.create(**body, max_tokens=10).choices[0].text for body in asked]  # type: ignore[call-overload]

    def streamed(place: int) -> str:
        headers = {"X-Prefix-Studio-Client": f"client {place}"}
        chunks = client.completions.create(**asked[place], max_tokens=10, stream=True, extra_headers=headers)  # type: ignore[call-overload]
        return "".join(chunk.choices[0].text for chunk in chunks)

    with ThreadPoolExecutor(len(asked)) as clients:
        assert list(clients.map(streamed, range(len(asked)))) == alone


def test_client_who_leaves_in_the_middle_of_a_stream_frees_its_row(role: Role, client: openai.OpenAI) -> None:
    def answer_s() -> float:
        began = time.perf_counter()
        client.completions.create(model=PLAIN, prompt="Is", temperature=0, max_tokens=20)
        return time.perf_counter() - began

    idle_s = min(answer_s() for _ in range(3))
    for _ in range(6):
        with client.completions.create(
            model=PLAIN, prompt=["Is"] * 8, temperature=0, max_tokens=240, stream=True
        ) as chunks:
            next(iter(chunks))
    # 48 rows that went on would take many times as long as one.
    assert min(answer_s() for _ in range(3)) < 3 * idle_s + 0.2


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ('"temperature": NaN', "temperature is nan; expected a number from 0 to 2"),
        ('"top_p": Infinity', "top_p is inf; expected a number from 0 to 1"),
        ('"strength": NaN', "strength is nan; expected a number from 0 to 100"),
        ('"max_tokens": -Infinity', "max_tokens is -inf; expected a whole number"),
        ('"seed": 1e999', "seed is inf; expected a whole number"),
    ],
)
def test_numbers_that_are_none_are_refused(role: Role, path: str, field: str, sentence: str) -> None:
    asked = '"prompt": "a"' if path == "completions" else '"messages": [{"role": "user", "content": "a"}]'
    with role.client() as http_client:
        answer = http_client.post(f"/v1/{path}", content=f'{{"model": "{CHAT}", {asked}, {field}}}')
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == field.split('"')[1]


def test_client_over_the_limit_is_told_to_come_later_and_the_others_go_on(role: Role) -> None:
    async def ask(http_client: httpx.AsyncClient, number: int, stack: AsyncExitStack) -> httpx.Response:
        body = {"model": PLAIN, "prompt": "Is", "max_tokens": 250, "temperature": 0, "stream": True}
        headers = {"X-Prefix-Studio-Client": f"client {number}"}
        opened = http_client.stream("POST", "/v1/completions", json=body, headers=headers)
        return await stack.enter_async_context(opened)

    async def crowd() -> None:
        secret = {"X-Prefix-Studio-Secret": role.secret}
        async with (
            httpx.AsyncClient(base_url=role.url, headers=secret, timeout=60, trust_env=False) as http_client,
            AsyncExitStack() as stack,
        ):
            answers = await asyncio.gather(*(ask(http_client, number, stack) for number in range(MAX_OPEN)))
            excess = await ask(http_client, MAX_OPEN, stack)
            assert [answer.status_code for answer in answers] == [200] * MAX_OPEN
            assert excess.status_code == 503
            assert int(excess.headers["retry-after"]) > 0
            error = json.loads(await excess.aread())["error"]
            assert error["type"] == "server_error"
            assert "as many as it takes at once. Try again" in error["message"]
            assert all([await anext(answer.aiter_lines()) for answer in answers])

    asyncio.run(crowd())
    with role.client() as http_client:
        body = {"model": PLAIN, "prompt": "Is", "max_tokens": 1}
        assert http_client.post("/v1/completions", json=body).status_code == 200
