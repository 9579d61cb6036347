"""The estimate of memory, and the badge that follows from it."""

import pytest

from worker.engine.families import Geometry
from worker.engine.memory import (
    Workload,
    available_memory,
    estimate_serving_bytes,
    estimate_training_bytes,
    fit,
    row_tokens_of,
    workload_of,
)
from worker.engine.recipe import Recipe

SMALL = Geometry(12, 3, 64, 576, 49152, 2048, False, 9, 1536)
SMALL_PARAMETERS = 70_799_040
GPT2 = Geometry(6, 12, 64, 768, 50257, 1024, True, 12, 3072)
GPT2_PARAMETERS = 81_912_576

MEASURED = [
    (SMALL, SMALL_PARAMETERS, Workload(32, 8, 128, 64), "float32", 1680),
    (SMALL, SMALL_PARAMETERS, Workload(32, 2, 128, 16), "float32", 804),
    (SMALL, SMALL_PARAMETERS, Workload(64, 16, 128, 16), "float32", 2227),
    (SMALL, SMALL_PARAMETERS, Workload(32, 8, 128, 64), "bfloat16", 1429),
    (SMALL, SMALL_PARAMETERS, Workload(64, 2, 512, 32), "float32", 1368),
    (GPT2, GPT2_PARAMETERS, Workload(32, 8, 128, 64), "float32", 1776),
]
"""Peak resident MiB of a training with plain transformers on the CPU."""


@pytest.mark.parametrize(("geometry", "num_parameters", "workload", "dtype", "peak_mib"), MEASURED)
def test_training_estimate_stays_near_the_measured_peak(geometry, num_parameters, workload, dtype, peak_mib):
    estimate_mib = estimate_training_bytes(geometry, num_parameters, workload, dtype=dtype) / 2**20
    assert 0.95 < estimate_mib / peak_mib < 1.4


def test_training_estimate_grows_with_everything_that_is_held():
    least = estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload())
    for larger in (Workload(64), Workload(row_tokens=256, target_tokens=128), Workload(num_slots=8)):
        assert estimate_training_bytes(SMALL, SMALL_PARAMETERS, larger) > least
    assert estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload(batch_size=8)) < least
    assert estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload(), dtype="bfloat16") < least


def test_rows_that_are_computed_in_parts_take_the_memory_of_one_part():
    two, many = (
        estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload(batch_size=size, row_tokens=1024)) for size in (2, 64)
    )
    assert many == two
    one = estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload(batch_size=64, row_tokens=4096))
    assert one > two


def test_a_huge_vocabulary_never_stands_whole():
    huge = Geometry(12, 3, 64, 576, 5_000_000, 2048, False, 9, 1536)
    few, many = (
        estimate_training_bytes(huge, SMALL_PARAMETERS, Workload(batch_size=4, target_tokens=count))
        for count in (100, 120)
    )
    assert few == many


def test_quantised_weights_take_fewer_bytes_and_the_tables_of_the_vocabulary_stay_whole():
    large = Geometry(32, 8, 128, 4096, 128256, 8192, False, 32, 14336)
    bf16, int8, int4 = (
        estimate_serving_bytes(large, 8_030_000_000, dtype="bfloat16", precision=precision)
        for precision in ("auto", "int8", "int4")
    )
    in_layers = 8_030_000_000 - 2 * 128256 * 4096
    assert bf16 - int8 == in_layers
    assert int8 - int4 == pytest.approx(in_layers * 3.5 / 8, rel=1e-6)
    trained = estimate_training_bytes(large, 8_030_000_000, Workload(batch_size=4), dtype="bfloat16", precision="int4")
    assert trained < 16e9


def test_encoder_decoder_counts_the_layers_of_both_and_three_prefixes():
    t5 = Geometry(6, 8, 64, 512, 32128, 512, False, 8, 2048, num_encoder_layers=6)
    decoder = Geometry(6, 8, 64, 512, 32128, 512, False, 8, 2048)
    assert estimate_training_bytes(t5, 60_000_000, Workload()) > estimate_training_bytes(
        decoder, 60_000_000, Workload()
    )
    assert t5.prefix_parameters("prefix-tuning", 1) == 3 * decoder.prefix_parameters("prefix-tuning", 1)


def test_serving_needs_less_than_training():
    training = estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload())
    assert SMALL_PARAMETERS * 4 < estimate_serving_bytes(SMALL, SMALL_PARAMETERS) < training


@pytest.mark.parametrize(("estimate", "badge"), [(80, "fits"), (81, "tight"), (100, "tight"), (101, "will not fit")])
def test_badge_follows_the_share_of_free_memory(estimate, badge):
    assert fit(estimate, 100) == badge


def test_available_memory_is_that_of_the_accelerator_where_there_is_one():
    assert available_memory(7_000_000_000) == 7_000_000_000


def test_available_memory_heeds_the_limit_of_a_container(tmp_path):
    without_limit = available_memory(cgroup=tmp_path)
    assert without_limit > 0
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert available_memory(cgroup=tmp_path) == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(cgroup=tmp_path) > 3_000_000


def test_network_whose_output_is_the_prefix_takes_its_own_memory():
    direct, network = (
        estimate_training_bytes(SMALL, SMALL_PARAMETERS, Workload(64, 4, 128, 64, 4, is_network))
        for is_network in (False, True)
    )
    trained = 64 * 256 + 257 * 512 + 513 * 2 * SMALL.num_attentions * 3 * 64
    of_prefix = 64 * 2 * SMALL.num_attentions * 3 * 64
    assert network - direct == pytest.approx(1.15 * 4 * 4 * 4 * (trained - of_prefix), rel=1e-3)


def test_widths_of_the_network_are_those_that_are_built():
    from worker.engine import mlp
    from worker.engine.memory import MLP_WIDTHS

    assert MLP_WIDTHS == (mlp.MLP_INPUT_WIDTH, mlp.MLP_HIDDEN_WIDTH)


def test_workload_counts_what_a_recipe_makes_of_a_step():
    recipe = Recipe(num_virtual_tokens=8, batch_size=4, sweep=(0.1, 0.2), reparameterisation="mlp")
    workload = workload_of(recipe, SMALL, row_tokens_of(size_bytes=40_000, num_rows=100))
    assert (workload.row_tokens, workload.num_slots, workload.is_network) == (100, 2, True)
    assert workload.pass_tokens == 2 * 4 * 100
