"""Several trainings in one pass: each equals what it is alone, ends when it is done, and fails by itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine import update
from worker.engine.base import LoadedBase, load_base, weights_hash
from worker.engine.batches import SlotRow, micro_batches
from worker.engine.errors import ContextOverflowError, DivergedError
from worker.engine.events import Checkpointed, Diverged, Event, Failed, Finished, Started, StepMetrics
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.train import Control, train, train_together
from worker.engine.training import Training

RECIPE = Recipe(num_virtual_tokens=6, learning_rate=0.02, max_steps=20, batch_size=4, eval_every=10, seed=1)
INIT_IDS = (5, 90, 41, 230, 17, 301, 77, 12)
RECIPES = (
    RECIPE,
    replace(RECIPE, learning_rate=0.005, seed=2, num_virtual_tokens=9, batch_size=3),
    replace(RECIPE, learning_rate=0.01, seed=3, num_virtual_tokens=2, method="prompt-tuning"),
    replace(RECIPE, learning_rate=0.03, seed=4, init="random", weight_decay=0.1, max_grad_norm=0.1),
    replace(RECIPE, learning_rate=0.02, seed=5, key_rate_factor=0.5, warmup_fraction=0.5, max_steps=24),
    replace(RECIPE, seed=6, method="prefix-tuning-plus", reparameterisation="propagated", token_dropout=0.2),
)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


def rows(count: int, seed: int) -> list[Example]:
    """Rows whose target follows from the prompt's last token, of lengths that differ with the seed too."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        prompt = torch.randint(10, 60, (3 + seed + index % 7,), generator=generator).tolist()
        made.append(Example(tuple(prompt), (300 + prompt[-1] % 3, 310, 0)[index % 2 :]))
    return made


def trainings() -> list[Training]:
    return [
        Training(rows(20 + 3 * index, seed=index), rows(6, seed=90 + index), recipe, INIT_IDS)
        for index, recipe in enumerate(RECIPES)
    ]


def alone(base: LoadedBase, training: Training, **options) -> list[Event]:
    return list(
        train(
            base,
            training.train_examples,
            training.validation_examples,
            training.recipe,
            init_ids=training.init_ids,
            **options,
        )
    )


def together(base: LoadedBase, wanted: list[Training], **options) -> list[list[Event]]:
    events: list[list[Event]] = [[] for _ in wanted]
    for index, event in train_together(base, wanted, **options):
        events[index].append(event)
    return events


def state_at(events: list[Event], step: int):
    return next(event.state for event in events if isinstance(event, Checkpointed) and event.step == step)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_each_slot_equals_its_own_training_after_20_steps(tmp_path: Path, family: str) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base", family), device="cpu")
    before = weights_hash(base.model)
    wanted = trainings()
    for training, events in zip(wanted, together(base, wanted), strict=True):
        expected = alone(base, training)
        mine, its = state_at(events, 20), state_at(expected, 20)
        for name, tensor in its.tensors.items():
            if "parameters" in name or "best" in name:
                torch.testing.assert_close(mine.tensors[name], tensor, atol=1e-4, rtol=0)
        losses = [event.loss for event in events if isinstance(event, StepMetrics)]
        assert losses == pytest.approx([event.loss for event in expected if isinstance(event, StepMetrics)], abs=1e-4)
    assert weights_hash(base.model) == before


