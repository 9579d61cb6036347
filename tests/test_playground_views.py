"""Pieces of the playground as HTML: marked tokens, sliders, votes, saved comparisons; hostile text stays text."""

import json
import re
from html import unescape
from typing import Any

import gradio as gr
import pytest

from app.services.columns import column_of
from app.services.moments import spread
from app.tabs.columns_panel import chosen_before, wire_columns
from app.tabs.running import RunningAnswers
from app.tabs.time_panel import TimePanel, at_moment
from app.ui import blind_view, compare_view, saved_view, token_view
from app.ui.compare_view import Comparison, Pane
from app.ui.slider_view import slider
from storage.errors import InvalidInputError

HOSTILE = '<img src=x onerror="alert(1)">${alert(1)}\u202e'


def token(text: str, logprob: float = -0.1, base_logprob: float = -0.1) -> dict[str, Any]:
    top = [[text, logprob], ["other", -3.0]]
    return {
        "text": text, "logprob": logprob, "base_logprob": base_logprob, "kl": 0.5, "top": top, "base_top": top,
    }  # fmt: skip


def explained(*tokens: dict[str, Any]) -> Comparison:
    pane = Pane("mine", "", text="x", tokens=len(tokens), finish_reason="stop")
    pane.explained = {"mean_kl": 0.25, "tokens": list(tokens)}
    return Comparison([Pane("base", "", text="y", finish_reason="stop"), pane], proof={"base_verified": True})


@pytest.mark.parametrize(
    "shown",
    [
        token_view.marked([token(HOSTILE)], 1),
        token_view.detail(HOSTILE, [token(HOSTILE)], 0),
        slider(HOSTILE, [HOSTILE, "b"], 0, name="x", ends=(HOSTILE, "")),
        blind_view.question(HOSTILE),
        blind_view.reveal([HOSTILE, HOSTILE], 0, HOSTILE),
        blind_view.ballots(Comparison([Pane("A", "", text=HOSTILE), Pane("B", "", text=HOSTILE)])),
        saved_view.mark("0" * 16, HOSTILE),
        saved_view.cards(
            [{"id": "1", "name": HOSTILE, "labels": [HOSTILE], "base_model": HOSTILE, "created_at": "2026-01-01T10:00"}]
        ),
    ],
)
def test_hostile_text_is_inert(shown: str) -> None:
    assert "<img" not in shown
    assert "${" not in shown


def test_token_is_marked_by_its_gap_and_its_direction() -> None:
    marks = [re.search(r"ps-(?:up|down)-\d", token_view.marked([token("a", *pair)], 0)) for pair in (
        (-0.1, -0.1), (-0.1, -1.0), (-0.1, -2.0), (-0.1, -9.0), (-2.0, -1.2), (-9.0, -0.1),
    )]  # fmt: skip
    assert [mark and mark[0] for mark in marks] == [None, "ps-up-1", "ps-up-2", "ps-up-3", "ps-down-1", "ps-down-3"]


def test_tokens_are_one_stop_of_the_tab_key_and_keep_their_text() -> None:
    shown = token_view.marked([token(" soup"), token("\n"), token(""), token(" tea")], 2)
    assert re.findall(r'tabindex="(-?\d)"', shown) == ["0", "-1", "-1", "-1"]
    assert re.findall(r'data-target="(2:\d)"', shown) == ["2:0", "2:1", "2:2", "2:3"]
    assert re.sub(r"<i.*?</i>|<[^>]*>", "", shown) == "soup\n tea"


def test_probability_is_told_with_sense() -> None:
    assert [token_view.probability(value) for value in (0.0, -0.1, -3.0, -6.0, -20.0, float("-inf"))] == [
        "100 %", "90 %", "5 %", "0.25 %", "under 0.01 %", "under 0.01 %",
    ]  # fmt: skip


def test_widest_gap_is_shown_first() -> None:
    state = explained(token("a"), token("b", -0.1, -5.0), token("c", -2.0, -0.1))
    assert state.most_changed() == (1, 1)
    assert "Token 2 of 3" in compare_view.detail(state, 1, 1)
    assert Comparison([Pane("base", "")]).most_changed() is None


def test_stamp_tells_of_base_and_of_every_prefix() -> None:
    state = explained(token("a"))
    assert "base verified" in compare_view.proof(state)
    assert "mean KL over the answer 0.25 nats" in compare_view.panes(state)
    without = Comparison([Pane("mine", "", finish_reason="stop")])
    assert "no untouched base among the columns" in compare_view.proof(without)


@pytest.mark.parametrize(("gap", "words"), [(2e-7, "equal the untouched"), (0.06, "as far as 16 bits are exact")])
def test_stamp_does_not_call_equal_what_16_bits_have_rounded(gap: float, words: str) -> None:
    state = Comparison([Pane("base", "", finish_reason="stop")], proof={"base_verified": True, "max_difference": gap})
    assert words in compare_view.proof(state)


@pytest.mark.parametrize(("speed", "words"), [(0.4, "0.4 tokens/s"), (1234.6, "1,235 tokens/s")])
def test_slow_answers_have_a_speed_too(speed: float, words: str) -> None:
    assert words in compare_view.panes(Comparison([Pane("base", "", tokens=3, tokens_per_second=speed)]))


