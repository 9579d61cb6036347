"""The prefixes of a pass as keys and values: the input vectors of all of them go through the base together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from worker.engine.bank import SlotPrefix
from worker.engine.base import LoadedBase
from worker.engine.example import Example
from worker.engine.parameterisation import Parameterisation
from worker.engine.prompt_tuning import kv_of_vectors
from worker.engine.propagated import Propagated
from worker.engine.recipe import Method
from worker.engine.side_by_side import SideBySide
from worker.engine.with_outside import WithOutside


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
        prefixes: Of each share, with their graph; of the virtual tokens that it shows.
    """

    def __init__(self, base: LoadedBase, shares: Sequence[Share], workers: SideBySide | None) -> None:
        self._workers = workers
        num_parts = min(workers.num_workers, len(shares)) if workers else 1
        self._parts = [list(range(first, len(shares), num_parts)) for first in range(num_parts)]

        def carry(model: PreTrainedModel, part: Sequence[int]) -> list[SlotPrefix]:
            return prefixes_of(base, model, [shares[index] for index in part])

        carried = workers.map(carry, self._parts) if workers else [carry(base.model, self._parts[0])]
        by_share = dict(zip(chain(*self._parts), chain(*carried), strict=True))
        self.prefixes = [by_share[index] for index in range(len(shares))]

    def leave(self, of_kv: Tensor, of_outside: Tensor | None) -> None:
        """Leaves the gradients at the trained tensors.

        Args:
            of_kv: In the order of the shares, `[S, L, 2, H_kv, P, D]`, each from its first token.
            of_outside: Of what stands outside the softmax, `[S, L, 2, H_kv, R, D]`; None where nothing does.
        """

        def leave(_: PreTrainedModel | None, part: Sequence[int]) -> None:
            pairs = [(self.prefixes[index].kv, of_kv[index]) for index in part]
            if of_outside is not None:
                outsides = [(self.prefixes[index].outside, of_outside[index]) for index in part]
                pairs += [(tensor, gradient) for tensor, gradient in outsides if tensor is not None]
            trimmed = [gradient[..., : tensor.shape[-2], :].to(tensor) for tensor, gradient in pairs]
            torch.autograd.backward([tensor for tensor, _ in pairs], trimmed)

        if self._workers:
            self._workers.map(leave, self._parts)
        else:
            leave(None, self._parts[0])


def prefixes_of(base: LoadedBase, model: PreTrainedModel, shares: Sequence[Share]) -> list[SlotPrefix]:
    """What the rows of each share attend to, with the graph to what is trained.

    A few dozen vectors are too little work for a core, so those of one length are carried through the layers at once.

    Args:
        base: The frozen base.
        model: Its model, or a twin of it that this thread has for itself.
        shares: Whose prefixes are wanted.
    """
    vectors = {index: found for index, share in enumerate(shares) if (found := _vectors_of(share)) is not None}
    carried: dict[int, Tensor] = {}
    for length in sorted({found.shape[1] for found in vectors.values()}):
        group = [index for index, found in vectors.items() if found.shape[1] == length]
        kv = kv_of_vectors(base, torch.cat([vectors[index] for index in group]), model)
        carried |= zip(group, (one.unsqueeze(0) for one in kv.unbind(0)), strict=True)
    return [_shown(share, _completed(share, carried.get(index))) for index, share in enumerate(shares)]


def _vectors_of(share: Share) -> Tensor | None:
    """Input vectors `[1, P, hidden]` that the base has to carry through its layers, if there are any."""
    if share.method == "prompt-tuning":
        return share.parameterisation.numbers()
    inside = _inside(share)
    return inside.vectors() if isinstance(inside, Propagated) else None


def _completed(share: Share, carried: Tensor | None) -> SlotPrefix:
    """What the base carried, `[1, L, 2, H_kv, P, D]`, is all of the prefix, a part of it, or none."""
    if carried is None:
        carried = share.parameterisation.numbers()
    else:
        inside = _inside(share)
        carried = inside.with_offsets(carried) if isinstance(inside, Propagated) else carried
        if isinstance(share.parameterisation, WithOutside):
            carried = share.parameterisation.around(carried)
    return SlotPrefix.of(share.method, carried[0])


def _inside(share: Share) -> Parameterisation:
    whole = share.parameterisation
    return whole.inside if isinstance(whole, WithOutside) else whole


def _shown(share: Share, prefix: SlotPrefix) -> SlotPrefix:
    if share.shown is None:
        return prefix
    return SlotPrefix(prefix.kv[..., share.shown.to(prefix.kv.device), :], prefix.outside)
