"""Scores of an answer with and without its prefix, against a plain loop of whole forwards."""

import json

import pytest
import torch
from torch import Tensor

from tests.tiny import FAMILIES, VOCAB_SIZE, tiny_model, tiny_tokenizer
from tests.tiny_seq2seq import tiny_seq2seq, tiny_seq2seq_tokenizer
from worker.engine import explain as module
from worker.engine.attention import attending
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix, position_ids_for
from worker.engine.base import LoadedBase, prepare_base
from worker.engine.explain import Explanation, Question, ScoredToken, answer_texts, score, token_text
from worker.engine.families import geometry

PROMPT = tuple(range(5, 45))
ANSWER = (9, 310, 44, 7, 7, 120, 33, 250, 11, 86, 300, 15)
SLOT = 1
SEQ2SEQ = ("t5", "bart")


def base_of(family: str) -> LoadedBase:
    is_seq2seq = family in SEQ2SEQ
    model = tiny_seq2seq(family) if is_seq2seq else tiny_model(family)
    tokenizer = tiny_seq2seq_tokenizer(family) if is_seq2seq else tiny_tokenizer()
    return prepare_base(model, tokenizer, geometry(json.loads(model.config.to_json_string())))


def bank_of(base: LoadedBase) -> PrefixBank:
    measured, generator = base.geometry, torch.Generator().manual_seed(2)
    return PrefixBank.stack(
        [
            SlotPrefix(
                torch.randn(
                    measured.num_attentions, 2, measured.num_kv_heads, length, measured.head_dim, generator=generator
                )
            )
            for length in (3, 5)
        ]
    )


def scored(base: LoadedBase, bank: PrefixBank, question: Question, piece_s: float = 0.0) -> list[ScoredToken]:
    """All scores; each piece seems to take so long."""
    ticks = iter(range(10_000))
    return [token for piece in score(base, bank, question, lambda: next(ticks) * piece_s) for token in piece]


