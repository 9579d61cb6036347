"""Drawing tokens and showing text, without a model."""

import math

import pytest
import torch

from tests.tiny import tiny_tokenizer
from worker.engine.detokenise import Detokeniser, StopFilter
from worker.engine.sampling import Sampler, first_token_kl

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 0.0])


def draw(sampler: Sampler, num: int, logits: torch.Tensor = LOGITS) -> list[int]:
    return [sampler.choose(logits).token_id for _ in range(num)]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    assert draw(Sampler(temperature=0.0, seed=1), 5) == [0] * 5


def test_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    first = draw(Sampler(temperature=1.0, seed=7), 40)
    assert draw(Sampler(temperature=1.0, seed=7), 40) == first
    assert draw(Sampler(temperature=1.0, seed=8), 40) != first


def test_draws_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(0)
    first = draw(Sampler(temperature=1.0, seed=7), 20)
    torch.manual_seed(1)
    assert draw(Sampler(temperature=1.0, seed=7), 20) == first


def test_frequencies_follow_the_distribution() -> None:
    drawn = torch.tensor(draw(Sampler(temperature=0.7, seed=0), 4000))
    frequencies = torch.bincount(drawn, minlength=5) / len(drawn)
    assert torch.allclose(frequencies, (LOGITS / 0.7).softmax(-1), atol=0.03)


def test_top_p_leaves_the_improbable_tokens_out() -> None:
    # Probabilities are about 0.56, 0.21, 0.13, 0.03, 0.08.
    assert set(draw(Sampler(temperature=1.0, top_p=0.7, seed=0), 300)) == {0, 1}
    assert set(draw(Sampler(temperature=1.0, top_p=1e-9, seed=0), 20)) == {0}


@pytest.mark.parametrize("temperature", [1e-30, 1e-6])
def test_tiny_temperature_is_greedy_and_finite(temperature: float) -> None:
    assert draw(Sampler(temperature=temperature, seed=0), 10, LOGITS * 100) == [0] * 10


def test_logprob_is_that_of_the_model_before_temperature() -> None:
    choice = Sampler(temperature=5.0, seed=3).choose(LOGITS)
    assert choice.logprob == pytest.approx(float(LOGITS.log_softmax(-1)[choice.token_id]))


def test_kl_of_the_first_token_is_zero_only_without_a_change() -> None:
    assert first_token_kl(LOGITS, LOGITS) == pytest.approx(0.0, abs=1e-12)
    by_hand = sum(
        float(p) * math.log(float(p) / float(q)) for p, q in zip(LOGITS.softmax(-1), (-LOGITS).softmax(-1), strict=True)
    )
    assert first_token_kl(LOGITS, -LOGITS) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(
    "text", ["Blue Spice serves food.", "قهوة 👩‍🍳 und 🍜, naïve 你好", "  two  spaces\n\n", "a\ufffdb"]
)
def test_pieces_add_up_to_the_text(text: str) -> None:
    tokenizer = tiny_tokenizer()
    detokeniser = Detokeniser(tokenizer, tokenizer("The waiter brought").input_ids)
    pieces = [detokeniser.push(token_id) for token_id in tokenizer(text).input_ids]
    assert "".join(pieces) + detokeniser.flush() == text


def test_no_piece_holds_half_a_character() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("🍜").input_ids
    assert len(ids) == 4
    detokeniser = Detokeniser(tokenizer, [])
    assert [detokeniser.push(token_id) for token_id in ids] == ["", "", "", "🍜"]
    cut_off = Detokeniser(tokenizer, [])
    assert [cut_off.push(token_id) for token_id in ids[:3]] == ["", "", ""]
    assert cut_off.flush() == ""


def test_invalid_bytes_do_not_hold_text_back_for_ever() -> None:
    tokenizer = tiny_tokenizer()
    lone_byte = tokenizer("🍜").input_ids[1]
    detokeniser = Detokeniser(tokenizer, [])
    assert detokeniser.push(lone_byte) == ""
    assert detokeniser.push(tokenizer("a").input_ids[0]) == "\ufffda"


def test_special_tokens_are_not_shown() -> None:
    tokenizer = tiny_tokenizer()
    detokeniser = Detokeniser(tokenizer, [])
    assert detokeniser.push(tokenizer.eos_token_id) == ""
    assert detokeniser.push(tokenizer("soup").input_ids[0]) != ""


def show(stop: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop_filter = StopFilter(stop)
    shown = ""
    for piece in pieces:
        text, is_stopped = stop_filter.push(piece)
        shown += text
        if is_stopped:
            return shown, True
    return shown + stop_filter.flush(), False


@pytest.mark.parametrize(
    ("stop", "pieces", "expected"),
    [
        (["END"], ["some", " text"], ("some text", False)),
        (["END"], ["some EN", "D more"], ("some ", True)),
        (["END"], ["some E", "N", "Z"], ("some ENZ", False)),
        (["\n\n"], ["a\n", "b\n", "\nc"], ("a\nb", True)),
        (["aab"], ["aa", "ab"], ("a", True)),
        (["long stop", "ng"], ["a lo", "ng"], ("a lo", True)),
        ([""], ["text"], ("text", False)),
        (["END"], ["E", "N"], ("EN", False)),
    ],
)
def test_stop_texts_end_a_text_and_never_leak(stop: list[str], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert show(stop, pieces) == expected


def test_beginning_of_a_stop_text_is_held_back() -> None:
    stop_filter = StopFilter(["User:"])
    assert stop_filter.push("fine\nUse") == ("fine\n", False)
    assert stop_filter.push("ful") == ("Useful", False)
