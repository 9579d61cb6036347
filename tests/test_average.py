"""The running average of what is trained: what is evaluated, published and resumed."""

import pytest
import torch

from worker.engine.average import Average


def walked(decay: float, num_steps: int) -> tuple[torch.Tensor, Average]:
    state = torch.zeros(2)
    average = Average([state], decay)
    for step in range(num_steps):
        state += 1.0 if step % 2 == 0 else -1.0
        average.update()
    return state, average


def value(state: torch.Tensor, average: Average) -> float:
    with average.in_place():
        return float(state[0])


def test_average_lies_between_states_that_go_to_and_fro() -> None:
    state, average = walked(0.98, num_steps=200)
    assert value(state, average) == pytest.approx(0.5, abs=0.02)
    assert state[0] == 0


def test_state_comes_back_even_after_an_error() -> None:
    state, average = walked(0.98, num_steps=3)
    with pytest.raises(RuntimeError, match="inside"), average.in_place():
        raise RuntimeError("inside")
    assert state[0] == 1


def test_decay_of_zero_is_the_state_itself() -> None:
    state, average = walked(0.0, num_steps=3)
    assert value(state, average) == float(state[0]) == 1


def test_first_steps_are_not_held_back_by_the_start() -> None:
    state, average = walked(0.999, num_steps=1)
    assert value(state, average) > 0.9


def test_average_goes_on_where_its_state_was_taken() -> None:
    _, average = walked(0.98, num_steps=7)
    other = Average([torch.zeros(2)], 0.98)
    other.load(average.state())
    assert torch.equal(other.state()["0"], average.state()["0"])
    assert other.state()["num_updates"] == 7
