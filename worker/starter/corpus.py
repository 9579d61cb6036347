"""The pre-training text: documents by part, a fixed held-out share of each, and packed token files."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

HELD_OUT_PERCENT = 2
DOCUMENTS_PER_WRITE = 1000
TokenIds = np.ndarray[tuple[int], np.dtype[np.uint16]]


def parts(corpus: Path) -> list[str]:
    """Names of the corpus's parts, one gzip JSONL shard each, in order.

    Raises:
        FileNotFoundError: The folder holds no shard.
    """
    names = sorted(path.name.removesuffix(".jsonl.gz") for path in corpus.glob("*.jsonl.gz"))
    if not names:
        raise FileNotFoundError(f"{corpus} holds no *.jsonl.gz shard; expected the pre-training corpus there.")
    return names


def is_held_out(text: str) -> bool:
    """Whether a document is kept for evaluation; its hash decides, so the answer never changes."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def documents(corpus: Path, part: str, *, held_out: bool) -> Iterator[str]:
    """The texts of one part, in file order.

    Args:
        corpus: Folder with the shards.
        part: Name of a shard without its suffix.
        held_out: Yield the evaluation documents instead of the training documents.
    """
    with gzip.open(corpus / f"{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            if is_held_out(text) == held_out:
                yield text


def shuffled(texts: list[str]) -> list[str]:
    """The same texts in an order given by their hashes, so that neighbours come from different sources."""
    return sorted(texts, key=lambda text: hashlib.sha256(b"order" + text.encode()).digest())


def sample_characters(corpus: Path, wanted: dict[str, int]) -> Iterator[str]:
    """Training documents of each part, up to a number of characters a part: the tokenizer's training text."""
    for part, num_characters in wanted.items():
        for text in shuffled(list(documents(corpus, part, held_out=False))):
            if num_characters <= 0:
                break
            num_characters -= len(text)
            yield text


def held_out_texts(corpus: Path, num_bytes: int) -> dict[str, list[str]]:
    """Evaluation documents of each part, the first ones up to a number of bytes."""
    chosen: dict[str, list[str]] = {}
    for part in parts(corpus):
        size, texts = 0, []
        for text in shuffled(list(documents(corpus, part, held_out=True))):
            if size >= num_bytes:
                break
            texts.append(text)
            size += len(text.encode())
        if texts:
            chosen[part] = texts
    return chosen


def pack(corpus: Path, part: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Writes the training documents of a part as one row of uint16 token ids, an end token after each document.

    A file that exists already is kept: it is written under another name first, so it is whole.

    Returns:
        The file, for `numpy.memmap`.
    """
    path = folder / f"{part}.tokens"
    if path.exists():
        return path
    texts = shuffled(list(documents(corpus, part, held_out=False)))
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        for start in range(0, len(texts), DOCUMENTS_PER_WRITE):
            for ids in tokenizer(texts[start : start + DOCUMENTS_PER_WRITE], verbose=False)["input_ids"]:
                np.asarray([*ids, tokenizer.eos_token_id], dtype=np.uint16).tofile(file)
    unfinished.rename(path)
    return path


def open_packed(path: Path) -> TokenIds:
    """Token ids of a packed part, read from disk as they are needed."""
    return np.memmap(path, dtype=np.uint16, mode="r")
