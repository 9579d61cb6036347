"""Rows that join and leave one running batch at any step: each gets what it gets alone."""

import random
from pathlib import Path

import pytest
import torch

from tests.tiny import FAMILIES, tiny_base_folder
from tests.tiny_seq2seq import tiny_seq2seq_folder
from worker.engine import step_attention
from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix
from worker.engine.base import LoadedBase, load_base
from worker.engine.generate import GenerationRow, TokenEvent, stream
from worker.engine.running_batch import RunningBatch, WritingRow

PROMPTS = ("The waiter brought a bowl of", "Is", "name: Blue Spice, food: Italian, area: riverside")
LENGTHS = (5, 3, 8)


@pytest.fixture(scope="module", params=[*FAMILIES, "t5", "bart"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = tmp_path_factory.mktemp("base")
    build = tiny_base_folder if request.param in FAMILIES else tiny_seq2seq_folder
    return load_base(build(folder, request.param), device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return load_base(tiny_base_folder(tmp_path_factory.mktemp("llama"), "llama"), device="cpu")


def bank_of(base: LoadedBase) -> PrefixBank:
    """Prefixes of three lengths; that of a decoder's last slot stands outside the softmax too."""
    measured = base.geometry
    generator = torch.Generator().manual_seed(2)
    shapes = [(measured.num_attentions, 2, measured.num_kv_heads, length, measured.head_dim) for length in LENGTHS]
    prefixes = [SlotPrefix(torch.randn(shape, generator=generator)) for shape in shapes]
    if not measured.has_encoder:
        outside = 0.5 * torch.randn(prefixes[-1].kv.shape, generator=generator)
        prefixes[-1] = SlotPrefix(prefixes[-1].kv, outside)
    return PrefixBank.stack(prefixes)


def row_of(base: LoadedBase, number: int, **settings: object) -> GenerationRow:
    """Rows of all kinds: with each prefix and without, greedy and drawn, short and long, of several strengths."""
    kinds: dict[str, object] = {
        "slot": (number % 4) - 1,
        "max_new_tokens": 4 + 3 * (number % 5),
        "temperature": (0.0, 0.9, 1.3)[number % 3],
        "top_p": (1.0, 0.8)[number % 2],
        "seed": number,
        "strength": (1.0, 1.0, 0.4)[number % 3],
    }
    ids = tuple(base.tokenizer(PROMPTS[number % len(PROMPTS)]).input_ids)
    return GenerationRow(ids, **{**kinds, **settings})  # type: ignore[arg-type]


def alone(base: LoadedBase, bank: PrefixBank, row: GenerationRow) -> tuple[list[TokenEvent], torch.Tensor]:
    first: list[torch.Tensor] = []
    events = [step[0] for step in stream(base, bank, [row], observe_first=first.append)]
    return events, first[0][0]


def join(batch: RunningBatch, bank: PrefixBank, row: GenerationRow) -> WritingRow:
    return batch.join(row, bank.prefix(row.slot))


def test_rows_that_come_and_go_at_any_step_equal_themselves_alone(base: LoadedBase) -> None:
    come_and_go(base)


def test_rows_attended_to_by_products_equal_themselves_alone(
    llama: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In use it is for bfloat16 and many keys; here it meets rows and masks of all kinds, in fp32.
    monkeypatch.setattr(step_attention, "answers_by_products", lambda query, key: len(query) > 1)
    come_and_go(llama)


def come_and_go(base: LoadedBase) -> None:
    bank, batch, dice = bank_of(base), RunningBatch(base), random.Random(5)
    waiting = [row_of(base, number) for number in range(14)]
    told: dict[WritingRow, list[TokenEvent]] = {}
    ended: list[WritingRow] = []
    sent_off = 0
    while waiting or batch.num_rows:
        for _ in range(min(len(waiting), dice.choice((0, 1, 3)) or (not batch.num_rows))):
            told[join(batch, bank, waiting.pop())] = []
        for writing, event in batch.step(dice.choice((1, 4, 20))):
            told[writing].append(event)
            if event.finish_reason is not None:
                batch.leave(writing)
                ended.append(writing)
        leaver = dice.choice([*told])
        if leaver not in ended and dice.random() < 0.15:
            batch.leave(leaver)
            ended.append(leaver)
            sent_off += 1
    assert sent_off > 0, "nobody left before the end, so that the test shows less than it says"
    for writing, events in told.items():
        expected, first_logits = alone(base, bank, writing.row)
        assert [event.token_id for event in events] == [event.token_id for event in expected][: len(events)]
        if writing.first_logits is not None:
            assert (writing.first_logits - first_logits).abs().max() <= 1e-4
            logprobs = torch.tensor([event.logprob for event in events])
            others = torch.tensor([event.logprob for event in expected[: len(events)]])
            assert torch.allclose(logprobs, others, atol=1e-4)


def test_prompt_read_in_pieces_gives_what_it_gives_at_once(base: LoadedBase) -> None:
    bank = bank_of(base)
    row = row_of(base, 3, temperature=0.0)
    batch = RunningBatch(base)
    writing = join(batch, bank, row)
    steps = 1
    while not batch.step(2):
        steps += 1
    assert steps == (1 if base.geometry.has_encoder else -(-len(row.prompt_ids) // 2))
    assert writing.first_logits is not None
    assert (writing.first_logits - alone(base, bank, row)[1]).abs().max() <= 1e-4


def test_strength_zero_is_the_base_and_one_the_prefix_itself(base: LoadedBase) -> None:
    bank = bank_of(base)
    plain, whole, off, on = (
        alone(base, bank, row_of(base, 0, slot=slot, strength=strength, temperature=0.0))
        for slot, strength in ((NO_PREFIX, 1.0), (0, 1.0), (0, 0.0), (0, 1.0))
    )
    assert off[0] == plain[0]
    assert torch.equal(off[1], plain[1])
    assert torch.equal(on[1], whole[1])
    assert not torch.allclose(whole[1], plain[1], atol=1e-2)


def test_strength_between_moves_from_the_base_to_the_prefix(base: LoadedBase) -> None:
    bank = bank_of(base)
    strengths = (0.0, 1e-6, 0.05, 0.3, 0.7, 0.999999, 1.0)
    logits = [alone(base, bank, row_of(base, 0, slot=0, strength=strength))[1] for strength in strengths]
    assert all(bool(row.isfinite().all()) for row in logits)
    gaps = [float((row - logits[-1]).norm()) for row in logits[1:]]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-2] < 1e-2 * gaps[0]
    if not base.geometry.learned_positions:  # where a prefix takes rows of a table, the base stands at others
        assert float((logits[1] - logits[0]).norm()) < 1e-2 * gaps[0]


def test_memory_is_counted_at_its_longest_and_given_back(llama: LoadedBase) -> None:
    bank, batch = bank_of(llama), RunningBatch(llama)
    row = row_of(llama, 1, max_new_tokens=100)
    assert batch.bytes_with([]) == 0
    one = batch.bytes_with([(row, bank.prefix(row.slot))])
    measured = llama.geometry
    columns = LENGTHS[row.slot] + len(row.prompt_ids) + 100
    assert one == columns * measured.num_layers * 2 * measured.num_kv_heads * measured.head_dim * 4
    writing = join(batch, bank, row)
    assert batch.bytes_with([(row, bank.prefix(row.slot))]) == 2 * one
    assert batch._continuation._cache.num_columns > 0
    batch.leave(writing)
    assert batch._continuation._cache.num_columns == 0
    assert batch.bytes_with([]) == 0


def test_memory_of_maps_counts_for_every_row_once_one_has_any(llama: LoadedBase) -> None:
    bank, batch, measured = bank_of(llama), RunningBatch(llama), llama.geometry
    plain, plus = (row_of(llama, 1, slot=slot, max_new_tokens=100) for slot in (0, 2))
    without = [(plain, bank.prefix(0)), (plus, SlotPrefix(bank.prefix(2).kv))]
    maps = measured.num_layers * measured.num_kv_heads * measured.head_dim**2 * 4
    assert batch.bytes_with([(plain, bank.prefix(0)), (plus, bank.prefix(2))]) == batch.bytes_with(without) + 2 * maps
    writing = join(batch, bank, plus)
    assert len(batch._continuation._maps._layers) == measured.num_layers
    batch.leave(writing)
    assert batch._continuation._maps._layers == []


def test_bf16_rows_agree_in_a_batch_and_alone(tmp_path: Path) -> None:
    base = load_base(tiny_base_folder(tmp_path / "base", "llama"), device="cpu", dtype="bfloat16")
    bank = bank_of(base)
    bank = PrefixBank(bank.kv.bfloat16(), bank.lengths)
    rows = [row_of(base, number, temperature=0.0, max_new_tokens=1) for number in range(8)]
    first: list[torch.Tensor] = []
    list(stream(base, bank, rows, observe_first=first.append))
    expected = torch.stack([alone(base, bank, row)[1] for row in rows])
    assert (first[0] - expected).abs().max() <= 0.05 * expected.abs().max()
