"""Bits per byte of any model folder on the corpus's held-out documents.

`python -m worker.starter.evaluate MODEL_FOLDER --corpus CORPUS` prints one line a part, and the mean over all bytes.
Two models are compared on the same text, since a document's hash decides whether it is held out.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.starter.corpus import held_out_texts
from worker.starter.measure import bits_per_byte


def measure_folder(
    folder: Path, texts: dict[str, list[str]], length: int | None = None
) -> dict[str, tuple[float, int]]:
    """Bits per byte and number of bytes of each part.

    Args:
        folder: Model and tokenizer as transformers saves them.
        texts: Held-out documents of each part.
        length: Longest input in tokens; the model's context where None.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    length = length or model.config.max_position_embeddings

    def logits(ids: Tensor) -> Tensor:
        output: Tensor = model(input_ids=ids, use_cache=False).logits
        return output

    return {
        part: (bits_per_byte(logits, tokenizer, documents, length), sum(len(text.encode()) for text in documents))
        for part, documents in texts.items()
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Bits per byte of a model folder on held-out documents.")
    parser.add_argument("model", type=Path, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with *.jsonl.gz shards")
    parser.add_argument("--bytes", type=int, default=100_000, help="held-out text per part, about")
    parser.add_argument("--length", type=int, help="longest input in tokens; the model's context if left out")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    figures = measure_folder(options.model, held_out_texts(options.corpus, options.bytes), options.length)
    for part, (bits, size_bytes) in figures.items():
        print(f"{part:28} {bits:6.3f} bits per byte of {size_bytes:9,} bytes")
    total = sum(size_bytes for _, size_bytes in figures.values())
    mean = sum(bits * size_bytes for bits, size_bytes in figures.values()) / total
    print(f"{'all parts':28} {mean:6.3f} bits per byte of {total:9,} bytes")


if __name__ == "__main__":
    main()