@torch.no_grad()
def plain_logprobs(base: LoadedBase, bank: PrefixBank, slot: int, strength: float = 1.0) -> Tensor:
    """`[answer, V]` by one whole forward for each token, without a cache."""
    rows = []
    for place in range(len(ANSWER)):
        with attending(base.model, bank, [slot], [strength]):
            if base.geometry.has_encoder:
                so_far = torch.tensor([[*base.decoder_start_ids, *ANSWER[:place]]])
                out = base.model(torch.tensor([PROMPT]), decoder_input_ids=so_far, use_cache=False)
            else:
                mask = torch.ones(1, len(PROMPT) + place, dtype=torch.long)
                positions = position_ids_for(mask, bank, [slot])
                ids = torch.tensor([[*PROMPT, *ANSWER[:place]]])
                out = base.model(ids, attention_mask=mask, position_ids=positions, use_cache=False)
        rows.append(out.logits[0, -1].double().log_softmax(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("piece_s", [0.0, 0.15], ids=["growing pieces", "shrinking pieces"])
@pytest.mark.parametrize("family", [*FAMILIES, *SEQ2SEQ])
def test_scores_are_those_of_whole_forwards(family: str, piece_s: float) -> None:
    base = base_of(family)
    bank = bank_of(base)
    found = scored(base, bank, Question(PROMPT, ANSWER, SLOT), piece_s)
    with_prefix, without = (plain_logprobs(base, bank, slot) for slot in (SLOT, NO_PREFIX))
    kl = (with_prefix.exp() * (with_prefix - without)).sum(-1)
    assert [token.token_id for token in found] == list(ANSWER)
    for place, token in enumerate(found):
        assert token.logprob == pytest.approx(float(with_prefix[place, token.token_id]), abs=1e-4)
        assert token.base_logprob == pytest.approx(float(without[place, token.token_id]), abs=1e-4)
        assert token.kl == pytest.approx(float(kl[place]), abs=1e-4)
        for top, logprobs in ((token.top, with_prefix), (token.base_top, without)):
            best = logprobs[place].topk(10)
            assert [token_id for token_id, _ in top] == best.indices.tolist()
            assert [value for _, value in top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert Explanation(base, Question(PROMPT, ANSWER, SLOT), found).mean_kl == pytest.approx(float(kl.mean()), abs=1e-4)


def test_a_prefix_moves_the_answer_and_none_does_not() -> None:
    base = base_of("llama")
    bank = bank_of(base)
    assert min(token.kl for token in scored(base, bank, Question(PROMPT, ANSWER, SLOT))) > 0.01
    for token in scored(base, bank, Question(PROMPT, ANSWER, NO_PREFIX)):
        assert token.kl == pytest.approx(0.0, abs=1e-6)
        assert token.top == token.base_top


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_weaker_prefix_is_scored_at_its_strength(family: str) -> None:
    base = base_of(family)
    bank = bank_of(base)
    found = scored(base, bank, Question(PROMPT, ANSWER, SLOT, strength=0.3))
    expected = plain_logprobs(base, bank, SLOT, 0.3)
    assert [token.logprob for token in found] == pytest.approx(
        [float(expected[place, token_id]) for place, token_id in enumerate(ANSWER)], abs=1e-4
    )
    full, none = (scored(base, bank, Question(PROMPT, ANSWER, SLOT, strength)) for strength in (1.0, 0.0))
    assert found[0].logprob != pytest.approx(full[0].logprob, abs=1e-3)
    assert all(token.kl == pytest.approx(0.0, abs=1e-6) for token in none)


def test_work_is_cut_into_pieces_by_the_time_they_take() -> None:
    base = base_of("llama")
    question = Question(tuple(range(200)), ANSWER, SLOT)
    ticks = iter(range(10_000))
    slow = [len(piece) for piece in score(base, bank_of(base), question, lambda: next(ticks) * 1.0)]
    assert len(slow) > 150
    assert sum(slow) == len(ANSWER)
    fast = list(score(base, bank_of(base), question, lambda: 0.0))
    assert len(fast) < 10


def test_large_vocabularies_are_compared_a_few_places_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of("llama")
    bank = bank_of(base)
    expected = scored(base, bank, Question(PROMPT, ANSWER, SLOT))
    widths: list[int] = []
    real = module._scored

    def noting(logprobs: Tensor, targets: tuple[int, ...]) -> list[ScoredToken]:
        widths.append(logprobs.shape[1])
        return real(logprobs, targets)

    monkeypatch.setattr(module, "_scored", noting)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 4 * VOCAB_SIZE)
    assert scored(base, bank, Question(PROMPT, ANSWER, SLOT)) == expected
    assert max(widths) == 2


def test_texts_of_tokens_add_up_to_the_answer() -> None:
    base = base_of("llama")
    answer = "Blue Spice serves 😀 food."
    ids = tuple(base.tokenizer(answer).input_ids)
    question = Question(tuple(base.tokenizer("So:").input_ids), ids, SLOT)
    pieces = answer_texts(base, question)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == answer
    told = Explanation(base, question, scored(base, bank_of(base), question)).told()
    assert "".join(str(token["text"]) for token in told) == answer
    assert set(told[0]) == {"text", "logprob", "base_logprob", "kl", "top", "base_top"}
    assert [len(token["top"]) for token in told] == [10] * len(ids)  # type: ignore[arg-type]
    json.dumps(told, allow_nan=False)


def test_text_of_a_token_keeps_its_space_and_shows_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    for token_id in tokenizer(" soup and bread").input_ids:
        assert token_text(tokenizer, token_id) == tokenizer.convert_ids_to_tokens(token_id).replace("Ġ", " ")
    assert token_text(tokenizer, 0) == "<|endoftext|>"


def test_question_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="0 answer ids; expected at least one"):
        Question(PROMPT, (), SLOT)
