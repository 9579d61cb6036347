"""Our side: the engine as a job calls it, without looks at validation rows.

It trains the same numbers as PEFT does, the keys and values themselves; growing them from input vectors, which small
bases get by default, costs P more tokens forward and back in each step.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import AutoTokenizer, PreTrainedModel

from bench.training.rows import TokenRow
from bench.training.shapes import STARTER
from bench.training.timing import Timed
from worker.engine.automatic import resolve
from worker.engine.base import prepare_base
from worker.engine.events import StepMetrics
from worker.engine.example import Example
from worker.engine.families import geometry
from worker.engine.recipe import Recipe
from worker.engine.train import train

LEARNING_RATE = 1e-3


class OurTrainer:
    """Trains a prefix of random start numbers with the engine.

    Args:
        model: The base, in the number format that is measured.
        num_virtual_tokens: Length of the prefix.
        clock: What tells the time in seconds.
    """

    def __init__(self, model: PreTrainedModel, num_virtual_tokens: int, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.base = prepare_base(
            model, AutoTokenizer.from_pretrained(STARTER, local_files_only=True), geometry(model.config.to_dict())
        )
        self.num_virtual_tokens = num_virtual_tokens

    def run(self, rows: Sequence[TokenRow], *, steps: int, batch_size: int, seed: int) -> Timed:
        """Trains for some steps, and times all but the first."""
        recipe = resolve(
            Recipe(
                num_virtual_tokens=self.num_virtual_tokens,
                init="random",
                reparameterisation="muon",
                learning_rate=LEARNING_RATE,
                max_steps=steps,
                batch_size=batch_size,
                eval_every=steps,
                seed=seed,
            ),
            num_train=len(rows),
            instruction_tokens=0,
            geometry=self.base.geometry,
            num_base_parameters=self.base.num_parameters,
            on_gpu=self.base.device.type == "cuda",
        )
        examples = [Example(row.prompt_ids, row.target_ids) for row in rows]
        ends: list[float] = []
        tokens: list[int] = []
        for event in train(self.base, examples, [], recipe, init_ids=[]):
            if isinstance(event, StepMetrics):
                if self.base.device.type == "cuda":
                    torch.cuda.synchronize()
                ends.append(self.clock())
                tokens.append(event.num_tokens)
        return Timed(sum(tokens[1:]), ends[-1] - ends[0])
