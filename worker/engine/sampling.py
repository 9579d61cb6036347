"""From the logits of one row to its next token; every row draws from its own generator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """One chosen token.

    Attributes:
        token_id: Its id.
        logprob: Natural logarithm of the probability that the model gave it, before temperature and top_p.
        top: The most likely tokens with theirs, as many as were asked for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one row, the same ones whatever other rows are in the batch.

    One uniform number is drawn per token and looked up in the cumulative distribution, so the draw depends on the seed
    and the row's own logits only.

    Args:
        temperature: 0 takes the most probable token; else logits are divided by it.
        top_p: Only the most probable tokens that together reach this probability are drawn from.
        seed: Seed of the row; None takes a fresh one.
        num_top: How many of the most likely tokens are told with each choice.

    Source: nucleus sampling, Holtzman et al. 2019, arXiv 1904.09751, section 3.1.
    """

    def __init__(
        self, temperature: float = 0.0, top_p: float = 1.0, seed: int | None = None, *, num_top: int = 0
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.num_top = num_top
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def choose(self, logits: Tensor) -> Choice:
        """Chooses the next token.

        Args:
            logits: `[V]`, of any number format, on any device.
        """
        logprobs = logits.float().log_softmax(dim=-1)
        token_id = int(logprobs.argmax()) if self.temperature == 0 else self._draw(logprobs.cpu())
        return Choice(token_id, float(logprobs[token_id]), self._top(logprobs))

    def _top(self, logprobs: Tensor) -> tuple[tuple[int, float], ...]:
        if not self.num_top:
            return ()
        values, ids = logprobs.topk(min(self.num_top, len(logprobs)))
        return tuple(zip(ids.tolist(), values.tolist(), strict=True))

    def _draw(self, logprobs: Tensor) -> int:
        # Temperature may be tiny: the largest exponent is made 0 before anything overflows.
        scaled = (logprobs.double() - logprobs.max()) / max(self.temperature, 1e-6)
        probabilities, order = scaled.softmax(dim=-1).sort(descending=True, stable=True)
        cumulative = probabilities.cumsum(dim=-1)
        if self.top_p < 1:
            num_kept = int((cumulative < self.top_p).sum()) + 1
            cumulative = cumulative[:num_kept]
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        index = int(torch.searchsorted(cumulative, point, right=True))
        return int(order[min(index, len(cumulative) - 1)])


def first_token_kl(logits: Tensor, base_logits: Tensor) -> float:
    """How far a prefix moves the first token: KL divergence of the prefixed distribution from the base's, in nats.

    Args:
        logits: `[V]` with the prefix.
        base_logits: `[V]` without.
    """
    logprobs, base_logprobs = logits.double().log_softmax(-1), base_logits.double().log_softmax(-1)
    kl = float((logprobs.exp() * (logprobs - base_logprobs)).sum())
    return max(kl, 0.0) if math.isfinite(kl) else math.inf
