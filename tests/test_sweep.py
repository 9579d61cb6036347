"""Learning rates compared in one pass: the worse are dropped, the best goes on, and a resume changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.test_train import INIT_IDS, learnable_rows, only
from tests.tiny import tiny_base_folder
from worker.engine import update
from worker.engine.base import LoadedBase, load_base
from worker.engine.checkpoint import read_checkpoint, write_checkpoint
from worker.engine.errors import InvalidRecipeError
from worker.engine.events import (
    Checkpointed,
    Chosen,
    Compared,
    Diverged,
    Eliminated,
    Evaluated,
    Event,
    Finished,
    Started,
    StepMetrics,
)
from worker.engine.recipe import Recipe
from worker.engine.train import Control, train

RATES = (0.0001, 0.003, 0.05, 0.02)
RECIPE = Recipe(
    num_virtual_tokens=6,
    learning_rate=0.02,
    sweep=RATES,
    sweep_steps=4,
    max_steps=16,
    batch_size=4,
    eval_every=6,
    seed=1,
)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


def events_of(base: LoadedBase, recipe: Recipe = RECIPE, validation: int = 8, **options) -> list[Event]:
    held_out = learnable_rows(validation, seed=9)
    return list(train(base, learnable_rows(24), held_out, recipe, init_ids=INIT_IDS, **options))


def test_worse_half_is_dropped_at_each_rung_until_one_is_left(base: LoadedBase) -> None:
    events = events_of(base)
    assert only(events, Started)[0].sweep == RATES
    assert [event.step for event in only(events, Eliminated)] == [4, 4, 8]
    assert [event.step for event in only(events, Chosen)] == [8]
    assert [event.step for event in only(events, Evaluated)] == [0, 4, 6, 8, 12, 16]
    assert 0.0001 in [event.rate for event in only(events, Eliminated)[:2]]
    chosen = only(events, Chosen)[0]
    assert events[-1].learning_rate == chosen.rate
    assert events[-1].num_examples == 4 * (4 * 4 + 4 * 2 + 8)
    assert events[-1].validation_loss_after == min(
        event.validation_loss for event in [*only(events, Evaluated), *chosen.evaluations]
    )


def test_winner_equals_its_own_training(base: LoadedBase) -> None:
    events = events_of(base)
    rate = events[-1].learning_rate
    lone = events_of(base, replace(RECIPE, sweep=(), learning_rate=rate, eval_every=2))
    values = [torch.from_numpy(of_one[-1].prefix.values) for of_one in (events, lone)]
    assert events[-1].best_step == lone[-1].best_step
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=0)


def test_choice_tells_the_winners_own_past(base: LoadedBase) -> None:
    events = events_of(base)
    chosen = only(events, Chosen)[0]
    lone = events_of(base, replace(RECIPE, sweep=(), learning_rate=chosen.rate))
    expected = [event.loss for event in only(lone, StepMetrics)[:8]]
    assert [event.step for event in chosen.steps] == list(range(1, 9))
    assert [event.loss for event in chosen.steps] == pytest.approx(expected, abs=1e-4)
    assert [event.step for event in chosen.evaluations] == [0, 4, 6, 8]


def test_standing_of_every_rate_is_told_while_they_are_compared(base: LoadedBase) -> None:
    compared = only(events_of(base), Compared)
    assert [[candidate.state for candidate in event.candidates].count("trying") for event in compared] == [4, 2, 2, 0]
    last = compared[-1].candidates
    assert [candidate.rate for candidate in last] == sorted(RATES)
    assert [candidate.state for candidate in last].count("chosen") == 1
    losses = {candidate.state: candidate.loss for candidate in last}
    assert losses["chosen"] == min(candidate.loss for candidate in last)
    assert {candidate.step for candidate in last} == {4, 8}


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_resume_in_mid_sweep_equals_an_uninterrupted_one_bit_for_bit(
    base: LoadedBase, tmp_path: Path, method, step: int
) -> None:
    recipe = replace(RECIPE, method=method)
    whole = events_of(base, recipe)
    control = Control()
    held_out = learnable_rows(8, seed=9)
    for event in train(base, learnable_rows(24), held_out, recipe, init_ids=INIT_IDS, control=control):
        control.checkpoint_requested = isinstance(event, StepMetrics) and event.step == step
        if isinstance(event, Checkpointed) and event.step == step:
            break
    write_checkpoint(tmp_path / "state", event.state)
    resumed = events_of(base, recipe, resume=read_checkpoint(tmp_path / "state"))
    assert resumed[0].first_step == step
    assert (whole[-1].prefix.values == resumed[-1].prefix.values).all()
    assert only(whole, Chosen)[0] == [*only(resumed, Chosen), *only(whole, Chosen)][0]
    assert replace(whole[-1], prefix=resumed[-1].prefix) == resumed[-1]


def test_rate_whose_loss_is_no_number_is_dropped_at_once(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = update.target_nll, []

    def of_slot_two_is_no_number(model, bank, batch, slots):
        calls.append(1)
        factors = torch.ones(4)
        factors[2] = float("nan") if len(calls) == 3 else 1.0
        return real(model, bank, batch, slots) * factors[torch.tensor(slots)[batch.rows]]

    monkeypatch.setattr(update, "target_nll", of_slot_two_is_no_number)
    events = events_of(base)
    assert only(events, Diverged) == []
    assert only(events, Eliminated)[0] == Eliminated(0.05, 3, None)
    assert [event.step for event in only(events, StepMetrics)] == list(range(1, 17))


def test_lowest_rate_goes_back_where_all_lose_their_number(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = update.target_nll, []

    def no_number(model, bank, batch, slots):
        calls.append(1)
        return real(model, bank, batch, slots) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(update, "target_nll", no_number)
    events = events_of(base)
    assert len(only(events, Chosen)) == 1
    diverged = only(events, Diverged)[0]
    assert (diverged.step, diverged.resumed_step) == (6, 4)
    assert diverged.learning_rate == pytest.approx(0.3 * only(events, Chosen)[0].rate)


def test_stop_in_mid_sweep_keeps_the_best_so_far(base: LoadedBase) -> None:
    control, events = Control(), []
    held_out = learnable_rows(8, seed=9)
    for event in train(base, learnable_rows(24), held_out, RECIPE, init_ids=INIT_IDS, control=control):
        events.append(event)
        control.stop_requested = isinstance(event, StepMetrics) and event.step == 2
    assert isinstance(events[-1], Finished)
    assert events[-1].stopped_early
    assert [event.step for event in only(events, Chosen)] == [2]
    assert only(events, Evaluated)[-1].step == 2


def test_rates_are_compared_by_training_loss_without_validation_rows(base: LoadedBase) -> None:
    events = events_of(base, validation=0)
    assert [event.step for event in only(events, Eliminated)] == [4, 4, 8]
    assert all(event.validation_loss is not None for event in only(events, Eliminated))
    assert events[-1].best_step == 16


def test_sweep_is_decided_at_the_last_step_at_the_latest(base: LoadedBase) -> None:
    events = events_of(base, replace(RECIPE, sweep_steps=16, max_steps=6))
    assert [event.step for event in only(events, Eliminated)] == [6, 6, 6]
    assert [event.step for event in only(events, Chosen)] == [6]


def test_sweep_survives_json_and_refuses_what_is_no_list_of_rates() -> None:
    assert Recipe.from_dict(RECIPE.to_dict()) == RECIPE
    assert RECIPE.to_dict()["sweep"] == list(RATES)
    for wrong in ((0.1, 0.1), (0.1,) * 17, 0.1):
        with pytest.raises(InvalidRecipeError, match="expected at most 16 different learning rates"):
            Recipe(sweep=wrong)
    with pytest.raises(InvalidRecipeError, match="sweep is 20; expected 1e-06 to 10"):
        Recipe(sweep=(0.1, 20.0))
