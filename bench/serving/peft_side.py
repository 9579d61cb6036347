"""The peer: PEFT's own prefix tuning with several adapters on one model, in the two ways that it offers."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.serving.model import NUM_VIRTUAL_TOKENS, Ask
from bench.serving.timing import Timed


class PeftServer:
    """A base with PEFT's adapters, one active at a time.

    Args:
        model: The base, in the number format of the other side.
        prefixes: `[N, L, 2, H_kv, P, D]`, the same numbers as the other side's.
        clock: What tells the time in seconds.
    """

    def __init__(self, model: PreTrainedModel, prefixes: Tensor, clock: Callable[[], float]) -> None:
        from peft import PrefixTuningConfig, get_peft_model

        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=NUM_VIRTUAL_TOKENS, inference_mode=True)
        self.clock = clock
        self.model = get_peft_model(model, config, adapter_name="0")
        for index in range(1, len(prefixes)):
            self.model.add_adapter(str(index), config)
        with torch.no_grad():
            for index, numbers in enumerate(prefixes):
                flat = numbers.permute(3, 0, 1, 2, 4).reshape(NUM_VIRTUAL_TOKENS, -1)
                self.model.prompt_encoder[str(index)].embedding.weight.copy_(flat)
        self.model.eval()

    def switch(self, asks: Sequence[Ask], num_tokens: int) -> tuple[Timed, list[list[int]]]:
        """Answers one request after another, each with its adapter."""
        return self._answer([[place] for place in range(len(asks))], asks, num_tokens)

    def batch(self, asks: Sequence[Ask], num_tokens: int) -> tuple[Timed, list[list[int]]]:
        """Answers all requests of an adapter in one batch, one adapter after another."""
        by_prefix = defaultdict(list)
        for place, ask in enumerate(asks):
            by_prefix[ask.prefix].append(place)
        return self._answer(list(by_prefix.values()), asks, num_tokens)

    def _answer(
        self, groups: Sequence[Sequence[int]], asks: Sequence[Ask], num_tokens: int
    ) -> tuple[Timed, list[list[int]]]:
        answers: list[list[int]] = [[] for _ in asks]
        began = self.clock()
        for group in groups:
            self.model.set_adapter(str(asks[group[0]].prefix))
            for place, ids in zip(group, self._generate([asks[place] for place in group], num_tokens), strict=True):
                answers[place] = ids
        return Timed(sum(map(len, answers)), self.clock() - began), answers

    @torch.inference_mode()
    def _generate(self, asks: Sequence[Ask], num_tokens: int) -> list[list[int]]:
        longest = max(len(ask.prompt_ids) for ask in asks)
        padding = [longest - len(ask.prompt_ids) for ask in asks]
        ids = [[0] * missing + list(ask.prompt_ids) for ask, missing in zip(asks, padding, strict=True)]
        mask = [[0] * missing + [1] * (longest - missing) for missing in padding]
        device = self.model.device
        made = self.model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            max_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        answers: list[list[int]] = made[:, longest:].tolist()
        return answers
