"""The pre-training of the starter: what is read, how it is mixed, that it resumes, and what it leaves behind."""

import gzip
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from worker.starter.checkpoint import Clock
from worker.starter.corpus import documents, open_packed, pack, parts, sample_characters
from worker.starter.evaluate import main as evaluate
from worker.starter.export import to_llama
from worker.starter.measure import bits_per_byte, windows
from worker.starter.mixture import Mixture, PartReader
from worker.starter.model import Decoder, Shape
from worker.starter.optimiser import rate_factor
from worker.starter.pretrain import Pretraining, parse_arguments, row_length
from worker.starter.tokenizer import train_tokenizer

SHAPE = Shape(
    vocab_size=300, hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8
)
END = 0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for part, opening in (("stories-000", "One day a dog found"), ("talks-000", "User: I would like")):
        with gzip.open(folder / f"{part}.jsonl.gz", "wt", encoding="utf-8") as file:
            for number in range(150):
                file.write(json.dumps({"text": f"{opening} {number} red apples.", "source": "test"}) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer(sample_characters(corpus, dict.fromkeys(parts(corpus), 10_000)), 300, 1024)


def test_corpus_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no"):
        parts(tmp_path)


def test_held_out_documents_never_occur_in_training_text(corpus: Path) -> None:
    for part in parts(corpus):
        kept = set(documents(corpus, part, held_out=True))
        trained = set(documents(corpus, part, held_out=False))
        assert kept
        assert not kept & trained
        assert len(kept | trained) == 150


def test_tokenizer_gives_back_every_text_and_adds_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Héllo  there,\n\n it's 2026"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize(" 2026") == ["Ġ2", "0", "2", "6"]


def test_chat_template_writes_the_form_of_the_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "User: Hi\nAssistant: Hello.<|endoftext|>"
    prompt = tokenizer.apply_chat_template([*turns, turns[0]], tokenize=False, add_generation_prompt=True)
    assert prompt == "User: Hi\nAssistant: Hello.\nUser: Hi\nAssistant:"


def test_packing_ends_every_document_and_keeps_a_finished_file(
    corpus: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    path = pack(corpus, "talks-000", tokenizer, tmp_path)
    texts = tokenizer.decode(open_packed(path)).split("<|endoftext|>")
    assert sorted(texts[:-1]) == sorted(documents(corpus, "talks-000", held_out=False))
    assert texts[-1] == ""
    written = path.stat().st_mtime_ns
    assert pack(corpus, "talks-000", tokenizer, tmp_path).stat().st_mtime_ns == written


def test_reader_reads_on_and_starts_over_at_the_end() -> None:
    reader = PartReader(np.arange(1, 641, dtype=np.uint16), END)
    rows = [reader.read(10, at_document_start=False) for _ in range(64)]
    assert sorted(int(token) for row in rows for token in row) == list(range(1, 641))
    assert reader.read(3, at_document_start=False).tolist() == [11, 12, 13]


def test_reader_can_begin_where_a_document_does() -> None:
    tokens = np.tile(np.array([5, 6, 7, END], dtype=np.uint16), 100)
    reader = PartReader(tokens, END)
    assert all(reader.read(4, at_document_start=True).tolist() == [5, 6, 7, END] for _ in range(130))


def test_mixture_follows_weight_times_size() -> None:
    packed = {"big": np.full(3000, 1, np.uint16), "small": np.full(1000, 2, np.uint16)}
    mixture = Mixture(packed, END, seed=0)
    rows = mixture.batch(400, 8, {"small": 9.0})
    assert rows.shape == (400, 9)
    assert (rows[:, 0] == 2).float().mean().item() == pytest.approx(0.75, abs=0.06)
    assert mixture.num_read["big"] + mixture.num_read["small"] == 400 * 8


def test_mixture_resumes_with_the_rows_that_would_have_come() -> None:
    packed = {"one": np.arange(5000, dtype=np.uint16), "two": np.arange(7000, dtype=np.uint16)}
    first, second = Mixture(packed, END, seed=0), Mixture(packed, END, seed=9)
    first.batch(50, 16, {})
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert torch.equal(first.batch(20, 16, {}), second.batch(20, 16, {}))


@pytest.mark.parametrize("longest_plain", [0, 512], ids=["fused attention", "plain attention"])
def test_decoder_computes_what_transformers_computes(
    tokenizer: PreTrainedTokenizerFast, longest_plain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.starter.model.LONGEST_PLAIN_ATTENTION", longest_plain)
    decoder = Decoder(SHAPE, seed=3)
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(weight.numel()))
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            decoder(ids), to_llama(decoder, tokenizer)(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )


def test_rate_rises_stays_and_falls_to_zero() -> None:
    assert 0 < rate_factor(0.0) < rate_factor(0.005) < rate_factor(0.1) == 1.0
    assert rate_factor(0.65) == pytest.approx(0.5)
    assert rate_factor(1.0) == 0.0
    assert (row_length(0.0), row_length(1.0)) == (256, 1024)


def test_clock_of_a_resumed_run_starts_at_its_progress_and_ends_at_the_deadline() -> None:
    assert Clock(0.4, time.time() + 1000).progress() == pytest.approx(0.4, abs=0.01)
    assert Clock(0.4, time.time() - 1).progress() == 1.0


@pytest.mark.parametrize(("num_ids", "length"), [(2, 8), (9, 8), (10, 8), (100, 8), (31, 5)])
def test_windows_predict_every_token_once_within_the_length(num_ids: int, length: int) -> None:
    ids = list(range(num_ids))
    predicted = []
    for piece, num_predicted in windows(ids, length):
        assert len(piece) <= length + 1
        predicted += piece[-num_predicted:]
    assert predicted == ids[1:]


def test_bits_per_byte_of_a_uniform_model_is_the_logarithm_of_its_vocabulary(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = ["One day a dog found 7 red apples.", "Naïve" * 30]
    num_tokens = sum(len(ids) for ids in tokenizer(texts).input_ids)
    measured = bits_per_byte(lambda ids: torch.zeros(*ids.shape, 300), tokenizer, texts, length=16)
    assert measured == pytest.approx(math.log2(300) * num_tokens / sum(len(text.encode()) for text in texts), rel=1e-5)


def test_interrupted_run_goes_on_as_if_it_had_not_stopped(corpus: Path, tmp_path: Path) -> None:
    deadline = time.time() + 100_000
    first = Pretraining(corpus, tmp_path, SHAPE, deadline, compiled=False)
    losses = [first.step() for _ in range(3)]
    first.save()
    second = Pretraining(corpus, tmp_path, SHAPE, deadline, compiled=False)
    assert second.counters == first.counters
    second.clock = first.clock
    assert second.step() == pytest.approx(first.step(), abs=1e-4)
    assert losses[-1] < losses[0]


def test_run_that_is_told_to_end_saves_and_exports_nothing(corpus: Path, tmp_path: Path) -> None:
    run = Pretraining(corpus, tmp_path, SHAPE, time.time() + 100_000, compiled=False)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    before = signal.getsignal(signal.SIGTERM)
    try:
        run.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Pretraining(corpus, tmp_path, SHAPE, time.time(), compiled=False).counters.step == run.counters.step > 0
    assert not (tmp_path / "export").exists()


def test_finished_run_leaves_a_folder_that_transformers_loads(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Pretraining(corpus, tmp_path, SHAPE, time.time() + 2.0, compiled=False)
    run.run()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "export").eos_token == "<|endoftext|>"
    record = json.loads((tmp_path / "export" / "training.json").read_text())
    assert record["progress"] == 1.0
    assert set(record["bits_per_byte_sample"]) == set(parts(corpus))
    evaluate([str(tmp_path / "export"), "--corpus", str(corpus), "--length", "64"])
    assert "all parts" in capsys.readouterr().out


def test_command_wants_one_end_of_the_run() -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--corpus", "c", "--state", "s"])
    assert parse_arguments(["--corpus", "c", "--state", "s", "--until", "2026-01-01T12:00Z"]).until.year == 2026