def test_explanation_that_comes_after_the_end_is_taken() -> None:
    state = Comparison([Pane("mine", "")])
    for event in (
        {"column": 0, "text": "a"},
        {"column": 0, "done": True, "tokens": 1, "finish_reason": "stop"},
        {"column": 0, "explained": {"mean_kl": 0.5, "tokens": [token("a")]}},
    ):
        state.take(event)
    answer = state.result()["answers"][0]
    assert (answer["text"], answer["finish_reason"], answer["explained"]["mean_kl"]) == ("a", "stop", 0.5)
    assert set(answer) == {"text", "tokens", "tokens_per_second", "finish_reason", "explained"}


def test_slider_carries_the_words_of_its_stops() -> None:
    shown = slider("Time", ["step 0", "step {20}"], 1, name="moment", ends=("start", "end"))
    words = re.search(r'data-words="([^"]*)"', shown)
    assert words
    assert json.loads(unescape(words[1])) == ["step 0", "step {20}"]
    assert 'aria-valuetext="step &#123;20&#125;"' in shown
    assert '<label for="moment">' in shown


def test_blind_answers_carry_no_figures() -> None:
    panes = [Pane("secret", "the base", text=text, tokens=4, tokens_per_second=9.0) for text in ("one", "two")]
    shown = blind_view.ballots(Comparison(panes))
    assert "secret" not in shown
    assert "tokens" not in shown


def test_tally_says_what_it_knows() -> None:
    pair = {"labels": ["a", "b"], "base_model": "t", "wins": [9, 1], "ties": 2, "share": 0.9, "low": 0.6, "high": 0.98}
    assert "is preferred" in blind_view.tally([pair])
    assert "Too close to tell" in blind_view.tally([{**pair, "low": 0.4}])
    only_ties = {**pair, "wins": [0, 0], "share": None, "low": None, "high": None}
    assert "Only ties so far" in blind_view.tally([only_ties])
    assert "No votes yet" in blind_view.tally([])


def test_standings_are_told_once_a_pair_does_not_say_it_all() -> None:
    column = {
        "base_model": "t", "label": HOSTILE, "wins": 3, "losses": 1, "ties": 0, "share": 0.75, "low": 0.3, "high": 0.95,
    }  # fmt: skip
    shown = blind_view.standings([column])
    assert "95 % interval 30 to 95 %" in shown
    assert "<img" not in shown
    assert blind_view.standings([]) == ""
    assert "Two of the chosen columns" in blind_view.rules()


def test_strength_and_time_are_those_of_prefixes_alone() -> None:
    keys = [json.dumps(column_of(model)) for model in ("tiny", "mine", "other")]
    columns = wire_columns("tiny", keys, 50, {"of": "mine", "model": "mine@40"})
    assert columns == [column_of("tiny"), column_of("mine@40", strength=50), column_of("other", strength=50)]
    assert at_moment([column_of("mine")], None) == [column_of("mine")]
    with pytest.raises(InvalidInputError, match="No column is chosen"):
        wire_columns("tiny", [], 100, None)


def test_slider_that_rests_at_a_stop_asks_for_that_moment_and_its_button_for_all() -> None:
    moments = [{"words": f"step {step}", "model": f"mine@{step}"} for step in (0, 20, 40)]

    def took(kind: str, target: str) -> tuple[dict[str, str] | None, list[str] | None]:
        return TimePanel.take(
            {"of": "mine", "model": "mine"}, moments, gr.EventData(None, {"kind": kind, "target": target})
        )

    assert took("stop", "1") == ({"of": "mine", "model": "mine@20"}, None)
    assert took("stages", "") == ({"of": "mine", "model": "mine"}, ["mine@0", "mine@20", "mine@40"])


def test_stop_and_a_new_question_end_the_answer_of_the_same_browser_tab_alone() -> None:
    running = RunningAnswers()
    with running.track("mine") as first, running.track("other") as other:
        with running.track("mine") as second:
            assert first.is_set()
            assert running.is_latest("mine", second)
            assert not second.is_set()
            running.cancel(gr.Request(session_hash="mine"))
            assert second.is_set()
        assert not other.is_set()
        running.cancel(gr.Request(session_hash="nobody"))
        assert not other.is_set()


def test_choice_is_found_again_from_the_columns_it_gave() -> None:
    keys, at, percent = chosen_before([column_of("tiny"), column_of("mine@40", strength=50)], "tiny")
    assert [json.loads(key)["model"] for key in keys] == ["tiny", "mine"]
    assert (at, percent) == ({"of": "mine", "model": "mine@40"}, 50)
    stages = [column_of("tiny"), column_of("mine@20"), column_of("mine@40")]
    assert chosen_before(stages, "tiny")[1] is None


@pytest.mark.parametrize(("count", "steps"), [(3, [0, 1, 2]), (11, [0, 2, 5, 8, 10])])
def test_stages_are_spread_from_the_first_to_the_last(count: int, steps: list[int]) -> None:
    assert [each["model"] for each in spread([{"model": at} for at in range(count)], 5)] == steps
