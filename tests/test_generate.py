"""One batch of base and prefixes against each of them alone, against transformers and against PEFT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import PreTrainedModel

from tests.tiny import CONTEXT_LENGTH, FAMILIES, tiny_base_folder, tiny_model
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import ContextOverflowError
from worker.engine.generate import GenerationRow, TokenEvent, cap_new_tokens, end_ids, stream, untouched_logits

# PEFT still asks transformers by a name that goes away in its next major version.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NUM_NEW = 24
PROMPTS = ("The waiter brought a bowl of", "Is", "name: Blue Spice, food: Italian, area: riverside")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("base"), request.param), device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("llama"), "llama"), device="cpu")


def random_bank(base: LoadedBase, lengths: tuple[int, ...] = (5, 3)) -> PrefixBank:
    measured = base.geometry
    generator = torch.Generator().manual_seed(2)
    return PrefixBank.stack(
        [
            SlotPrefix(
                torch.randn(
                    measured.num_layers, 2, measured.num_kv_heads, length, measured.head_dim, generator=generator
                )
            )
            for length in lengths
        ]
    )


def row(base: LoadedBase, text: str, slot: int = NO_PREFIX, **settings: object) -> GenerationRow:
    return GenerationRow(tuple(base.tokenizer(text).input_ids), slot, **{"max_new_tokens": NUM_NEW, **settings})  # type: ignore[arg-type]


def run(base: LoadedBase, bank: PrefixBank | None, rows: list[GenerationRow]) -> list[list[TokenEvent]]:
    events: list[list[TokenEvent]] = [[] for _ in rows]
    for step in stream(base, bank, rows):
        for event in step:
            events[event.row].append(event)
    return events


def ids_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events]


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def generated(model: Any, prompt_ids: tuple[int, ...]) -> tuple[list[int], torch.Tensor]:
    """Tokens by transformers' own generate, and their log probabilities, which differ even where tokens agree."""
    ids = torch.tensor([prompt_ids])
    made = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NUM_NEW,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = made.sequences[0, len(prompt_ids) :]
    logprobs = torch.cat(made.logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), logprobs


def logprobs_of(events: list[TokenEvent]) -> torch.Tensor:
    return torch.tensor([event.logprob for event in events])


def untouched_model(base: LoadedBase) -> PreTrainedModel:
    """The same weights in a model that nothing was installed into."""
    model = tiny_model(base.model.config.model_type)
    model.generation_config.eos_token_id = None
    return model


def test_left_pane_is_the_untouched_model_token_by_token(base: LoadedBase) -> None:
    rows = [row(base, prompt, slot) for prompt in PROMPTS for slot in (NO_PREFIX, 0)]
    events = run(base, random_bank(base), rows)
    for index in range(0, len(rows), 2):
        tokens, logprobs = generated(untouched_model(base), rows[index].prompt_ids)
        assert ids_of(events[index]) == tokens
        assert torch.allclose(logprobs_of(events[index]), logprobs, atol=1e-4)
    assert not torch.allclose(logprobs_of(events[0]), logprobs_of(events[1]), atol=1e-2)


def test_prefix_row_is_what_peft_generates(base: LoadedBase) -> None:
    bank = random_bank(base)
    rows = [row(base, PROMPTS[0]), row(base, PROMPTS[0], 0), row(base, PROMPTS[2], 0), row(base, PROMPTS[1], 1)]
    events = run(base, bank, rows)
    measured = base.geometry
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=5,
        token_dim=measured.num_kv_heads * measured.head_dim,
        num_attention_heads=measured.num_kv_heads,
        num_layers=measured.num_layers,
    )
    wrapped = get_peft_model(untouched_model(base), config).eval()
    wrapped.prompt_encoder["default"].embedding.weight.data.copy_(bank.kv[0].permute(3, 0, 1, 2, 4).reshape(5, -1))
    for index in (1, 2):
        tokens, logprobs = generated(wrapped, rows[index].prompt_ids)
        assert ids_of(events[index]) == tokens
        assert torch.allclose(logprobs_of(events[index]), logprobs, atol=1e-4)


def test_every_row_equals_what_it_is_alone(base: LoadedBase) -> None:
    bank = random_bank(base)
    rows = [
        row(base, PROMPTS[0]),
        row(base, PROMPTS[1], 0, max_new_tokens=3),
        row(base, PROMPTS[2], 1, temperature=0.9, top_p=0.9, seed=5),
        row(base, PROMPTS[1], 0, temperature=1.2, seed=6, max_new_tokens=9),
    ]
    together = run(base, bank, rows)
    for index, one in enumerate(rows):
        assert ids_of(together[index]) == ids_of(run(base, bank, [one])[0])
    assert [len(events) for events in together] == [NUM_NEW, 3, NUM_NEW, 9]
    assert [events[-1].finish_reason for events in together] == ["length"] * 4


