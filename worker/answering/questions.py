"""Rows of a table as prompts: rendered and encoded by the contract, or left out with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from worker.engine.chat_template import MAX_PROMPT_CHARACTERS
from worker.engine.conversations import ConversationError, read_turns, readable, write_turns
from worker.engine.errors import ContextOverflowError, EngineError
from worker.engine.families import Geometry
from worker.engine.generate import cap_new_tokens
from worker.engine.rendering import Rendering, render_prompt, template_columns
from worker.engine.tokens import encode_prompt

MAX_SHOWN = 500


@dataclass(frozen=True)
class Answer:
    """What becomes of one row.

    Attributes:
        row: Its place in the table, from 0.
        text: The answer; empty where there is none.
        note: Why there is no answer, or why it is cut; empty where all is well.
        num_tokens: Tokens that were written for it.
    """

    row: int
    text: str
    note: str = ""
    num_tokens: int = 0


@dataclass(frozen=True)
class Question:
    """One row that can be asked.

    Attributes:
        row: Its place in the table, from 0.
        prompt_ids: As the model reads it.
        max_new_tokens: Tokens that its answer may have.
        shown: The beginning of the prompt, as a person reads it.
    """

    row: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    shown: str

    def num_tokens(self) -> int:
        """Its prompt and the longest answer that it may get."""
        return len(self.prompt_ids) + self.max_new_tokens


class Asker:
    """Turns rows into questions.

    Args:
        tokenizer: Tokenizer of the base.
        geometry: Measurements of the base.
        rendering: How the prefix renders, its kind decided.
        mapping: Column of the template to column of the table.
        num_virtual_tokens: Length of the prefix; 0 without one.
        max_tokens: The most tokens of an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        geometry: Geometry,
        rendering: Rendering,
        mapping: Mapping[str, str],
        *,
        num_virtual_tokens: int,
        max_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._geometry = geometry
        self._rendering = rendering
        self._names = template_columns(rendering.template)
        self._mapping = mapping
        self._num_virtual_tokens = num_virtual_tokens
        self.max_tokens = max_tokens

    @property
    def columns(self) -> list[str]:
        """The columns of the table that prompts are made of."""
        return [self._mapping.get(name, name) for name in self._names]

    def ask(self, row: int, cells: Sequence[str]) -> Question | Answer:
        """A row as a question; as an answer without text where it cannot be asked, which says why.

        Args:
            row: Its place in the table.
            cells: Those of `columns`.
        """
        try:
            prompt = self._prompt(dict(zip(self._names, cells, strict=True)))
            if len(prompt) > MAX_PROMPT_CHARACTERS:
                return Answer(
                    row,
                    "",
                    f"Not answered: the prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are "
                    "read.",
                )
            ids = tuple(encode_prompt(self._tokenizer, self._rendering, prompt))
            room = cap_new_tokens(
                len(ids),
                self._num_virtual_tokens,
                self.max_tokens,
                self._geometry.context_length,
                has_encoder=self._geometry.has_encoder,
            )
        except ContextOverflowError:
            return Answer(
                row, "", f"Not answered: the prompt has {len(ids):,} tokens; there is room for {self._room():,}."
            )
        except EngineError as error:
            return Answer(row, "", f"Not answered: {error.message}")
        return Question(row, ids, room, readable(self._rendering.kind, prompt)[:MAX_SHOWN])

    def _room(self) -> int:
        """Tokens of the longest prompt that leaves room for one token."""
        context = self._geometry.context_length
        return context if self._geometry.has_encoder else context - self._num_virtual_tokens - 1

    def _prompt(self, cells: Mapping[str, str]) -> str:
        if self._rendering.kind != "conversation":
            return render_prompt(self._rendering.template, cells)
        turns = read_turns(cells[self._names[0]])
        while turns and turns[-1]["role"] == "assistant":
            turns = turns[:-1]
        if not turns:
            raise ConversationError("The conversation holds nothing that could be answered.")
        return write_turns(turns)
