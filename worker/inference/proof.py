"""The stamp on a comparison: the base's row is the untouched model, and the prefix moves the first token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.attention import PREFIX_EAGER
from worker.engine.base import LoadedBase
from worker.engine.generate import GenerationRow, untouched_logits
from worker.engine.sampling import first_token_kl
from worker.inference.batch import Proof

TOLERANCE = 1e-4
"""Largest difference of a logit in fp32 between the base's row and the untouched model."""

COARSE_TOLERANCE = 0.05
"""The same for number formats of 16 bits, as a share of the largest logit: a batch is rounded otherwise than a row."""


def prove(base: LoadedBase, rows: Sequence[GenerationRow], first_logits: Sequence[Tensor]) -> Proof | None:
    """Compares the base's row with a forward that nothing of ours takes part in; None where no row is the base's.

    Args:
        base: The loaded base.
        rows: Of one request.
        first_logits: `[V]` of the first token of each.
    """
    plain = [index for index, row in enumerate(rows) if row.is_plain]
    if not plain:
        return None
    at = plain[0]
    attention = "eager" if base.model.config._attn_implementation == PREFIX_EAGER else "sdpa"
    stock = untouched_logits(base, rows[at].prompt_ids, attention).float()
    difference = float((first_logits[at].float() - stock).abs().max())
    allowed = TOLERANCE if base.dtype == torch.float32 else COARSE_TOLERANCE * max(1.0, float(stock.abs().max()))
    asked_alike = [
        index for index, row in enumerate(rows) if not row.is_plain and row.prompt_ids == rows[at].prompt_ids
    ]
    kl = first_token_kl(first_logits[asked_alike[0]], first_logits[at]) if asked_alike else None
    return Proof(base_verified=difference <= allowed, max_difference=difference, prefix_kl=kl)
