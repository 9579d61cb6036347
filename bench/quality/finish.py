"""Trains what is missing of a list of cells and keeps each as soon as it is done."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.quality.cells import Cell, CellStore
from bench.quality.ours import OURS
from bench.quality.peers import PEERS
from bench.quality.provenance import commit


class MissingCellError(Exception):
    """A peer has nothing to be compared with."""


class Trainer(Protocol):
    """Trains a cell; see `workbench.Workbench.run`."""

    def run(self, cell: Cell, num_examples: int | None) -> dict[str, Any]:
        """Its figures."""
        ...


def finish(workbench: Trainer, store: CellStore, cells: Sequence[Cell]) -> None:
    """Trains the cells that the store lacks, one after another, and prints a line for each.

    Args:
        workbench: Trains a cell.
        store: Keeps each as soon as it is done.
        cells: In this order; a peer comes after ours on the same task and seed, whose number of rows it sees.

    Raises:
        MissingCellError: A peer is asked for without ours.
    """
    records = store.records()
    code = commit()
    for cell in cells:
        if cell in records:
            continue
        ours = records.get(Cell(cell.task, OURS, cell.seed))
        if cell.method in PEERS and ours is None:
            raise MissingCellError(
                f"{cell.method} sees as many rows as ours did, but ours has not run on {cell.task} with seed "
                f"{cell.seed}. Add ours to --methods."
            )
        figures = workbench.run(cell, ours["num_examples"] if ours else None)
        records[cell] = store.add(cell, {**figures, "commit": code})
        loss = sum(figures["row_losses"]) / sum(figures["row_tokens"])
        print(
            f"{datetime.now(UTC):%H:%M:%S} {cell.task} {cell.method} seed {cell.seed}: test loss {loss:.3f}, "
            f"{figures['metric']} {figures['metrics'][figures['metric']]:.3f}, rate {figures['learning_rate']:g} of "
            f"{figures['rates']}, best step {figures['best_step']}, {figures['seconds']} s",
            flush=True,
        )
