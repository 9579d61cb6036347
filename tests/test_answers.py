"""Held-out rows and their answers: who is asked what, in which batches, and until when."""

import itertools
from collections.abc import Iterator

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import OutOfMemoryError
from worker.engine.generate import GenerationRow, end_ids, stream
from worker.engine.initialise import text_kv
from worker.engine.rendering import Rendering
from worker.engine.tokens import draw_few_shot, encode_prompt
from worker.evaluation import answers as module
from worker.evaluation.answers import Answerer
from worker.evaluation.questions import Question, arms_of, draw_questions, max_new_tokens

RENDERING = Rendering("plain", "food: {food}", "text", instruction="Say what the place serves.", few_shot_seed=3)
TRAIN = [{"food": f"soup {index}", "text": f"A bowl of soup {index}."} for index in range(12)]
HELD_OUT = [{"food": f"bread {index // 2}", "text": f"A slice of bread {index}."} for index in range(24)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("base")), device="cpu")


@pytest.fixture
def bank(base: LoadedBase) -> PrefixBank:
    return PrefixBank(text_kv(base, base.tokenizer("Say what the place serves.").input_ids).unsqueeze(0))


@pytest.fixture
def questions(base: LoadedBase) -> list[Question]:
    return draw_questions(base, RENDERING, HELD_OUT, TRAIN, num_virtual_tokens=8, seed=0)


def never() -> bool:
    return False


def answerer(base: LoadedBase, bank: PrefixBank, questions: list[Question]) -> Answerer:
    return Answerer(base, bank, questions, end_ids(base))


def test_each_prompt_is_asked_once_and_none_that_was_trained_on(base: LoadedBase) -> None:
    drawn = draw_questions(base, RENDERING, [*HELD_OUT, TRAIN[0]], TRAIN, num_virtual_tokens=8, seed=0)
    prompts = [question.prompt for question in drawn]
    assert sorted(prompts) == sorted({f"food: bread {index}" for index in range(12)})
    again = draw_questions(base, RENDERING, [*HELD_OUT, TRAIN[0]], TRAIN, num_virtual_tokens=8, seed=1)
    assert prompts != [question.prompt for question in again]


def test_sides_are_asked_as_the_contract_says(base: LoadedBase, questions: list[Question]) -> None:
    question = questions[0]
    ids = question.prompt_ids
    shots = draw_few_shot(RENDERING, TRAIN)
    assert arms_of(questions) == ["base", "instruction", "few-shot", "prefix"]
    assert ids["base"] == ids["prefix"] == tuple(encode_prompt(base.tokenizer, RENDERING, question.prompt))
    instructed = encode_prompt(base.tokenizer, RENDERING, question.prompt, context="instruction")
    shown = encode_prompt(base.tokenizer, RENDERING, question.prompt, context="few-shot", few_shot=shots)
    assert (ids["instruction"], ids["few-shot"]) == (tuple(instructed), tuple(shown))


def test_examples_that_do_not_fit_are_left_out_and_so_is_a_row_without_room(base: LoadedBase) -> None:
    long = [{"food": "soup " * 30 + str(index), "text": "Hot."} for index in range(4)]
    drawn = draw_questions(base, RENDERING, HELD_OUT, long, num_virtual_tokens=8, seed=0)
    fitting = len(drawn[0].prompt_ids["few-shot"])
    assert len(drawn[0].prompt_ids["base"]) < fitting <= base.geometry.context_length
    assert 0 < drawn[0].num_examples < 4
    hopeless = [{"food": "x" * 4000, "text": "y"}]
    assert draw_questions(base, RENDERING, hopeless, TRAIN, num_virtual_tokens=8, seed=0) == []


def test_one_row_too_long_for_a_side_takes_that_side_from_nobody_else(base: LoadedBase) -> None:
    words = len(base.tokenizer("food: ").input_ids), len(base.tokenizer("x").input_ids)
    room = base.geometry.context_length - 8 - sum(words) - len(base.tokenizer(" y").input_ids) - 2
    long = {"food": "x" * room, "text": "y"}
    drawn = draw_questions(base, RENDERING, [*HELD_OUT, long], TRAIN, num_virtual_tokens=0, seed=0)
    assert len(drawn) == 12
    assert arms_of(drawn) == ["base", "instruction", "few-shot", "prefix"]
    assert draw_questions(base, RENDERING, [long], TRAIN, num_virtual_tokens=0, seed=0)[0].prompt_ids.keys() == {
        "base", "prefix",
    }  # fmt: skip


def test_no_instruction_means_no_such_side(base: LoadedBase) -> None:
    rendering = Rendering("plain", "food: {food}", "text")
    drawn = draw_questions(base, rendering, HELD_OUT, TRAIN, num_virtual_tokens=8, seed=0)
    assert arms_of(drawn) == ["base", "few-shot", "prefix"]


def test_answers_of_mixed_batches_are_those_of_each_row_alone(
    base: LoadedBase, bank: PrefixBank, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ROUND", 5)
    monkeypatch.setattr(module, "MAX_BATCH_TOKENS", 700)
    found = answerer(base, bank, questions).answer(budget_s=600, is_asked_to_end=never)
    assert (found.num_rows, found.ended) == (12, "complete")
    limit = max_new_tokens(questions)
    for arm, index in itertools.product(arms_of(questions), (0, 7, 11)):
        slot = 0 if arm == "prefix" else -1
        row = GenerationRow(questions[index].prompt_ids[arm], slot, max_new_tokens=limit, end_ids=end_ids(base))
        alone = "".join(event.text for events in stream(base, bank, [row]) for event in events)
        assert found.texts[arm][index] == alone
    assert found.texts["prefix"] != found.texts["base"]


def test_time_that_is_up_leaves_whole_rounds(
    base: LoadedBase, bank: PrefixBank, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ROUND", 4)
    found = answerer(base, bank, questions).answer(budget_s=0, is_asked_to_end=never)
    assert (found.num_rows, found.ended) == (4, "time")
    assert {len(texts) for texts in found.texts.values()} == {4}


def test_a_wish_to_end_is_heard_between_two_tokens(
    base: LoadedBase, bank: PrefixBank, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ROUND", 4)
    looks: Iterator[int] = itertools.count()
    answerer(base, bank, questions[:4]).answer(budget_s=600, is_asked_to_end=lambda: next(looks) < 0)
    of_first_round, again = next(looks), itertools.count()
    found = answerer(base, bank, questions).answer(
        budget_s=600, is_asked_to_end=lambda: next(again) > of_first_round + 8
    )
    assert (found.num_rows, found.ended) == (4, "asked")
    assert next(again) < of_first_round + 12


def test_scarce_memory_is_met_with_smaller_batches(
    base: LoadedBase, bank: PrefixBank, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answerer(base, bank, questions[:4]).answer(budget_s=600, is_asked_to_end=never)
    real, limit = stream, 3

    def scarce(base, bank, rows, cancelled):
        if len(rows) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(base, bank, rows, cancelled)

    monkeypatch.setattr(module, "stream", scarce)
    found = answerer(base, bank, questions[:4]).answer(budget_s=600, is_asked_to_end=never)
    assert found.texts == expected.texts
    limit = 0
    with pytest.raises(OutOfMemoryError, match="even one held-out row"):
        answerer(base, bank, questions[:4]).answer(budget_s=600, is_asked_to_end=never)
