"""Parts of a pass side by side on the cores of a CPU: each thread computes a whole part with its share of the cores.

Operators of a small model are too short to be shared by cores: they wait for each other at the end of every one of
them. Parts of a pass need nothing of each other until their gradients are added.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from transformers import PreTrainedModel

Part = TypeVar("Part")
Result = TypeVar("Result")


class SideBySide:
    """Threads, each with a model of its own that shares the base's weights.

    A thread needs its own modules because the attached prefixes and the hooks of a pass are kept at them.

    Args:
        model: The frozen base.
        num_workers: Threads; the cores that torch may use are divided among them.
    """

    def __init__(self, model: PreTrainedModel, num_workers: int) -> None:
        self.num_workers = num_workers
        self._models = [model, *(twin(model) for _ in range(num_workers - 1))]
        self._executor = ThreadPoolExecutor(num_workers, thread_name_prefix="part")

    def map(
        self, compute: Callable[[PreTrainedModel, Sequence[Part]], Result], shares: Sequence[Sequence[Part]]
    ) -> list[Result]:
        """Lets each worker compute its share; results come in the order of the shares.

        Args:
            compute: Called with a model and a share.
            shares: At most one for each worker.
        """
        num_threads = torch.get_num_threads()
        each = max(num_threads // self.num_workers, 1)

        def limited(model: PreTrainedModel, share: Sequence[Part]) -> Result:
            torch.set_num_threads(each)  # of this thread, whose default is all cores
            return compute(model, share)

        try:
            futures = [
                self._executor.submit(limited, model, share)
                for model, share in zip(self._models[: len(shares)], shares, strict=True)
            ]
            # An error of one is raised once all have ended, so that nothing computes on behind it.
            errors = [future.exception() for future in futures]
            for error in errors:
                if error is not None:
                    raise error
            return [future.result() for future in futures]
        finally:
            torch.set_num_threads(num_threads)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules anew around the same parameters and buffers."""
    shared = [*model.parameters(), *model.buffers()]
    copied: PreTrainedModel = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    return copied


def dealt(parts: Sequence[Sequence[Part]], costs: Sequence[float], num_workers: int) -> list[list[Sequence[Part]]]:
    """Parts in shares of about equal cost, the same for the same parts: the dearest first, each to who has least."""
    shares: list[list[Sequence[Part]]] = [[] for _ in range(min(num_workers, len(parts)))]
    loads = [0.0] * len(shares)
    for index in sorted(range(len(parts)), key=lambda index: -costs[index]):
        least = loads.index(min(loads))
        shares[least].append(parts[index])
        loads[least] += costs[index]
    return shares
