"""What a model folder writes by itself: fixed beginnings, fixed seeds, nothing chosen or mended.

`python -m worker.starter.sample MODEL_FOLDER` prints each beginning with its continuation. `CHAT` goes through the chat
template, the others stand as they are.
"""

import argparse
from pathlib import Path

from worker.engine.base import LoadedBase, load_base
from worker.engine.generate import GenerationRow, end_ids, stream
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_prompt, end_token_id

BEGINNINGS = (
    "Once upon a time there was a little",
    "The king looked at his daughter and said",
    "The capital of the country is",
    "This film is",
)
CHAT = ("Hello, I want to book a table for two.", "What do you like to eat?")
MAX_NEW_TOKENS = 60
TEMPERATURE = 0.7
TOP_P = 0.95


def write(base: LoadedBase, prompts: list[str], kind: str) -> list[str]:
    """One continuation for each prompt; the row's number is its seed.

    Args:
        base: A loaded base.
        prompts: As text.
        kind: `plain` or `chat`.
    """
    rendering = Rendering(template="{prompt}", target="answer", kind="chat" if kind == "chat" else "plain")
    ends = end_ids(base, end_token_id(base.tokenizer, rendering.kind))
    rows = [
        GenerationRow(
            prompt_ids=tuple(encode_prompt(base.tokenizer, rendering, prompt)),
            max_new_tokens=MAX_NEW_TOKENS,
            end_ids=ends,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seed=seed,
        )
        for seed, prompt in enumerate(prompts)
    ]
    texts = [""] * len(rows)
    for events in stream(base, None, rows):
        for event in events:
            texts[event.row] += event.text
    return texts


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Unedited samples of a model folder.")
    parser.add_argument("model", type=Path, help="folder with config.json, weights and tokenizer")
    base = load_base(parser.parse_args(arguments).model, device="cpu", dtype="float32")
    for prompts, kind in ((BEGINNINGS, "plain"), (CHAT, "chat")):
        for prompt, text in zip(prompts, write(base, list(prompts), kind), strict=True):
            print(f"[{prompt}]{text}\n")


if __name__ == "__main__":
    main()
