"""The training as its events show it: it learns, stops, resumes exactly, and leaves the base alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import CONTEXT_LENGTH, FAMILIES, tiny_base_folder
from worker.engine import update
from worker.engine.base import LoadedBase, load_base, weights_hash
from worker.engine.batches import BatchOrder, collate
from worker.engine.carrying import Share
from worker.engine.checkpoint import TrainingState, read_checkpoint, write_checkpoint
from worker.engine.errors import ContextOverflowError, DivergedError, InvalidRecipeError, OutOfMemoryError
from worker.engine.evaluate import evaluate
from worker.engine.events import Checkpointed, Diverged, Evaluated, Event, Finished, Looked, Started, StepMetrics
from worker.engine.example import Example
from worker.engine.prompt_tuning import load_bank
from worker.engine.recipe import Recipe
from worker.engine.reparameterisation import parameterise
from worker.engine.schedule import rate_factor
from worker.engine.train import Control, train

RECIPE = Recipe(num_virtual_tokens=6, learning_rate=0.05, max_steps=12, batch_size=4, eval_every=4, seed=1)
INIT_IDS = (5, 90, 41, 230, 17, 301, 77, 12)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


def learnable_rows(count: int, seed: int = 0) -> list[Example]:
    """Rows whose target follows from the prompt's last token: learnable, and of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(count):
        prompt = torch.randint(10, 60, (3 + index % 5,), generator=generator).tolist()
        rows.append(Example(tuple(prompt), (300 + prompt[-1] % 3, 310, 0)))
    return rows


def events_of(base: LoadedBase, recipe: Recipe = RECIPE, **options) -> list[Event]:
    return list(train(base, learnable_rows(24), learnable_rows(8, seed=9), recipe, init_ids=INIT_IDS, **options))


