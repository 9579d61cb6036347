"""The three ways to ask: raw text, messages, or the fields of a template; each becomes token ids by the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from worker.engine.chat_template import MAX_PROMPT_CHARACTERS, Message, conversation_ids, with_instruction
from worker.engine.conversations import readable, with_examples
from worker.engine.rendering import PLACEHOLDER, Rendering, RenderingKind, render_prompt
from worker.engine.tokens import Context, KindWish, choose_rendering_kind, encode_prompt, raw_prompt_ids
from worker.inference.errors import InvalidRequestError

Shots = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class RawPrompt:
    """Text that goes to the model as it is."""

    text: str
    rendering: Rendering | None = None

    def kind_for(self, tokenizer: PreTrainedTokenizerBase) -> RenderingKind:
        """Always plain."""
        return "plain"

    def encode(self, tokenizer: PreTrainedTokenizerBase, context: Context, shots: Shots) -> list[int]:
        """Ids of the text; with a context before it as in plain rendering."""
        if context == "none":
            return raw_prompt_ids(tokenizer, self.text)
        rendering = require_rendering(self.rendering, context)
        plain, shots = (
            replace(rendering, kind="plain"),
            [(readable(rendering.kind, asked), told) for asked, told in shots],
        )
        return encode_prompt(tokenizer, plain, self.text, context=context, few_shot=shots)


@dataclass(frozen=True)
class ChatPrompt:
    """Messages that go through the base's chat template."""

    messages: tuple[Message, ...]
    rendering: Rendering | None = None

    def kind_for(self, tokenizer: PreTrainedTokenizerBase) -> RenderingKind:
        """Always chat."""
        return "chat"

    def encode(self, tokenizer: PreTrainedTokenizerBase, context: Context, shots: Shots) -> list[int]:
        """Ids of the conversation up to where the assistant speaks."""
        messages: list[Message] = list(self.messages)
        if context == "instruction":
            rendering = require_rendering(self.rendering, context)
            messages = with_instruction(tokenizer, messages, rendering.instruction)
        elif context == "few-shot":
            holds_turns = self.rendering is not None and self.rendering.kind == "conversation"
            messages = with_examples(messages, shots, may_hold_turns=holds_turns)
        return conversation_ids(tokenizer, messages)


@dataclass(frozen=True)
class FieldsPrompt:
    """Cells that are filled into a template, for every column alike, so that the comparison is fair."""

    fields: Mapping[str, str]
    rendering: Rendering
    wish: KindWish

    def kind_for(self, tokenizer: PreTrainedTokenizerBase) -> RenderingKind:
        """The kind that was wished for, or what suits the base."""
        return choose_rendering_kind(tokenizer, self.wish)

    def encode(self, tokenizer: PreTrainedTokenizerBase, context: Context, shots: Shots) -> list[int]:
        """Ids of the rendered prompt."""
        if context != "none":
            require_rendering(self.rendering, context)
        rendering = replace(self.rendering, kind=self.kind_for(tokenizer))
        return encode_prompt(tokenizer, rendering, self._prompt(), context=context, few_shot=shots)

    def _prompt(self) -> str:
        # A template may name a column many times, so the length is counted before the text is built.
        named = [match[1] for match in PLACEHOLDER.finditer(self.rendering.template) if match[1]]
        num_characters = sum(len(self.fields.get(name, "")) for name in named) + len(self.rendering.template)
        if num_characters > MAX_PROMPT_CHARACTERS:
            raise InvalidRequestError(
                f"The filled-in prompt has about {num_characters:,} characters; expected at most "
                f"{MAX_PROMPT_CHARACTERS:,}. Shorten the fields.",
                param="fields",
            )
        return render_prompt(self.rendering.template, self.fields)


Prompt = RawPrompt | ChatPrompt | FieldsPrompt


def require_rendering(rendering: Rendering | None, context: Context) -> Rendering:
    """The rendering that a context needs.

    Raises:
        InvalidRequestError: There is none, or it has no instruction to put in front.
    """
    if rendering is None:
        raise InvalidRequestError(
            f"The context {context!r} needs a rendering: put a prefix among the models, or send `rendering`.",
            param="models",
        )
    if context == "instruction" and not rendering.instruction:
        raise InvalidRequestError(
            "There is no written instruction to put in front of the prompt. Choose another context, or send a "
            "`rendering` with an instruction.",
            param="models",
        )
    return rendering
