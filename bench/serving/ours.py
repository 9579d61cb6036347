"""Our side: the inference role's own runner, asked as its routes ask it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from bench.serving.model import NUM_VIRTUAL_TOKENS, Ask, word_tokenizer
from bench.serving.timing import Timed
from worker.engine.base import LoadedBase, prepare_base
from worker.engine.families import Geometry
from worker.engine.prefix_file import PrefixArray, write_prefix_file
from worker.engine.rendering import Rendering
from worker.inference.batch import BatchEvent, Column, Piece, batch_of
from worker.inference.prompts import RawPrompt
from worker.inference.registry import BaseEntry, PrefixEntry, Registry, Target
from worker.inference.requests import Sampling
from worker.inference.resident import Resident
from worker.inference.runner import Runner

NAME, FINGERPRINT = "base", "f" * 64
RENDERING = Rendering("plain", "", "")


class PrefixFiles:
    """Prefixes as files, found as the registry finds them.

    Args:
        prefixes: `[N, L, 2, H_kv, P, D]`.
        folder: Where to write them.
    """

    def __init__(self, prefixes: Tensor, folder: Path) -> None:
        self._folder = folder
        self.entries = [
            PrefixEntry(
                f"prefix {index}", str(index), "prefix-tuning", NUM_VIRTUAL_TOKENS, FINGERPRINT, RENDERING, None
            )
            for index in range(len(prefixes))
        ]
        for entry, values in zip(self.entries, prefixes, strict=True):
            write_prefix_file(self.prefix_path(entry), PrefixArray.of("prefix-tuning", values.numpy()))

    def prefix_path(self, prefix: PrefixEntry) -> Path:
        """Where the numbers of a prefix lie."""
        return self._folder / f"{prefix.artifact_hash}.safetensors"


@dataclass
class Answered:
    """What a request got.

    Attributes:
        token_ids: Of each column.
        first_at: When its first token came.
    """

    token_ids: list[list[int]] = field(default_factory=list)
    first_at: float = 0.0


class OurServer:
    """A loaded base with its prefixes, and the runner that answers.

    Args:
        model: The base.
        measured: Its measurements.
        prefixes: `[N, L, 2, H_kv, P, D]`.
        clock: What tells the time in seconds.
    """

    def __init__(
        self, model: PreTrainedModel, measured: Geometry, prefixes: Tensor, clock: Callable[[], float]
    ) -> None:
        self.clock = clock
        self._folder = tempfile.TemporaryDirectory()
        self._files = PrefixFiles(prefixes, Path(self._folder.name))
        base = prepare_base(model, word_tokenizer(measured.vocab_size), measured)
        self._resident = self._make_resident(base)
        self._runner = Runner(NAME, lambda: self._resident)
        self._entry = BaseEntry("0", NAME, Path(), "")

    def answer(self, asks: Sequence[Ask], num_tokens: int) -> tuple[Timed, list[list[int]]]:
        """Answers requests that come at once, each on its own; returns the tokens of each."""
        began = self.clock()
        answers = asyncio.run(self._all([[ask] for ask in asks], num_tokens))
        seconds = self.clock() - began
        token_ids = [answered.token_ids[0] for answered in answers]
        return Timed(sum(map(len, token_ids)), seconds), token_ids

    def decode(self, asks: Sequence[Ask], num_tokens: int) -> Timed:
        """Answers one comparison; the time is that behind its first tokens."""

        async def one() -> Timed:
            answered = await self._one(asks, num_tokens)
            return Timed(sum(len(ids) - 1 for ids in answered.token_ids), self.clock() - answered.first_at)

        return asyncio.run(one())

    def first_token_s(self, ask: Ask, others: Sequence[Ask], num_tokens: int) -> float:
        """Seconds of the wall until a newcomer has its first token while others stream.

        Args:
            ask: The newcomer's.
            others: Streams under way, each with a token at least.
            num_tokens: Length of their answers.
        """
        return asyncio.run(self._newcomer(ask, others, num_tokens))

    def close(self) -> None:
        """Removes the files."""
        self._folder.cleanup()

    def _make_resident(self, base: LoadedBase) -> Resident:
        return Resident(base, FINGERPRINT, NAME, cast(Registry, self._files))

    def _events(self, asks: Sequence[Ask], num_tokens: int) -> AsyncGenerator[BatchEvent, None]:
        columns = [
            Column(
                Target(self._entry, None if ask.prefix is None else self._files.entries[ask.prefix]),
                RawPrompt(ask.text),
            )
            for ask in asks
        ]
        sampling = Sampling(num_tokens, temperature=0.0, top_p=1.0, seed=None, stop=())
        events: AsyncGenerator[Any, None] = self._runner.submit(batch_of(columns, sampling)).events()
        return events

    async def _all(self, requests: Sequence[Sequence[Ask]], num_tokens: int) -> list[Answered]:
        return await asyncio.gather(*(self._one(asks, num_tokens) for asks in requests))

    async def _one(self, asks: Sequence[Ask], num_tokens: int) -> Answered:
        answered = Answered([[] for _ in asks])
        async with aclosing(self._events(asks, num_tokens)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    answered.token_ids[event.column].append(event.token_id)
                    if not answered.first_at and all(answered.token_ids):
                        answered.first_at = self.clock()
        return answered

    async def _newcomer(self, ask: Ask, others: Sequence[Ask], num_tokens: int) -> float:
        streams = [self._events([other], num_tokens) for other in others]
        try:
            await asyncio.gather(*(_first_piece(stream) for stream in streams))
            began = time.perf_counter()
            async with aclosing(self._events([ask], num_tokens)) as events:
                await _first_piece(events)
            return time.perf_counter() - began
        finally:
            for stream in streams:
                await stream.aclose()


async def _first_piece(events: AsyncGenerator[BatchEvent, None]) -> None:
    async for event in events:
        if isinstance(event, Piece):
            return
