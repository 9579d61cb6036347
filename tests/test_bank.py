"""Shapes, lengths and slots of the bank."""

import pytest
import torch

from worker.engine.bank import NO_PREFIX, PrefixBank, SlotPrefix, position_ids_for


def prefix(length: int, value: float) -> torch.Tensor:
    return torch.full((2, 2, 1, length, 4), value)


def stacked() -> PrefixBank:
    return PrefixBank.stack([SlotPrefix(prefix(3, 1.0)), SlotPrefix(prefix(5, 2.0))])


def test_stack_pads_shorter_prefixes_and_keeps_their_lengths() -> None:
    bank = stacked()
    assert (bank.num_slots, bank.num_layers, bank.num_virtual_tokens) == (2, 2, 5)
    assert bank.lengths == (3, 5)
    assert torch.equal(bank.kv[0, ..., :3, :], prefix(3, 1.0))
    assert bank.row_lengths([1, NO_PREFIX, 0]) == (5, 0, 3)


def test_slots_without_anything_outside_the_softmax_have_zeros_there() -> None:
    one, other = SlotPrefix(prefix(3, 1.0)), SlotPrefix.of("prefix-tuning-plus", prefix(4, 2.0))
    assert (other.num_virtual_tokens, other.nbytes) == (2, prefix(4, 2.0).nbytes)
    bank = PrefixBank.stack([one, other])
    assert bank.outside is not None
    assert bank.outside.shape == (2, 2, 2, 1, 2, 4)
    assert not bank.outside[0].any()
    assert bank.prefix(0).outside is None
    assert torch.equal(bank.prefix(1).outside, prefix(2, 2.0))
    assert PrefixBank.stack([one]).outside is None


def test_only_a_trainable_bank_has_parameters() -> None:
    kv = prefix(3, 1.0).unsqueeze(0)
    assert [name for name, _ in PrefixBank(kv, trainable=True).named_parameters()] == ["kv"]
    assert list(PrefixBank(kv).parameters()) == []


def test_bank_keeps_the_graph_of_computed_vectors() -> None:
    source = torch.ones(1, 2, 2, 1, 3, 4, requires_grad=True)
    PrefixBank(source * 2).kv.sum().backward()
    assert source.grad is not None
    assert torch.equal(source.grad, torch.full_like(source, 2.0))


def test_bank_refuses_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"expected \[S, L, 2, H_kv, P, D\]"):
        PrefixBank(prefix(3, 1.0))


@pytest.mark.parametrize("lengths", [(4,), (0,), (3, 3)])
def test_bank_refuses_lengths_that_do_not_fit(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 1 numbers from 1 to 3"):
        PrefixBank(prefix(3, 1.0).unsqueeze(0), lengths)


@pytest.mark.parametrize("slot", [1, -2])
def test_bank_refuses_an_unknown_slot(slot: int) -> None:
    with pytest.raises(ValueError, match=f"slot is {slot}; expected 0 to 0, or -1 for no prefix"):
        PrefixBank(prefix(3, 1.0).unsqueeze(0)).row_lengths([0, slot])


def test_positions_go_on_where_each_prefix_ends() -> None:
    bank = stacked()
    mask = torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    got = position_ids_for(mask, bank, [0, 1, NO_PREFIX])
    assert got.tolist() == [[3, 3, 4], [5, 6, 6], [0, 1, 2]]
    assert position_ids_for(mask, None, [NO_PREFIX] * 3).tolist() == [[0, 0, 1], [0, 1, 1], [0, 1, 2]]
