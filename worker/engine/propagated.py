"""A prefix grown from trained input vectors: what the base computes for them, plus trained offsets in each layer."""

from collections.abc import Mapping

from torch import Tensor

from worker.engine.base import LoadedBase
from worker.engine.matrices import Matrices
from worker.engine.parameterisation import ParameterGroup
from worker.engine.prompt_tuning import kv_of_vectors

VECTORS_RATE_FACTOR = 2.5
"""Rate of the input vectors as a multiple of the values'; what suits prompt tuning with Muon (docs/decisions.md)."""


class Propagated:
    """`prefix = K/V of the vectors + offsets`, so that layers move together as well as each for itself.

    A step on the vectors changes keys and values of all layers in a way that the base itself could have come to, which
    generalises; the offsets add what no text could say. Only the sum is ever kept: a prefix like any other.

    Args:
        base: The frozen base, a decoder. The vectors go through it once a step, whatever the number of rows.
        vectors: Start of the input vectors `[1, P, hidden]`, fp32; copied.
        key_rate_factor: Rate of the keys' offsets as a multiple of the values'.
    """

    def __init__(self, base: LoadedBase, vectors: Tensor, key_rate_factor: float = 1.0) -> None:
        self._base = base
        self._vectors = Matrices("prompt-tuning", vectors)
        start = kv_of_vectors(base, vectors).detach().float()
        self._offsets = Matrices("prefix-tuning", start, key_rate_factor)

    def numbers(self) -> Tensor:
        """See `Parameterisation`."""
        return self.with_offsets(kv_of_vectors(self._base, self.vectors()))

    def vectors(self) -> Tensor:
        """The input vectors `[1, P, hidden]`, with the graph back to what is trained of them."""
        return self._vectors.numbers()

    def with_offsets(self, carried: Tensor) -> Tensor:
        """The prefix, of what the base computed for the vectors, both `[1, L, 2, H_kv, P, D]`."""
        return carried.float() + self._offsets.change()

    def groups(self) -> list[ParameterGroup]:
        """See `Parameterisation`."""
        vectors = [ParameterGroup(group.tensors, VECTORS_RATE_FACTOR, group.rule) for group in self._vectors.groups()]
        return [*vectors, *self._offsets.groups()]

    def state(self) -> dict[str, Tensor]:
        """See `Parameterisation`."""
        parts = {"vectors": self._vectors.state(), "offsets": self._offsets.state()}
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Parameterisation`."""
        for part, matrices in (("vectors", self._vectors), ("offsets", self._offsets)):
            matrices.load({name.removeprefix(f"{part}."): state[name] for name in state if name.startswith(f"{part}.")})
