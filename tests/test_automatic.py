"""What a recipe leaves open is chosen from task and base; what a person chose stays."""

from dataclasses import fields

import pytest

from worker.engine.automatic import resolve
from worker.engine.families import Geometry
from worker.engine.recipe import Recipe

GEOMETRY = Geometry(num_layers=6, num_kv_heads=2, head_dim=32, hidden_size=192, vocab_size=4096, context_length=1024)


def resolved(recipe: Recipe | None = None, **changes) -> Recipe:
    facts = {
        "num_train": 1000,
        "instruction_tokens": 12,
        "geometry": GEOMETRY,
        "num_base_parameters": 3_148_224,
        "on_gpu": False,
    }
    return resolve(recipe or Recipe(), **{**facts, **changes})


def test_every_field_is_set() -> None:
    recipe = resolved()
    assert all(getattr(recipe, field.name) is not None for field in fields(Recipe))


def test_chosen_fields_stay() -> None:
    chosen = Recipe(
        num_virtual_tokens=7,
        reparameterisation="mlp",
        learning_rate=0.5,
        key_rate_factor=0.0,
        sweep_steps=4,
        max_steps=33,
        batch_size=3,
        weight_decay=0.2,
        eval_every=2,
        average_decay=0.0,
        token_dropout=0.0,
    )
    assert resolved(chosen) == chosen


def test_rates_are_compared_where_the_right_one_is_not_known() -> None:
    large = resolved(num_base_parameters=10**9)
    assert large.learning_rate == 0.02
    assert large.sweep == (0.01, 0.02, 0.04)
    assert large.sweep_steps == 0.1 * large.max_steps
    assert resolved(Recipe(learning_rate=0.01), num_base_parameters=10**9).sweep == ()
    assert resolved(Recipe(reparameterisation="muon")).sweep == (0.04, 0.08, 0.16)
    assert resolved(Recipe(sweep=(0.1, 0.2))).sweep == (0.1, 0.2)


def test_a_known_rate_is_trained_alone_and_for_longer() -> None:
    alone, compared = resolved(num_train=100), resolved(Recipe(reparameterisation="muon"), num_train=100)
    assert (alone.learning_rate, alone.sweep) == (0.05, ())
    assert alone.max_steps > compared.max_steps


def test_a_prefix_grows_from_input_vectors_where_it_can() -> None:
    encoder = Geometry(**{**GEOMETRY.__dict__, "num_encoder_layers": 6})
    assert resolved().reparameterisation == "propagated"
    assert resolved(Recipe(method="prompt-tuning")).reparameterisation == "muon"
    assert resolved(geometry=encoder).reparameterisation == "muon"


def test_keys_move_slower_than_values_under_muon() -> None:
    assert resolved().key_rate_factor == resolved(Recipe(reparameterisation="muon")).key_rate_factor == 0.3
    assert resolved(Recipe(reparameterisation="direct")).key_rate_factor == 1.0


def test_only_what_grows_from_input_vectors_is_pulled_towards_its_start() -> None:
    assert resolved().weight_decay == 0.1
    assert resolved(Recipe(reparameterisation="muon")).weight_decay == 0.0
    assert resolved(Recipe(weight_decay=0.0)).weight_decay == 0.0


def test_filling_in_twice_changes_nothing() -> None:
    assert resolved(resolved()) == resolved()


@pytest.mark.parametrize(
    ("num_parameters", "rate"),
    [(100_000, 0.1), (3_000_000, 0.1), (100_000_000, 0.01), (10**9, 0.005), (7 * 10**9, 0.005)],
)
def test_rate_of_adamw_falls_with_the_size_of_the_base(num_parameters: int, rate: float) -> None:
    direct = resolved(Recipe(reparameterisation="direct"), num_base_parameters=num_parameters)
    assert direct.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(("num_parameters", "rate"), [(10**6, 0.08), (10**8, 0.049), (7 * 10**9, 0.03)])
def test_rate_of_muon_falls_less(num_parameters: int, rate: float) -> None:
    muon = resolved(Recipe(reparameterisation="muon"), num_base_parameters=num_parameters)
    assert muon.learning_rate == pytest.approx(rate)


def test_input_vectors_take_larger_steps_than_keys_and_values() -> None:
    assert resolved(Recipe(method="prompt-tuning")).sweep == (0.1, 0.2, 0.4)
    direct = Recipe(method="prompt-tuning", reparameterisation="direct")
    assert resolved(direct).learning_rate == resolved(Recipe(reparameterisation="direct")).learning_rate


def test_long_instruction_gets_a_longer_prefix_within_a_quarter_of_the_context() -> None:
    assert resolved().num_virtual_tokens == 64
    assert resolved(instruction_tokens=60).num_virtual_tokens == 120
    assert resolved(instruction_tokens=5000).num_virtual_tokens == 256
    short = Geometry(**{**GEOMETRY.__dict__, "context_length": 128})
    assert resolved(geometry=short).num_virtual_tokens == 32


def test_few_rows_get_small_batches_and_enough_steps() -> None:
    few = resolved(num_train=20)
    assert (few.batch_size, few.max_steps, few.eval_every) == (5, 440, 27)
    many = resolved(num_train=100_000)
    assert (many.batch_size, many.max_steps) == (16, 600)
    assert resolved(num_train=1).batch_size == 1
