"""Trains what is missing of a list of cells and keeps each as soon as it is done."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.quality.cells import Cell, CellStore
from bench.quality.ours import OURS
from bench.quality.peers import PEERS
from bench.quality.provenance import commit
from bench.quality.tasks import TaskDataError

logger = logging.getLogger(__name__)


class MissingCellError(Exception):
    """A peer has nothing to be compared with."""


class Trainer(Protocol):
    """Trains a cell; see `workbench.Workbench.run`."""

    def run(self, cell: Cell, num_examples: int | None) -> dict[str, Any]:
        """Its figures."""
        ...


def finish(workbench: Trainer, store: CellStore, cells: Sequence[Cell]) -> list[Cell]:
    """Trains the cells that the store lacks, one after another, and prints a line for each.

    Args:
        workbench: Trains a cell.
        store: Keeps each as soon as it is done.
        cells: In this order; a peer comes after ours on the same task and seed, whose number of rows it sees.

    Returns:
        The cells that failed; the peers of a failed one of ours are among them.

    Raises:
        MissingCellError: A peer is asked for without ours.
        TaskDataError: The rows are not there.
    """
    records, code, failed = store.records(), commit(), list[Cell]()
    for cell in cells:
        if cell in records:
            continue
        ours = Cell(cell.task, OURS, cell.seed)
        if cell.method in PEERS and ours not in records:
            if ours not in failed:
                raise MissingCellError(
                    f"{cell.method} sees as many rows as ours did, but ours has not run on {cell.task} with seed "
                    f"{cell.seed}. Add ours to --methods."
                )
            failed.append(cell)
            continue
        try:
            figures = workbench.run(cell, records[ours]["num_examples"] if ours in records else None)
        except TaskDataError:
            raise
        except Exception:
            # A run of an hour goes on with its other cells; this one is tried again by the next start.
            logger.exception("%s %s seed %d failed", cell.task, cell.method, cell.seed)
            failed.append(cell)
            continue
        records[cell] = store.add(cell, {**figures, "commit": code})
        print(_line(cell, figures), flush=True)
    return failed


def _line(cell: Cell, figures: Mapping[str, Any]) -> str:
    loss = sum(figures["row_losses"]) / sum(figures["row_tokens"])
    return (
        f"{datetime.now(UTC):%H:%M:%S} {cell.task} {cell.method} seed {cell.seed}: test loss {loss:.3f}, "
        f"{figures['metric']} {figures['metrics'][figures['metric']]:.3f}, rate {figures['learning_rate']:g} of "
        f"{figures['rates']}, best step {figures['best_step']}, {figures['seconds']} s"
    )
