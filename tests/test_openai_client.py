"""OpenAI's own client against the running role: what works, and how refusals reach it."""

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.running_role import ABSENT, CHAT, CHAT_PREFIX, PLAIN, PREFIX, SOFT_PROMPT, STRANGER, Role, running_role
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = "The waiter brought a bowl of"
GREEDY = {"temperature": 0, "max_tokens": 12}
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


def test_prompts_that_are_no_single_text_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="list of 2; expected one text"):
        client.completions.create(model=PLAIN, prompt=["a", "b"])
    assert client.completions.create(model=PLAIN, prompt=[PROMPT], **GREEDY).choices[0].text == untouched_text(12)


def test_empty_prompt_is_answered(client: openai.OpenAI) -> None:
    assert client.completions.create(model=PLAIN, prompt="", **GREEDY).usage.prompt_tokens == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("n", 2, "n is 2, which this server does not offer"),
        ("echo", True, "echo is true"),
        ("logprobs", 5, "logprobs is 5"),
        ("logit_bias", {"1": 5}, "logit_bias is"),
        ("temperature", -1, "temperature is -1; expected a number from 0 to 2"),
        ("temperature", 1e300, "temperature is 1e"),
        ("top_p", 1.5, "top_p is 1.5; expected a number from 0 to 1"),
        ("max_tokens", 0, "max_tokens is 0; expected a whole number from 1"),
        ("max_tokens", 10**40, "max_tokens is a very large number"),
        ("max_tokens", 2.5, r"max_tokens is 2\.5; expected a whole number"),
        ("seed", -1, "seed is -1"),
        ("stop", ["a"] * 17, "stop is"),
        ("stop", [5], "stop is 5; expected a text"),
    ],
)
def test_settings_out_of_range_are_refused(client: openai.OpenAI, name: str, value: object, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError, match=sentence) as refusal:
        client.completions.create(**{"model": PLAIN, "prompt": "a", name: value})  # type: ignore[call-overload]
    assert refusal.value.param == name
