"""The parts of the serving benchmark that its figures hang on."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving import paper_role, web
from bench.serving.model import Ask, make_asks, make_prefixes, word_tokenizer
from bench.serving.ours import OurServer
from bench.serving.peft_side import PeftServer
from bench.serving.timing import Timed, ratio_of_seconds, ratio_of_speeds, speed_of, take_turns
from tests.tiny import VOCAB_SIZE, tiny_model
from worker.engine.families import geometry

NUM_PREFIXES = 3
NUM_TOKENS = 6


class Sides:
    """Both sides on the same tiny weights, whose answers never end by themselves."""

    def __init__(self) -> None:
        model, peer = tiny_model("llama"), tiny_model("llama")
        for each in (model, peer):
            each.generation_config.eos_token_id = None
        measured = geometry(json.loads(model.config.to_json_string()))
        prefixes = make_prefixes(measured, NUM_PREFIXES)
        self.ours = OurServer(model, measured, prefixes, time.perf_counter)
        self.peft = PeftServer(peer, prefixes, time.perf_counter)


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    made = Sides()
    yield made
    made.ours.close()


def test_requests_go_round_the_prefixes_and_are_the_same_for_the_same_seed() -> None:
    asks = make_asks(VOCAB_SIZE, 5, 2, seed=3)
    assert [ask.prefix for ask in asks] == [0, 1, 0, 1, 0]
    assert asks == make_asks(VOCAB_SIZE, 5, 2, seed=3)
    assert make_asks(VOCAB_SIZE, 1, 0, seed=3) == [Ask(asks[0].prompt_ids)]
    assert tuple(word_tokenizer(VOCAB_SIZE)(asks[0].text).input_ids) == asks[0].prompt_ids


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_both_sides_answer_with_the_same_tokens(sides: Sides) -> None:
    asks = make_asks(VOCAB_SIZE, 6, NUM_PREFIXES, seed=0)
    timed, ours = sides.ours.answer(asks, NUM_TOKENS)
    assert [len(answer) for answer in ours] == [NUM_TOKENS] * 6
    assert timed.tokens == 6 * NUM_TOKENS
    assert sides.peft.switch(asks, NUM_TOKENS)[1] == ours
    assert sides.peft.batch(asks, NUM_TOKENS)[1] == ours
    assert len({tuple(answer) for answer in ours}) == 6


def test_decoding_is_timed_behind_the_first_tokens(sides: Sides) -> None:
    ask = make_asks(VOCAB_SIZE, 1, 0, seed=0)[0]
    timed = sides.ours.decode([ask, Ask(ask.prompt_ids, 0)], NUM_TOKENS)
    assert timed.tokens == 2 * (NUM_TOKENS - 1)
    assert timed.seconds > 0


def test_newcomer_gets_a_first_token_while_others_stream(sides: Sides) -> None:
    newcomer, *others = make_asks(VOCAB_SIZE, 4, NUM_PREFIXES, seed=0)
    assert 0 < sides.ours.first_token_s(newcomer, others, 20) < 30


def test_sides_take_turns_at_beginning() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> Timed:
        order.append(name)
        return Timed(10, seconds)

    measured = take_turns([lambda number: side("a", number + 1.0), lambda number: side("b", 2.0)], 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert ratio_of_seconds(*measured) == 1.0
    assert ratio_of_speeds(*measured) == 1.0
    assert speed_of(measured[0]) == 5.0


def test_streams_of_the_paper_role_come_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_role, "TOKEN_S", 0.001)
    announcement = tmp_path / "run" / "inference.json"
    server = paper_role.AnnouncingServer(announcement)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not announcement.exists():
        time.sleep(0.01)
    streams = asyncio.run(web._round(json.loads(announcement.read_text())["url"], 5))
    server.should_exit = True
    thread.join()
    assert all(stream.is_whole and 0 < stream.first_s <= stream.total_s for stream in streams)
    assert not asyncio.run(web._round("http://127.0.0.1:9", 1))[0].is_whole


def test_p95_is_the_nineteenth_of_twenty() -> None:
    assert web._p95([float(number) for number in range(20)]) == 18.0
