"""From the columns of a request to rows of the running batch: token ids, limits, prefixes."""

from dataclasses import dataclass

from storage.errors import TooLargeError
from worker.engine.bank import NO_PREFIX, SlotPrefix
from worker.engine.generate import GenerationRow, cap_new_tokens, end_ids
from worker.engine.tokens import end_token_id
from worker.inference.batch import Batch, Column, Started
from worker.inference.requests import Sampling
from worker.inference.resident import Resident


@dataclass(frozen=True)
class Prepared:
    """A request that can begin.

    Attributes:
        rows: One a column; slot 0 where it has a prefix.
        prefixes: Of each, or None.
        started: What each is about to compute.
    """

    rows: list[GenerationRow]
    prefixes: list[SlotPrefix | None]
    started: list[Started]


def prepare(resident: Resident, batch: Batch) -> Prepared:
    """Reads prompts and prefixes of a request.

    Raises:
        StudioError: A prefix cannot be used, or the request needs too much memory.
        EngineError: A prompt cannot be read, or is too long.
    """
    # At strength 0 the column is the base's own row, so that its prefix is neither read nor counted.
    entries = [column.target.prefix if column.strength > 0 else None for column in batch.columns]
    prefixes = [None if entry is None else resident.prefix(entry) for entry in entries]
    rows = [
        _row(resident, column, prefix, batch.sampling) for column, prefix in zip(batch.columns, prefixes, strict=True)
    ]
    started = [
        _started(resident, index, row, prefix) for index, (row, prefix) in enumerate(zip(rows, prefixes, strict=True))
    ]
    return Prepared(rows, prefixes, started)


def _row(resident: Resident, column: Column, prefix: SlotPrefix | None, sampling: Sampling) -> GenerationRow:
    source = column.example_source
    shots = resident.shots(source) if column.context == "few-shot" and source is not None else ()
    base = resident.base
    prompt_ids = column.prompt.encode(base.tokenizer, column.context, shots)
    num_virtual_tokens = 0 if prefix is None else prefix.num_virtual_tokens
    return GenerationRow(
        prompt_ids=tuple(prompt_ids),
        slot=NO_PREFIX if prefix is None else 0,
        max_new_tokens=_max_new_tokens(resident, len(prompt_ids), num_virtual_tokens, sampling.max_tokens),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=None if sampling.seed is None else (sampling.seed + column.draw) % 2**63,
        stop=sampling.stop,
        top_logprobs=sampling.top_logprobs or 0,
        end_ids=end_ids(base, end_token_id(base.tokenizer, column.prompt.kind_for(base.tokenizer))),
        strength=column.strength,
    )


def _max_new_tokens(resident: Resident, num_prompt_tokens: int, num_virtual_tokens: int, wish: int) -> int:
    """As many as the context has room for, and the memory that one row may take."""
    geometry = resident.base.geometry
    capped = cap_new_tokens(
        num_prompt_tokens, num_virtual_tokens, wish, geometry.context_length, has_encoder=geometry.has_encoder
    )
    room = resident.max_row_columns - num_prompt_tokens - num_virtual_tokens
    if room < 1:
        raise TooLargeError(
            f"The prompt has {num_prompt_tokens:,} tokens, and there is memory for "
            f"{max(resident.max_row_columns - num_virtual_tokens - 1, 0):,} now. Shorten it."
        )
    return min(capped, room)


def _started(resident: Resident, index: int, row: GenerationRow, prefix: SlotPrefix | None) -> Started:
    prompt = resident.base.tokenizer.decode(list(row.prompt_ids), clean_up_tokenization_spaces=False)
    prefix_tokens = 0 if prefix is None else prefix.num_virtual_tokens
    return Started(index, prompt, len(row.prompt_ids), prefix_tokens, row.max_new_tokens, row.prompt_ids)
