"""Hidden virtual tokens: which ones, when it begins, and that a resumed training goes on exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine.base import LoadedBase, load_base
from worker.engine.carrying import Share
from worker.engine.events import Checkpointed
from worker.engine.example import Example
from worker.engine.recipe import Recipe
from worker.engine.run import Run
from worker.engine.token_dropout import shown_tokens
from worker.engine.train import train
from worker.engine.training import Training
from worker.engine.update import Updater

TEXT = (5, 90, 41, 230)
TRAIN = [Example((7, 8, 9 + index), (300, 0)) for index in range(4)]
OTHER = [Example((20, 21, 22), (77, 78, 0))]
RECIPE = Recipe(num_virtual_tokens=4, learning_rate=0.05, max_steps=12, batch_size=2, eval_every=2, token_dropout=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("base") / "tiny"), device="cpu")


def test_hidden_tokens_follow_from_seed_and_step_alone() -> None:
    first, again, later = (shown_tokens(0.3, 64, seed=3, step=step) for step in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    mean = sum(len(shown_tokens(0.3, 64, 0, step)) for step in range(100)) / 100
    assert mean == pytest.approx(0.7 * 64, rel=0.05)


def test_a_token_is_always_shown() -> None:
    assert shown_tokens(0.0, 8, seed=0, step=0) is None
    assert all((shown := shown_tokens(0.9, 1, 0, step)) is None or len(shown) for step in range(50))


def test_hidden_tokens_get_no_gradient(base: LoadedBase) -> None:
    run = Run(Updater(base), Training(TRAIN, OTHER, replace(RECIPE, reparameterisation="direct"), TEXT))
    trained = run.slots[0].parameterisation
    shown = torch.tensor([0, 2])
    run.updater.accumulate([Share("prefix-tuning", trained, TRAIN, shown)])
    values = trained.groups()[1].tensors[0].grad
    assert values[..., shown, :].abs().sum() > 0
    assert values[..., [1, 3], :].abs().sum() == 0


def hiding_run(base: LoadedBase, validation: list[Example], recipe: Recipe = RECIPE) -> Run:
    run = Run(Updater(base), Training(TRAIN, validation, recipe, TEXT))
    for _ in range(12):
        shares = run.shares()
        list(run.advance(shares, run.updater.accumulate(shares), 1.0))
        if run.is_due:
            list(run.look())
    return run


def test_hiding_begins_once_rows_are_known_by_heart(base: LoadedBase) -> None:
    assert hiding_run(base, OTHER).slots[0].is_hiding
    assert not hiding_run(base, TRAIN).slots[0].is_hiding
    assert not hiding_run(base, OTHER, replace(RECIPE, token_dropout=0.0)).slots[0].is_hiding


def test_resumed_training_hides_the_same_tokens(base: LoadedBase) -> None:
    recipe = replace(RECIPE, max_steps=16)
    events = list(train(base, TRAIN, OTHER, recipe, init_ids=TEXT))
    kept = [event for event in events if isinstance(event, Checkpointed)][3]
    resumed = list(train(base, TRAIN, OTHER, recipe, init_ids=TEXT, resume=kept.state))
    assert kept.state.progress.slots[0].is_hiding
    assert np.array_equal(resumed[-1].prefix.values, events[-1].prefix.values)


def test_a_look_computes_the_prefix_once_and_anew_after_a_step(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Updater(base), Training(TRAIN, OTHER, RECIPE, TEXT))
    slot, asked = run.slots[0], []
    compute, before = slot.parameterisation.numbers, slot.numbers()
    shares = run.shares()
    list(run.advance(shares, run.updater.accumulate(shares), 1.0))
    monkeypatch.setattr(slot.parameterisation, "numbers", lambda: asked.append(1) or compute())

    list(run.look())
    assert len(asked) == 1
    assert not torch.equal(slot.numbers(), before)
    with slot.average.in_place():
        assert torch.equal(slot.numbers(), compute())
