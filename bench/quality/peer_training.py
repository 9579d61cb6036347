"""A lean training loop for PEFT's models, so that each gets its best: ours would not fit them, Trainer would be slow.

Rows in the same batches as ours, logits at the targets only, AdamW, warm-up and cosine, clipped gradients, the best
state by validation loss kept, several rates with early elimination.
"""

import copy
import math
from collections.abc import Sequence

import peft
import torch
from peft import PeftModel
from torch import Tensor

from bench.quality.peers import Peer, Start, build, for_use, prompt_bank
from bench.quality.plan import SweepPlan
from bench.quality.trained import Trained
from worker.engine.base import LoadedBase
from worker.engine.batches import BatchOrder, collate
from worker.engine.example import Example
from worker.engine.loss import head_at, target_loss
from worker.engine.schedule import rate_factor

WARMUP_FRACTION = 0.06
MAX_GRAD_NORM = 1.0
VALIDATION_ROWS_AT_ONCE = 40


def peer_loss(model: PeftModel, base: LoadedBase, examples: Sequence[Example]) -> Tensor:
    """Summed negative log-likelihood (nats) of the rows' target tokens, with the graph to the peer's parameters.

    Through PEFT's own forward, but for prompt tuning: there the vectors' keys and values are computed once for all rows
    instead of once for each, which halves the time. A test holds loss and gradient equal to PEFT's forward.
    """
    batch = collate(examples).to(base.device)
    if model.active_peft_config.peft_type == peft.PeftType.PROMPT_TUNING:
        return target_loss(base.model, prompt_bank(model, base), batch)
    lengths = torch.tensor([len(example) for example in examples], device=base.device)
    mask = (torch.arange(batch.input_ids.shape[1], device=base.device) < lengths.unsqueeze(1)).long()
    with head_at(model.get_base_model(), batch.rows, batch.columns):
        logits = model(input_ids=batch.input_ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(logits[0].float(), batch.labels, reduction="sum")


@torch.no_grad()
def validation_loss(model: PeftModel, base: LoadedBase, examples: Sequence[Example]) -> float:
    """Nats per target token; infinite where that is no number."""
    ordered = sorted(examples, key=len)
    chunks = [ordered[at : at + VALIDATION_ROWS_AT_ONCE] for at in range(0, len(ordered), VALIDATION_ROWS_AT_ONCE)]
    total = sum(float(peer_loss(model, base, chunk)) for chunk in chunks)
    loss = total / sum(len(example.target_ids) for example in examples)
    return loss if math.isfinite(loss) else math.inf


class Candidate:
    """One rate of a peer's sweep.

    Args:
        model: In its first state.
        base: The same base without the peer.
        rate: Peak rate.
        plan: Of which the number of steps is read.
        loss_before: Validation loss of that state; infinite where it is no number.
    """

    def __init__(self, model: PeftModel, base: LoadedBase, rate: float, plan: SweepPlan, loss_before: float) -> None:
        self.model, self.base, self.rate, self.max_steps = model, base, rate, plan.max_steps
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0, weight_decay=0.0, fused=True)
        self.best_loss = self.latest_loss = loss_before
        self.best_step = 0
        self.best = self._state()

    def update(self, rows: Sequence[Example], step: int) -> None:
        """One step; a loss that is no number leaves the candidate as it is."""
        num_targets = sum(len(row.target_ids) for row in rows)
        loss = peer_loss(self.model, self.base, rows) / num_targets
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD_NORM)
        if math.isfinite(float(loss.detach())) and math.isfinite(float(norm)):
            self.optimizer.param_groups[0]["lr"] = self.rate * rate_factor(step, self.max_steps, WARMUP_FRACTION)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def look(self, examples: Sequence[Example], step: int) -> None:
        """Evaluates, and keeps the state if it is the candidate's best."""
        self.latest_loss = validation_loss(self.model, self.base, examples)
        if self.latest_loss < self.best_loss:
            self.best_loss, self.best_step, self.best = self.latest_loss, step, self._state()

    def score(self) -> tuple[float, float]:
        """What rates are compared by, as in our sweep: the best validation loss, the latest between equals."""
        return self.best_loss, self.latest_loss

    def restore_best(self) -> None:
        """Puts the best state back into the model."""
        with torch.no_grad():
            for parameter, kept in zip(self.trained, self.best, strict=True):
                parameter.copy_(kept)

    def _state(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.trained]


def train_peer(
    peer: Peer, start: Start, train: Sequence[Example], validation: Sequence[Example], plan: SweepPlan, seed: int
) -> Trained:
    """Tries the plan's rates and returns the best state of all.

    Args:
        peer: The method.
        start: What it starts from.
        train: Rows to learn from, in batches that depend on the seed as ours do.
        validation: Rows that eliminate rates and choose the best state.
        plan: Rates, steps and eliminations.
        seed: Of the first state and of the order of rows.
    """
    first = build(peer, start, seed)
    loss_before = validation_loss(first, start.base, validation)
    candidates = [Candidate(copy.deepcopy(first), start.base, rate, plan, loss_before) for rate in plan.rates]
    order = BatchOrder([len(row) for row in train], plan.batch_size, seed)
    alive, num_examples = candidates, 0
    for part in plan.segments():
        alive = sorted(alive, key=Candidate.score)[: part.num_alive]
        for candidate in alive:
            for step in range(part.begin, part.end):
                rows = [train[index] for index in order.rows_of(step)]
                candidate.update(rows, step)
                num_examples += len(rows)
            candidate.look(validation, part.end)
    best = min(candidates, key=Candidate.score)
    best.restore_best()
    base, bank = for_use(best.model, start.base)
    return Trained(
        base=base,
        bank=bank,
        num_parameters=sum(parameter.numel() for parameter in best.trained),
        num_examples=num_examples,
        rates=plan.rates,
        learning_rate=best.rate,
        best_step=best.best_step,
        validation_loss=best.best_loss,
    )
