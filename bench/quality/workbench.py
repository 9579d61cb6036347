"""One cell from its rows to its figures: train, measure the frozen test part, answer it."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.quality.cells import Cell, Record
from bench.quality.ours import OUR_METHODS, initial_text, resolved, train_ours
from bench.quality.parts import PartSizes, TaskData, prepare
from bench.quality.peer_training import train_peer
from bench.quality.peers import PEERS, Start
from bench.quality.plan import SweepPlan, spread
from bench.quality.tasks import TASKS
from bench.quality.trained import Trained, answers, row_losses
from worker.engine.allocator import keep_freed_memory
from worker.engine.base import LoadedBase, load_base
from worker.engine.recipe import Precision, Recipe
from worker.evaluation.metrics import main_metric, measure, metrics_of, task_kind
from worker.evaluation.trimming import trimmed


@dataclass(frozen=True)
class Setup:
    """What all cells share.

    Attributes:
        base_folder: The base model.
        data_folder: Holds a folder for each task.
        dtype: Number format of the base, for every method; `auto` is what a job takes.
        sizes: Rows of each part.
        max_steps: Steps of our recipe where the automatic number is not wanted (a smoke run); None leaves it open.
    """

    base_folder: Path
    data_folder: Path
    dtype: Precision = "auto"
    sizes: PartSizes = field(default_factory=PartSizes)
    max_steps: int | None = None


class Workbench:
    """Trains and measures cells on one loaded base.

    Args:
        setup: What all cells share.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        keep_freed_memory()
        self.base: LoadedBase = load_base(setup.base_folder, dtype=setup.dtype)
        self._data: dict[str, TaskData] = {}

    def data(self, task: str) -> TaskData:
        """The rows of a task, encoded once."""
        if task not in self._data:
            self._data[task] = prepare(self.setup.data_folder, TASKS[task], self.base.tokenizer, self.setup.sizes)
        return self._data[task]

    def terms(self, cell: Cell) -> dict[str, Any]:
        """What a cell is trained under; a finished cell counts only under the same terms.

        For ours the whole recipe, for a peer what it shares with ours: so a better rate for ours trains no peer anew.
        """
        data = self.data(cell.task)
        if cell.method in OUR_METHODS:
            return self._recipe(data, OUR_METHODS[cell.method].recipe(cell.seed)).to_dict()
        recipe, plan = self._terms_of_peers(cell, data)
        return {"num_virtual_tokens": recipe.num_virtual_tokens, **asdict(plan), "rates": list(plan.rates)}

    def run(self, cell: Cell) -> dict[str, Any]:
        """Trains one cell and measures it on the test part.

        Returns:
            Figures that JSON can hold.
        """
        data = self.data(cell.task)
        began, began_cpu = time.monotonic(), time.process_time()
        trained = self._train(cell, data)
        losses = row_losses(trained.base, trained.bank, data.test)
        figures = {
            "num_examples": trained.num_examples,
            "num_parameters": trained.num_parameters,
            "rates": list(trained.rates),
            "learning_rate": trained.learning_rate,
            "best_step": trained.best_step,
            "validation_loss": trained.validation_loss,
            "row_losses": [round(loss, 5) for loss in losses],
            "row_tokens": [len(row.target_ids) for row in data.test],
            "data_sha256": data.sha256,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            **_answered(trained, data),
        }
        seconds = {"seconds": time.monotonic() - began, "processor_s": time.process_time() - began_cpu}
        return {**figures, **{name: round(value, 1) for name, value in seconds.items()}}

    def _train(self, cell: Cell, data: TaskData) -> Trained:
        if cell.method in OUR_METHODS:
            return train_ours(self.base, data, self._recipe(data, OUR_METHODS[cell.method].recipe(cell.seed)))
        recipe, plan = self._terms_of_peers(cell, data)
        length = recipe.num_virtual_tokens or 0
        # Twice the tokens, because the text may take fewer when it is tokenised in one piece; PEFT cuts it to P.
        text = self.base.tokenizer.decode(initial_text(self.base, data, cell.seed, 2 * length))
        start = Start(self.setup.base_folder, self.base, length, text)
        return train_peer(PEERS[cell.method], start, data.train, data.validation, plan, cell.seed)

    def _terms_of_peers(self, cell: Cell, data: TaskData) -> tuple[Recipe, SweepPlan]:
        """Our recipe, and a plan for as many examples with rates of the peer's own range."""
        recipe, peer = self._recipe(data, Recipe(seed=cell.seed)), PEERS[cell.method]
        rates = spread(peer.low, peer.high, peer.num_rates)
        return recipe, SweepPlan.like(recipe, rates, len(data.train))

    def _recipe(self, data: TaskData, asked: Recipe) -> Recipe:
        if self.setup.max_steps is not None:
            asked = Recipe.from_dict({**asked.to_dict(), "max_steps": self.setup.max_steps})
        return resolved(self.base, data, asked)


def _answered(trained: Trained, data: TaskData) -> Record:
    """Greedy answers and what they score; `row_scores` are of the metric that decides."""
    targets = [*(row[data.spec.target] for row in data.train_rows), *data.references]
    kind = task_kind(targets)
    metric = main_metric(kind, data.references)
    given = trimmed(answers(trained.base, trained.bank, data), targets)
    tallies = {name: measure(name, given, data.references) for name in metrics_of(kind)}
    return {
        "metric": metric,
        "metrics": {name: round(tally.value, 5) for name, tally in tallies.items()},
        "row_scores": [round(float(score), 5) for score in tallies[metric].scores],
        "answers": given,
    }