def only(events: list[Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_training_lowers_the_loss_and_leaves_the_base_unchanged(tmp_path: Path, family: str, method) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base", family), device="cpu")
    before = weights_hash(base.model)
    events = events_of(base, replace(RECIPE, method=method, max_steps=40, eval_every=20))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "max_steps"
    assert finished.validation_loss_after < finished.validation_loss_before - 0.3
    assert weights_hash(base.model) == before


def test_events_come_in_their_order(base: LoadedBase) -> None:
    events = events_of(base)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert [event.step for event in only(events, StepMetrics)] == list(range(1, 13))
    assert [event.step for event in only(events, Evaluated)] == [0, 4, 8, 12]
    assert [event.step for event in only(events, Checkpointed)] == [4, 8, 12]
    assert events[0].num_parameters == 3 * 2 * 2 * 6 * 8
    assert events[0].num_base_parameters == sum(parameter.numel() for parameter in base.model.parameters())


def test_finished_prefix_has_the_loss_that_was_reported(base: LoadedBase) -> None:
    finished = events_of(base)[-1]
    bank = load_bank(base, [finished.prefix])
    assert evaluate(base, bank, learnable_rows(8, seed=9)).loss == pytest.approx(
        finished.validation_loss_after, abs=1e-6
    )
    assert evaluate(base, None, learnable_rows(8, seed=9)).loss == pytest.approx(finished.validation_loss_before)


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_every_look_gives_the_prefix_that_has_its_loss(base: LoadedBase, method) -> None:
    events = events_of(base, replace(RECIPE, method=method))
    looked, evaluated = only(events, Looked), only(events, Evaluated)
    assert [(event.step, event.validation_loss) for event in looked] == [
        (event.step, event.validation_loss) for event in evaluated
    ]
    for event in looked:
        bank = load_bank(base, [event.prefix])
        assert evaluate(base, bank, learnable_rows(8, seed=9)).loss == pytest.approx(event.validation_loss, abs=1e-6)
    best = next(event for event in looked if event.step == events[-1].best_step)
    assert (best.prefix.values == events[-1].prefix.values).all()


def test_looks_give_the_prefix_where_there_are_no_validation_rows_too(base: LoadedBase) -> None:
    looked = only(list(train(base, learnable_rows(24), [], RECIPE, init_ids=INIT_IDS)), Looked)
    assert [(event.step, event.validation_loss) for event in looked] == [(0, None), (4, None), (8, None), (12, None)]


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_resumed_training_equals_an_uninterrupted_one_bit_for_bit(base: LoadedBase, tmp_path: Path, method) -> None:
    recipe = replace(RECIPE, method=method)
    whole = events_of(base, recipe)
    state = checkpoint_at(train(base, learnable_rows(24), learnable_rows(8, seed=9), recipe, init_ids=INIT_IDS), 4)
    write_checkpoint(tmp_path / "state.safetensors", state)
    resumed = events_of(base, recipe, resume=read_checkpoint(tmp_path / "state.safetensors"))
    assert resumed[0].first_step == 4
    assert [event.step for event in only(resumed, StepMetrics)] == list(range(5, 13))
    assert (whole[-1].prefix.values == resumed[-1].prefix.values).all()
    assert [event.loss for event in only(whole, StepMetrics)][4:] == [
        event.loss for event in only(resumed, StepMetrics)
    ]


def test_checkpoint_between_evaluations_resumes_exactly_too(base: LoadedBase) -> None:
    control = Control()
    steps = train(base, learnable_rows(24), learnable_rows(8, seed=9), RECIPE, init_ids=INIT_IDS, control=control)
    for event in steps:
        if isinstance(event, StepMetrics) and event.step == 6:
            control.checkpoint_requested = True
        if isinstance(event, Checkpointed) and event.step == 6:
            break
    resumed = events_of(base, resume=event.state)
    assert (events_of(base)[-1].prefix.values == resumed[-1].prefix.values).all()


def checkpoint_at(events: Iterator[Event], step: int) -> TrainingState:
    return next(event.state for event in events if isinstance(event, Checkpointed) and event.step == step)


def test_checkpoint_of_another_recipe_is_refused(base: LoadedBase) -> None:
    state = checkpoint_at(train(base, learnable_rows(24), (), RECIPE, init_ids=INIT_IDS), 4)
    with pytest.raises(InvalidRecipeError, match="another recipe or of other rows"):
        events_of(base, replace(RECIPE, seed=2), resume=state)


def test_stop_and_keep_finishes_within_one_step(base: LoadedBase) -> None:
    control = Control()
    events = []
    for event in train(base, learnable_rows(24), learnable_rows(8, seed=9), RECIPE, init_ids=INIT_IDS, control=control):
        events.append(event)
        if isinstance(event, StepMetrics) and event.step == 5:
            control.stop_requested = True
    assert only(events, StepMetrics)[-1].step == 5
    assert events[-1].stopped_early
    assert events[-1].reason == "requested"
    best = min(only(events, Evaluated), key=lambda event: event.validation_loss)
    assert (events[-1].best_step, events[-1].validation_loss_after) == (best.step, best.validation_loss)


def test_training_without_validation_keeps_the_last_state(base: LoadedBase) -> None:
    events = list(train(base, learnable_rows(24), (), RECIPE, init_ids=INIT_IDS))
    assert only(events, Evaluated) == []
    assert events[-1].best_step == 12
    assert events[-1].validation_loss_after is None
    last = only(events, Checkpointed)[-1].state.best_numbers
    assert (events[-1].prefix.values == last[0].numpy()).all()


def test_training_ends_when_validation_no_longer_improves(base: LoadedBase) -> None:
    opposite = [Example(row.prompt_ids, (399, 398, 397)) for row in learnable_rows(8, seed=9)]
    recipe = replace(RECIPE, max_steps=60, eval_every=2, learning_rate=0.2)
    events = list(train(base, learnable_rows(24), opposite, recipe, init_ids=INIT_IDS))
    assert events[-1].reason == "no_improvement"
    assert events[-1].num_steps < 60
    assert not events[-1].stopped_early


def test_rows_longer_than_the_context_are_left_out_and_counted(base: LoadedBase) -> None:
    long_row = Example(tuple([20] * (CONTEXT_LENGTH - 8)), (1, 2, 3))
    fitting = Example(tuple([20] * (CONTEXT_LENGTH - 9)), (1, 2, 3))
    events = list(train(base, [long_row, fitting], [long_row], replace(RECIPE, max_steps=1), init_ids=INIT_IDS))
    assert (events[0].num_train, events[0].left_out, events[0].left_out_validation) == (1, 1, 1)
    with pytest.raises(ContextOverflowError, match="No training row fits into the model's context of 256 tokens"):
        list(train(base, [long_row], (), RECIPE, init_ids=INIT_IDS))


def test_unresolved_recipe_is_refused(base: LoadedBase) -> None:
    with pytest.raises(InvalidRecipeError, match="max_steps is not set"):
        events_of(base, replace(RECIPE, max_steps=None))


class FailingLoss:
    """Stands in for `update.target_nll`: not a number at chosen calls, out of memory above a number of rows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, nan_calls: tuple[int, ...] = (), max_rows: int = 10**9):
        self.real = update.target_nll
        self.nan_calls, self.max_rows = nan_calls, max_rows
        self.calls = 0
        self.rows: list[int] = []
        monkeypatch.setattr(update, "target_nll", self)

    def __call__(self, model, bank, batch, slots):
        self.calls += 1
        self.rows.append(len(batch.input_ids))
        if len(batch.input_ids) > self.max_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.real(model, bank, batch, slots) * (float("nan") if self.calls in self.nan_calls else 1.0)


def test_diverged_loss_goes_back_twice_each_time_with_a_lower_rate(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    FailingLoss(monkeypatch, nan_calls=(6, 13))
    events = events_of(base)
    assert only(events, Diverged) == [
        Diverged(step=6, resumed_step=4, learning_rate=pytest.approx(0.015)),
        Diverged(step=11, resumed_step=8, learning_rate=pytest.approx(0.0045)),
    ]
    assert [event.step for event in only(events, StepMetrics)] == [*range(1, 6), *range(5, 11), *range(9, 13)]
    assert torch.isfinite(torch.from_numpy(events[-1].prefix.values)).all()


def test_loss_that_diverges_a_third_time_ends_the_training(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    FailingLoss(monkeypatch, nan_calls=(6, 8, 9))
    with pytest.raises(DivergedError, match="stopped being a number at step 5, after going back 2 times"):
        events_of(base)


def test_out_of_memory_halves_the_micro_batch_with_the_same_result(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = events_of(base)[-1].prefix.values
    fake = FailingLoss(monkeypatch, max_rows=1)
    events = events_of(base)
    assert fake.rows[:3] == [4, 2, 1]
    assert set(fake.rows[3:]) == {1}
    assert only(events, Checkpointed)[-1].state.progress.micro_batch_size == 1
    torch.testing.assert_close(
        torch.from_numpy(events[-1].prefix.values), torch.from_numpy(expected), atol=1e-3, rtol=0
    )


def test_too_little_memory_for_one_row_is_said_plainly(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    FailingLoss(monkeypatch, max_rows=0)
    with pytest.raises(OutOfMemoryError, match="too little memory to train with even one row at a time"):
        events_of(base)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_checkpointed_activations_give_the_same_gradient(tmp_path: Path, family: str, method) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base", family), device="cpu")
    gradients = []
    for is_checkpointing in (False, True):
        recipe = replace(RECIPE, method=method)
        trained = parameterise(base, recipe, INIT_IDS)
        updater = update.Updater(base)
        updater.is_checkpointing = is_checkpointing
        updater.accumulate([Share(method, trained, learnable_rows(4))])
        gradients.append([tensor.grad for group in trained.groups() for tensor in group.tensors])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_is_the_models_own_over_the_targets(tmp_path: Path, family: str) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base", family), device="cpu")
    base.model.config.final_logit_softcapping = 2.0 if family == "gemma3_text" else None
    rows = learnable_rows(5)
    losses = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.target_ids])
        labels = ids.clone()
        labels[:, : len(row.prompt_ids)] = -100
        with torch.no_grad():
            losses.append(float(base.model(ids, labels=labels).loss) * len(row.target_ids))
    expected = sum(losses) / sum(len(row.target_ids) for row in rows)
    assert evaluate(base, None, rows).loss == pytest.approx(expected, abs=1e-5)


def test_order_sees_every_row_once_an_epoch_in_batches_of_like_length() -> None:
    lengths = [3 + (index * 7) % 50 for index in range(103)]
    order = BatchOrder(lengths, 8, seed=4)
    first = [order.rows_of(step) for step in range(13)]
    assert sorted(row for batch in first for row in batch) == list(range(103))
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in first]
    assert sum(spread) / len(spread) < 8
    assert [order.rows_of(step) for step in range(13, 26)] != first
    assert [BatchOrder(lengths, 8, seed=4).rows_of(step) for step in range(13)] == first
    assert BatchOrder(lengths, 8, seed=5).rows_of(0) != first[0]


def test_batch_names_the_places_before_each_target() -> None:
    batch = collate([Example((1, 2, 3), (4, 5)), Example((6,), (7,))])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert list(zip(batch.rows.tolist(), batch.columns.tolist(), batch.labels.tolist(), strict=True)) == [
        (0, 2, 4),
        (0, 3, 5),
        (1, 0, 7),
    ]
    assert batch.num_tokens == 7


def test_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    factors = [rate_factor(step, 100, 0.1) for step in range(100)]
    assert 0 < factors[0] < factors[5] < factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001
    assert rate_factor(0, 1, 0.0) == 1.0
