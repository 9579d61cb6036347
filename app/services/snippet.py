"""The lines of Python that ask a prefix, rendered as it was trained: with transformers and PEFT where these load it."""

from typing import Any

from app.services import own_snippet
from app.services.methods import OWN_TENSORS_NAME, PLUS
from app.services.seq2seq_snippet import LINES
from storage.schema.base_model import BaseModelSource
from storage.schema.prefix import Prefix
from worker.engine.families import Geometry
from worker.engine.prefix_file import TENSOR
from worker.engine.rendering import PLACEHOLDER, Rendering, template_blocks, template_columns

LINE_BREAK = repr("\n")
TURN_MARK = "ANSWER-ENDS-HERE"
MAX_NEW_TOKENS = 64

HEAD = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}{base_note}
prefix = "."  # the folder that holds adapter_config.json
tokenizer = AutoTokenizer.from_pretrained(base{revision})
model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype={dtype!r})
model = PeftModel.from_pretrained(model, prefix).eval()

row = {row}
prompt = {prompt}
"""

PLAIN = """\
inputs = tokenizer(prompt.rstrip(" "), return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={max_new_tokens}, do_sample=False)
"""

CHAT = """\
messages = [{{"role": "user", "content": prompt}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
turn = [*messages, {{"role": "assistant", "content": {mark!r}}}]
tail = tokenizer.apply_chat_template(turn, tokenize=False).rpartition({mark!r})[2]
ends = [i for i in tokenizer(tail, add_special_tokens=False).input_ids if i in tokenizer.added_tokens_decoder]
ends = [*ends[:1], tokenizer.eos_token_id]
output = model.generate(**inputs, max_new_tokens={max_new_tokens}, do_sample=False, eos_token_id=ends)
"""

TAIL = """\
answer = output[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True).strip())
"""


def snippet_of(prefix: Prefix, source: BaseModelSource, measured: Geometry) -> str:
    """The lines for one prefix.

    Args:
        prefix: Its row.
        source: Where its base comes from; for one that no hub has, the lines name the folder to unpack.
        measured: Measurements of its base.
    """
    rendering = Rendering.from_dict(prefix.rendering)
    is_hub = source is BaseModelSource.HUB
    note = "" if is_hub else "  # download this base model in Prefix Studio and unpack it beside this folder's files"
    revision = f", revision={prefix.base_revision!r}" if is_hub and prefix.base_revision else ""
    return _lines(prefix.method, measured, is_chat=rendering.uses_chat_template).format(
        name=prefix.name,
        base=prefix.base_model,
        base_note=note,
        revision=revision,
        dtype=_dtype(prefix.metrics),
        row=_row(rendering.template),
        prompt=prompt_expression(rendering.template),
        mark=TURN_MARK,
        tensors=OWN_TENSORS_NAME,
        tensor=TENSOR,
        num_heads=measured.num_kv_heads,
        max_new_tokens=MAX_NEW_TOKENS,
    )


def _lines(method: str, measured: Geometry, *, is_chat: bool) -> str:
    if method == PLUS:
        return own_snippet.HEAD + (own_snippet.CHAT if is_chat else own_snippet.PLAIN)
    return LINES if measured.has_encoder else HEAD + (CHAT if is_chat else PLAIN) + TAIL


def prompt_expression(template: str) -> str:
    """A template as a Python expression over `row`, filled exactly as `render_prompt` fills it.

    `str.format` would not do: column names may hold dots, brackets and colons, and a single brace is no mistake here.
    """
    blocks = template_blocks(template)
    if not any(block.optional for block in blocks):
        return _filled(template)
    pieces = []
    for block in blocks:
        filled = _filled(block.text)
        is_there = " or ".join(f"row[{name!r}]" for name in block.optional)
        pieces.append(f"*([{filled}] if {is_there} else [])" if is_there else filled)
    return f"{LINE_BREAK}.join([{', '.join(pieces)}])"


def _filled(template: str) -> str:
    pieces: list[str] = []
    text, end = "", 0
    for match in PLACEHOLDER.finditer(template):
        text += template[end : match.start()]
        end = match.end()
        if match[1] is None:
            text += match[0][0]
            continue
        pieces += [repr(text)] if text else []
        pieces.append(f"row[{match[1]!r}]")
        text = ""
    text += template[end:]
    pieces += [repr(text)] if text else []
    return " + ".join(pieces) or "''"


def _row(template: str) -> str:
    columns = template_columns(template)
    cells = [f"    {name!r}: {f'your {name}'!r}," for name in columns]
    return "\n".join(["{", *cells, "}"]) if cells else "{}"


def _dtype(metrics: dict[str, Any]) -> str:
    """The number format that the prefix was trained in, so that its answers are those of the app."""
    return "bfloat16" if metrics.get("dtype") == "bfloat16" else "float32"
