"""Loss on held-out rows: the same whatever the batches, and plain about rows that do not fit."""

from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_base_folder
from worker.engine import evaluate as module
from worker.engine.bank import PrefixBank
from worker.engine.base import LoadedBase, load_base
from worker.engine.errors import ContextOverflowError, OutOfMemoryError
from worker.engine.evaluate import evaluate, token_batches
from worker.engine.example import Example
from worker.engine.initialise import text_kv

ROWS = [Example(tuple(range(5, 8 + index % 4)), (60 + index, 0)) for index in range(10)]
INSTRUCTION = (11, 12, 13, 14)


@pytest.fixture
def base(tmp_path: Path) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path / "base"), device="cpu")


def test_loss_does_not_depend_on_the_batches(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(base, None, ROWS)
    monkeypatch.setattr(module, "MAX_BATCH_TOKENS", 8)
    assert evaluate(base, None, ROWS).loss == pytest.approx(whole.loss, abs=1e-6)
    assert (whole.num_rows, whole.left_out) == (10, 0)


def test_prefix_of_an_instruction_scores_as_the_instruction_in_front(base: LoadedBase) -> None:
    instructed = [Example(INSTRUCTION + row.prompt_ids, row.target_ids) for row in ROWS]
    bank = PrefixBank(text_kv(base, INSTRUCTION).unsqueeze(0))
    assert evaluate(base, bank, ROWS).loss == pytest.approx(evaluate(base, None, instructed).loss, abs=1e-5)


def test_rows_beyond_the_context_are_counted_or_refused(base: LoadedBase) -> None:
    too_long = Example((1,) * 256, (2,))
    assert evaluate(base, None, [*ROWS, too_long]).left_out == 1
    with pytest.raises(ContextOverflowError, match="None of the 1 validation rows fits"):
        evaluate(base, None, [too_long])


def test_batches_stay_within_their_tokens() -> None:
    batches = list(token_batches(ROWS, 24))
    assert sum(len(batch) for batch in batches) == 10
    assert all(len(batch) * max(len(row) for row in batch) <= 24 for batch in batches)
    assert [len(batch) for batch in token_batches(ROWS[:2], 1)] == [1, 1]


def test_out_of_memory_is_met_with_smaller_batches(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = evaluate(base, None, ROWS).loss
    real, max_rows = module.target_loss, 2

    def scarce(model, bank, batch):
        if len(batch.input_ids) > max_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, bank, batch)

    monkeypatch.setattr(module, "target_loss", scarce)
    monkeypatch.setattr(module, "MAX_BATCH_TOKENS", 64)
    assert evaluate(base, None, ROWS).loss == pytest.approx(expected, abs=1e-6)
    max_rows = 0
    with pytest.raises(OutOfMemoryError, match="too little memory to evaluate even one row"):
        evaluate(base, None, ROWS)
