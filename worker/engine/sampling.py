"""From the logits of running rows to their next tokens; every row draws from its own generator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LIKELY = 256
"""Tokens that are looked at first for top_p; only where they do not reach it, the whole vocabulary is sorted."""


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
    and the row's own logits only. The distribution keeps the order of the vocabulary: sorted, two tokens of nearly the
    same probability would change places with the last bit of a logit, which other rows of a batch may turn.

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
        return choose_all(logits[None], [self])[0]

    def draw(self) -> float:
        """The next number of the row, from 0 to 1."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def choose_all(logits: Tensor, samplers: Sequence[Sampler]) -> list[Choice]:
    """Chooses the next token of every row.

    Args:
        logits: `[rows, V]`, of any number format, on any device.
        samplers: One a row.
    """
    logits = logits.float()
    ids = logits.argmax(dim=-1)
    drawing = [place for place, sampler in enumerate(samplers) if sampler.temperature > 0]
    if drawing:
        ids[drawing] = _draw(logits[drawing], [samplers[place] for place in drawing]).to(ids.device)
    totals = logits.logsumexp(dim=-1)
    logprobs = (logits.gather(1, ids[:, None])[:, 0] - totals).tolist()
    tops = [_top(logits[place], totals[place], sampler.num_top) for place, sampler in enumerate(samplers)]
    return [Choice(*chosen) for chosen in zip(ids.tolist(), logprobs, tops, strict=True)]


def _draw(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    # Apple's GPUs have no double precision, which the cumulative distribution needs.
    logits = logits.cpu() if logits.device.type == "mps" else logits
    device = logits.device
    # Temperature may be tiny: the largest exponent is made 0 before anything overflows.
    temperatures = torch.tensor([max(sampler.temperature, 1e-6) for sampler in samplers], device=device)
    probabilities = ((logits - logits.amax(dim=-1, keepdim=True)) / temperatures[:, None]).softmax(dim=-1)
    for row, sampler in zip(probabilities, samplers, strict=True):
        if sampler.top_p < 1:
            row.masked_fill_(row < _least_kept(row, sampler.top_p), 0.0)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    points = torch.tensor([sampler.draw() for sampler in samplers], dtype=torch.float64).to(device)
    # Never beyond the last token that has any probability, whatever rounding does.
    points = torch.minimum(points * cumulative[:, -1], torch.nextafter(cumulative[:, -1], torch.zeros_like(points)))
    return torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]


def _least_kept(probabilities: Tensor, top_p: float) -> Tensor:
    """Probability of the last token that is needed to reach top_p."""
    likely = probabilities.topk(min(LIKELY, len(probabilities))).values
    if float(likely.sum()) < top_p:
        likely = probabilities.sort(descending=True).values
    num_kept = int((likely.cumsum(dim=-1, dtype=torch.float64) < top_p).sum()) + 1
    return likely[min(num_kept, len(likely)) - 1]


def _top(logits: Tensor, total: Tensor, num_top: int) -> tuple[tuple[int, float], ...]:
    if not num_top:
        return ()
    values, ids = logits.topk(min(num_top, len(logits)))
    return tuple(zip(ids.tolist(), (values - total).tolist(), strict=True))


def first_token_kl(logits: Tensor, base_logits: Tensor) -> float:
    """How far a prefix moves the first token: KL divergence of the prefixed distribution from the base's, in nats.

    Args:
        logits: `[V]` with the prefix.
        base_logits: `[V]` without.
    """
    logprobs, base_logprobs = logits.double().log_softmax(-1), base_logits.double().log_softmax(-1)
    kl = float((logprobs.exp() * (logprobs - base_logprobs)).sum())
    return max(kl, 0.0) if math.isfinite(kl) else math.inf
