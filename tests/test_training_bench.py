"""The parts of the training benchmark that its figures hang on."""

import statistics

import pytest
import torch

from bench.training import peft_trainer
from bench.training.contest import Entrant, Speeds
from bench.training.limit import flops_per_token
from bench.training.peft_trainer import IGNORED, check_installed, pad
from bench.training.rows import E2E_PROMPTS, E2E_TARGETS, make_rows
from bench.training.shapes import SHAPES, build_model
from tests.tiny import VOCAB_SIZE, tiny_model

OURS, PEER = Entrant("ours", "bfloat16"), Entrant("peft", "float32")


def test_rows_have_the_lengths_of_the_task_and_are_the_same_for_the_same_seed() -> None:
    rows = make_rows("e2e", VOCAB_SIZE, seed=1)
    assert rows == make_rows("e2e", VOCAB_SIZE, seed=1)
    assert rows != make_rows("e2e", VOCAB_SIZE, seed=2)
    prompts, targets = [len(row.prompt_ids) for row in rows], [len(row.target_ids) for row in rows]
    assert statistics.mean(prompts) == pytest.approx(55, abs=3)
    assert statistics.mean(targets) == pytest.approx(35, abs=3)
    assert min(prompts) >= E2E_PROMPTS[0]
    assert max(prompts) <= E2E_PROMPTS[-1]
    assert max(targets) <= E2E_TARGETS[-1]
    assert statistics.correlation(prompts, targets) > 0.5
    assert all(0 < token < VOCAB_SIZE for row in rows for token in row.prompt_ids)


def test_long_rows_have_exactly_1024_tokens() -> None:
    assert {len(row) for row in make_rows("rows of 1,024", VOCAB_SIZE, seed=0, count=3)} == {1024}


def test_the_peer_pads_to_the_longest_row_and_learns_targets_alone() -> None:
    batch = pad(
        [
            {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [IGNORED, 6, 7]},
            {"input_ids": [8], "attention_mask": [1], "labels": [8]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]


def test_speed_is_the_median_of_paired_ratios_and_not_the_ratio_of_medians() -> None:
    speeds = Speeds(runs={OURS: [10.0, 40.0, 90.0], PEER: [5.0, 10.0, 45.0]})
    assert speeds.ratio(OURS, PEER) == 2.0
    assert speeds.median(OURS) / speeds.median(PEER) == 4.0


def test_share_of_limit_counts_weights_and_targets_alone() -> None:
    model = tiny_model("llama").requires_grad_(False)
    rows = make_rows("rows of 1,024", VOCAB_SIZE, seed=0, count=1)
    head = model.lm_head.weight.numel()
    body = sum(parameter.numel() for parameter in model.parameters()) - head
    assert flops_per_token(model, rows) == 4 * (body + head / 2)
    facts = {OURS: {"flops_per_token": {"e2e": 100.0}, "matrix_rate": 4000.0}}
    assert Speeds(facts, {OURS: [20.0]}).share_of_limit(OURS, "e2e") == 0.5


def test_the_135m_shape_has_135_million_parameters() -> None:
    with torch.device("meta"):
        model = build_model(SHAPES["135m"], torch.bfloat16)
    assert model.num_parameters() == 134_515_008


def test_a_missing_peer_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_trainer, "find_spec", lambda name: None if name == "accelerate" else object())
    with pytest.raises(SystemExit, match=r"needs accelerate, .* pip install -e"):
        check_installed()
