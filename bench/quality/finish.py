"""Trains what is missing of a list of cells and keeps each as soon as it is done."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from bench.quality.cells import Cell, CellStore
from bench.quality.provenance import commit
from bench.quality.tasks import TaskDataError

logger = logging.getLogger(__name__)


class Trainer(Protocol):
    """Trains cells; see `workbench.Workbench`."""

    def terms(self, cell: Cell) -> dict[str, Any]:
        """What it is trained under."""
        ...

    def run(self, cell: Cell) -> dict[str, Any]:
        """Its figures."""
        ...


def finish(workbench: Trainer, store: CellStore, cells: Sequence[Cell]) -> list[Cell]:
    """Trains the cells that the store lacks or holds under other terms, and prints a line for each.

    Args:
        workbench: Trains a cell.
        store: Keeps each as soon as it is done.
        cells: In this order.

    Returns:
        The cells that failed.

    Raises:
        TaskDataError: The rows are not there.
    """
    records, code, failed = store.records(), commit(), list[Cell]()
    for cell in cells:
        terms = workbench.terms(cell)
        if cell in records and records[cell].get("terms") == terms:
            continue
        try:
            figures = workbench.run(cell)
        except TaskDataError:
            raise
        except Exception:
            # A run of an hour goes on with its other cells; this one is tried again by the next start.
            logger.exception("%s %s seed %d failed", cell.task, cell.method, cell.seed)
            failed.append(cell)
            continue
        records[cell] = store.add(cell, {**figures, "terms": terms, "commit": code})
        print(_line(cell, figures), flush=True)
    return failed


def _line(cell: Cell, figures: Mapping[str, Any]) -> str:
    loss = sum(figures["row_losses"]) / sum(figures["row_tokens"])
    return (
        f"{datetime.now(UTC):%H:%M:%S} {cell.task} {cell.method} seed {cell.seed}: test loss {loss:.3f}, "
        f"{figures['metric']} {figures['metrics'][figures['metric']]:.3f}, rate {figures['learning_rate']:g} of "
        f"{figures['rates']}, best step {figures['best_step']}, {figures['seconds']} s"
    )