def test_slots_end_at_different_times_and_leave_the_pass(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    real = update.Updater.accumulate
    monkeypatch.setattr(
        update.Updater, "accumulate", lambda self, shares: passes.append(len(shares)) or real(self, shares)
    )
    control = Control()
    wanted = [replace(training, recipe=replace(training.recipe, max_steps=10 + 5 * index))
              for index, training in enumerate(trainings()[:3])]  # fmt: skip
    events: list[list[Event]] = [[], [], []]
    for index, event in train_together(base, wanted, controls=[Control(), control, Control()]):
        events[index].append(event)
        control.stop_requested = isinstance(event, StepMetrics) and event.step == 5
    assert all(isinstance(of_one[0], Started) and isinstance(of_one[-1], Finished) for of_one in events)
    assert [of_one[-1].num_steps for of_one in events] == [10, 5, 20]
    assert [of_one[-1].reason for of_one in events] == ["max_steps", "requested", "max_steps"]
    assert passes == [3] * 5 + [2] * 5 + [1] * 10


def test_one_training_that_diverges_leaves_the_others_alone(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = trainings()[:2]
    expected = alone(base, wanted[0])[-1]
    real = update.target_nll

    def of_slot_one_is_no_number(model, bank, batch, slots):
        factors = torch.tensor([1.0, float("nan")])[torch.tensor(slots)[batch.rows]]
        return real(model, bank, batch, slots) * factors

    monkeypatch.setattr(update, "target_nll", of_slot_one_is_no_number)
    first, second = together(base, wanted)
    assert sum(isinstance(event, Diverged) for event in second) == 2
    assert isinstance(second[-1], Failed)
    assert isinstance(second[-1].error, DivergedError)
    difference = torch.from_numpy(first[-1].prefix.values) - torch.from_numpy(expected.prefix.values)
    assert difference.abs().max() < 1e-4


def test_training_that_cannot_begin_leaves_the_others_alone(base: LoadedBase) -> None:
    good, other = trainings()[:2]
    too_long = replace(other, train_examples=[Example((20,) * 300, (1, 0))])
    first, second = together(base, [too_long, good])
    assert len(first) == 1
    assert isinstance(first[0].error, ContextOverflowError)
    assert isinstance(second[-1], Finished)


def test_memory_that_runs_out_halves_the_micro_batch_of_all(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [replace(training, recipe=replace(training.recipe, max_steps=3)) for training in trainings()[:3]]
    expected = [events[-1].prefix.values for events in together(base, wanted)]
    real, sizes = update.target_nll, []

    def scarce(model, bank, batch, slots):
        sizes.append(len(slots))
        if len(slots) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, bank, batch, slots)

    monkeypatch.setattr(update, "target_nll", scarce)
    events = together(base, wanted)
    assert sizes[1:3] == [sizes[0] // 2, sizes[0] // 4]
    for got, wanted_values in zip(events, expected, strict=True):
        values = torch.from_numpy(got[-1].prefix.values)
        torch.testing.assert_close(values, torch.from_numpy(wanted_values), atol=1e-3, rtol=0)


def test_one_of_several_trainings_goes_on_from_its_own_checkpoint(base: LoadedBase) -> None:
    wanted = trainings()[:2]
    whole = together(base, wanted)
    resumed = together(base, wanted, resume=[state_at(whole[0], 10), None])
    assert resumed[0][0].first_step == 10
    for before, after in zip(whole, resumed, strict=True):
        values = torch.from_numpy(after[-1].prefix.values)
        torch.testing.assert_close(values, torch.from_numpy(before[-1].prefix.values), atol=1e-4, rtol=0)


def test_micro_batches_hold_rows_of_like_length_within_their_limits() -> None:
    lengths = [5, 40, 6, 38, 7, 41, 5, 90]
    pooled = [SlotRow(index % 3, Example((1,) * (length - 1), (2,))) for index, length in enumerate(lengths)]
    parts = micro_batches(pooled, max_rows=3, max_tokens=85)
    assert [sorted(len(row.example) for row in part) for part in parts] == [[5, 5, 6], [7, 38], [40, 41], [90]]
    assert all(part == sorted(part, key=lambda row: row.slot) for part in parts)
    assert sum(len(part) for part in parts) == len(pooled)


def test_training_that_is_asked_to_leave_says_nothing_more_and_the_others_go_on(base: LoadedBase) -> None:
    wanted = trainings()[:3]
    expected = alone(base, wanted[1])[-1]
    controls = [Control(), Control(), Control()]
    events: list[list[Event]] = [[], [], []]
    for index, event in train_together(base, wanted, controls=controls):
        events[index].append(event)
        # The second evaluation is due after this very step.
        controls[0].leave_requested |= isinstance(event, StepMetrics) and index == 0 and event.step == 10
        controls[2].leave_requested |= isinstance(event, StepMetrics) and index == 0 and event.step == 4
    assert isinstance(events[0][-1], StepMetrics)
    assert [event.step for event in events[2] if isinstance(event, StepMetrics)] == [1, 2, 3]
    values = torch.from_numpy(events[1][-1].prefix.values)
    torch.testing.assert_close(values, torch.from_numpy(expected.prefix.values), atol=1e-4, rtol=0)


def test_training_may_leave_before_its_first_step(base: LoadedBase) -> None:
    control = Control(leave_requested=True)
    events = list(train_together(base, trainings()[:1], controls=[control]))
    assert events == []