def test_first_logits_of_the_base_row_are_those_of_stock_attention(base: LoadedBase) -> None:
    seen: list[torch.Tensor] = []
    rows = [row(base, PROMPTS[1]), row(base, PROMPTS[2], 0)]
    next(stream(base, random_bank(base), rows, observe_first=seen.append))
    ours = base.model.config._attn_implementation
    stock = untouched_logits(base, rows[0].prompt_ids, "sdpa")
    assert (seen[0][0] - stock).abs().max() <= 1e-4
    assert base.model.config._attn_implementation == ours
    assert (seen[0][1] - untouched_logits(base, rows[1].prompt_ids, "sdpa")).abs().max() > 1e-2


def test_end_token_ends_a_row_and_is_not_shown(llama: LoadedBase) -> None:
    free = run(llama, None, [row(llama, PROMPTS[0])])[0]
    end = free[7].token_id
    first = ids_of(free).index(end)
    ended = run(llama, None, [row(llama, PROMPTS[0], end_ids=frozenset([end]))])[0]
    assert ids_of(ended) == ids_of(free)[: first + 1]
    assert ended[-1].finish_reason == "stop"
    assert text_of(ended) == llama.tokenizer.decode(ids_of(free)[:first]).rstrip("\ufffd")


def test_text_is_the_decoded_tokens(llama: LoadedBase) -> None:
    for events in run(llama, random_bank(llama), [row(llama, prompt, 0) for prompt in PROMPTS]):
        decoded = llama.tokenizer.decode(ids_of(events), skip_special_tokens=True)
        assert text_of(events) == decoded.rstrip("\ufffd")


def test_stop_text_ends_only_its_own_row(llama: LoadedBase) -> None:
    free = text_of(run(llama, None, [row(llama, PROMPTS[0])])[0])
    stop = free[len(free) // 2 : len(free) // 2 + 3]
    stopped, other = run(llama, None, [row(llama, PROMPTS[0], stop=(stop,)), row(llama, PROMPTS[0])])
    assert text_of(stopped) == free[: free.index(stop)]
    assert stopped[-1].finish_reason == "stop"
    assert text_of(other) == free


def test_logprob_is_that_of_the_chosen_token(llama: LoadedBase) -> None:
    event = run(llama, None, [row(llama, PROMPTS[0], max_new_tokens=1)])[0][0]
    logits = untouched_logits(llama, row(llama, PROMPTS[0]).prompt_ids, "sdpa")
    assert event.logprob == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)


def test_cancelled_generation_ends_within_one_step(llama: LoadedBase) -> None:
    steps = []
    for step in stream(llama, None, [row(llama, PROMPTS[0])], cancelled=lambda: len(steps) == 3):
        steps.append(step)
    assert len(steps) == 3


def test_generation_fills_the_context_to_its_last_token(base: LoadedBase) -> None:
    prompt_ids = tuple(base.tokenizer(PROMPTS[2] * 6).input_ids)[:200]
    num_new = cap_new_tokens(len(prompt_ids), 5, 10**9, base.geometry.context_length)
    assert num_new == CONTEXT_LENGTH - len(prompt_ids) - 5
    events = run(base, random_bank(base), [GenerationRow(prompt_ids, 0, max_new_tokens=num_new)])
    assert len(events[0]) == num_new


def test_prompt_without_room_for_a_token_is_refused(llama: LoadedBase) -> None:
    with pytest.raises(ContextOverflowError, match=r"251 tokens.* 1 .* 5: 257 together.* 256"):
        cap_new_tokens(251, 5, 16, llama.geometry.context_length)


def test_row_without_a_token_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="0 prompt ids"):
        GenerationRow(())


def test_end_tokens_are_those_of_model_and_tokenizer(llama: LoadedBase) -> None:
    assert end_ids(llama) == {llama.tokenizer.eos_token_id}
    assert end_ids(llama, 7, None) == {llama.tokenizer.eos_token_id, 7}


def test_base_folder_is_what_the_left_pane_is_compared_with(tmp_path: Path) -> None:
    loaded = load_base(tiny_base_folder(tmp_path / "base", "llama"), device="cpu")
    reference = tiny_model("llama").state_dict()
    assert all(torch.equal(value, reference[name]) for name, value in loaded.model.state_dict().items())
