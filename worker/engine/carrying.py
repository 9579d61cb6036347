"""The prefixes of a pass as keys and values: the input vectors of all of them go through the base together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.base import LoadedBase
from worker.engine.example import Example
from worker.engine.parameterisation import Parameterisation
from worker.engine.prompt_tuning import kv_of_vectors
from worker.engine.propagated import Propagated
from worker.engine.recipe import Method
from worker.engine.side_by_side import SideBySide


@dataclass(frozen=True)
class Share:
    """What one prefix brings into a pass.

    Attributes:
        method: What its numbers are.
        parameterisation: What is trained.
        rows: It learns from their mean loss; at least one.
        shown: Indices of the virtual tokens that the rows see; None shows all.
    """

    method: Method
    parameterisation: Parameterisation
    rows: Sequence[Example]
    shown: Tensor | None = None


class PassPrefixes:
    """What the rows of each share attend to, and the way back from it to what is trained.

    Args:
        base: The frozen base.
        shares: Of all prefixes of a pass.
        workers: Threads for parts of the prefixes, where there are several and the base is small; None computes all at
            once.

    Attributes:
        kvs: `[L, 2, H_kv, P', D]` for each share, of the P' tokens that it shows, with their graph.
    """

    def __init__(self, base: LoadedBase, shares: Sequence[Share], workers: SideBySide | None) -> None:
        self._workers = workers
        num_parts = min(workers.num_workers, len(shares)) if workers else 1
        self._parts = [list(range(first, len(shares), num_parts)) for first in range(num_parts)]

        def carry(model: PreTrainedModel, part: Sequence[int]) -> list[Tensor]:
            return prefixes_of(base, model, [shares[index] for index in part])

        carried = workers.map(carry, self._parts) if workers else [carry(base.model, self._parts[0])]
        by_share = dict(zip(chain(*self._parts), chain(*carried), strict=True))
        self.kvs = [by_share[index] for index in range(len(shares))]

    def leave(self, gradients: Tensor) -> None:
        """Leaves the gradients at the trained tensors.

        Args:
            gradients: Of the prefixes in the order of the shares, `[S, L, 2, H_kv, P, D]`, each from its first token.
        """

        def leave(_: PreTrainedModel | None, part: Sequence[int]) -> None:
            prefixes = [self.kvs[index] for index in part]
            trimmed = [gradients[index, ..., : self.kvs[index].shape[-2], :].to(self.kvs[index]) for index in part]
            torch.autograd.backward(prefixes, trimmed)

        if self._workers:
            self._workers.map(leave, self._parts)
        else:
            leave(None, self._parts[0])


def prefixes_of(base: LoadedBase, model: PreTrainedModel, shares: Sequence[Share]) -> list[Tensor]:
    """What the rows of each share attend to, with the graph to what is trained.

    A few dozen vectors are too little work for a core, so those of one length are carried through the layers at once.

    Args:
        base: The frozen base.
        model: Its model, or a twin of it that this thread has for itself.
        shares: Whose prefixes are wanted.

    Returns:
        `[L, 2, H_kv, P', D]` for each share, of the P' tokens that it shows.
    """
    vectors = {index: found for index, share in enumerate(shares) if (found := _vectors_of(share)) is not None}
    carried: dict[int, Tensor] = {}
    for length in sorted({found.shape[1] for found in vectors.values()}):
        group = [index for index, found in vectors.items() if found.shape[1] == length]
        kv = kv_of_vectors(base, torch.cat([vectors[index] for index in group]), model)
        carried |= zip(group, kv.unbind(0), strict=True)
    return [_shown(share, _completed(share, carried.get(index))) for index, share in enumerate(shares)]


def _vectors_of(share: Share) -> Tensor | None:
    """Input vectors `[1, P, hidden]` that the base has to carry through its layers, if there are any."""
    if share.method == "prompt-tuning":
        return share.parameterisation.numbers()
    return share.parameterisation.vectors() if isinstance(share.parameterisation, Propagated) else None


def _completed(share: Share, carried: Tensor | None) -> Tensor:
    """`[L, 2, H_kv, P, D]`; what the base carried is all of it, a part of it, or none."""
    if carried is None:
        return share.parameterisation.numbers()[0]
    if isinstance(share.parameterisation, Propagated):
        return share.parameterisation.with_offsets(carried.unsqueeze(0))[0]
    return carried


def _shown(share: Share, kv: Tensor) -> Tensor:
    return kv if share.shown is None else kv[..., share.shown.to(kv.device), :]
