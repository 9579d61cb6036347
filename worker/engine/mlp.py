"""The MLP reparameterisation: a small network whose output is the prefix; only that output is ever kept."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.engine.parameterisation import ParameterGroup

MLP_INPUT_WIDTH = 256
"""Width of the vector that stands for each virtual token at the network's input."""

MLP_HIDDEN_WIDTH = 512
"""Hidden units; more where the prefix is longer, so that the last layer can meet the start state exactly."""

MLP_RATE_FACTOR = 0.01
"""Rate of the network as a multiple of the rate that fits the prefix's own numbers (see docs/decisions.md)."""


class MLP:
    """`prefix[p] = tanh(e[p] W1 + b1) W2 + b2`: one hidden layer for all virtual tokens, layers and heads together.

    Its last layer is fitted to the start state in closed form, so the first step starts from the real keys and values
    of a text, as a direct training does; the tokens share what they learn through W1 and W2 from then on.

    Args:
        numbers: Start state `[1, L, 2, H_kv, P, D]` or `[1, P, hidden]`, fp32.
        seed: Of the input vectors and of the first layer.

    Source: Li and Liang 2021, arXiv 2101.00190, section 4.3; they fit with Adam for real-word initialisation.
    """

    def __init__(self, numbers: Tensor, seed: int) -> None:
        self._shape = numbers.movedim(-2, 0).shape
        wanted = numbers.detach().movedim(-2, 0).flatten(1).cpu()
        length = len(wanted)
        width = max(MLP_HIDDEN_WIDTH, 2 * length)
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(length, MLP_INPUT_WIDTH, generator=generator)
        hidden_weight = torch.randn(MLP_INPUT_WIDTH, width, generator=generator) / MLP_INPUT_WIDTH**0.5
        output_bias = wanted.mean(0)
        tensors = {
            "inputs": inputs,
            "hidden_weight": hidden_weight,
            "hidden_bias": torch.zeros(width),
            "output_weight": _fitted(torch.tanh(inputs @ hidden_weight), wanted - output_bias),
            "output_bias": output_bias,
        }
        self._tensors = {name: tensor.to(numbers.device).requires_grad_(True) for name, tensor in tensors.items()}

    def numbers(self) -> Tensor:
        """See `Parameterisation`."""
        parts = self._tensors
        hidden = torch.tanh(parts["inputs"] @ parts["hidden_weight"] + parts["hidden_bias"])
        flat = hidden @ parts["output_weight"] + parts["output_bias"]
        numbers: Tensor = flat.reshape(self._shape).movedim(0, -2)
        return numbers

    def groups(self) -> list[ParameterGroup]:
        """See `Parameterisation`."""
        return [ParameterGroup(tuple(self._tensors.values()), MLP_RATE_FACTOR)]

    def state(self) -> dict[str, Tensor]:
        """See `Parameterisation`."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Parameterisation`."""
        for name, tensor in self._tensors.items():
            tensor.copy_(state[name])


def _fitted(hidden: Tensor, wanted: Tensor) -> Tensor:
    """The smallest weight that maps `[P, width]` to `[P, F]` exactly; there are more hidden units than tokens."""
    weight: Tensor = torch.linalg.pinv(hidden.double()) @ wanted.double()
    return weight.float()
