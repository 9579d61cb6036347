"""Encoder-decoders through the engine: loss, generation, start from a text, file."""

import json

import pytest
import torch

from tests.tiny_seq2seq import (
    END_ID,
    PAD_ID,
    SEQ2SEQ_CONTEXT,
    SEQ2SEQ_FAMILIES,
    START_ID,
    tiny_seq2seq,
    tiny_seq2seq_folder,
    tiny_seq2seq_tokenizer,
)
from worker.engine.bank import NO_PREFIX, PrefixBank
from worker.engine.base import LoadedBase, load_base, prepare_base, weights_hash
from worker.engine.batches import collate
from worker.engine.errors import ContextOverflowError, UnsupportedModelError
from worker.engine.evaluate import evaluate
from worker.engine.example import Example
from worker.engine.families import geometry
from worker.engine.generate import GenerationRow, cap_new_tokens, end_ids, stream, untouched_logits
from worker.engine.initialise import initial_numbers, text_kv
from worker.engine.loss import target_loss
from worker.engine.prefix_file import PrefixArray, read_prefix_file, write_prefix_file
from worker.engine.prompt_tuning import load_bank
from worker.engine.recipe import Recipe
from worker.engine.rendering import Rendering
from worker.engine.tokens import encode_example, encode_prompt, initialisation_ids
from worker.engine.train import train

RENDERING = Rendering(kind="plain", template="Review: {text}", target="label", instruction="Sort the review.")
ROWS = [{"text": "a delight", "label": "positive"}, {"text": "slow and cold soup", "label": "negative or so"}]


def base_of(family: str) -> LoadedBase:
    model = tiny_seq2seq(family)
    return prepare_base(model, tiny_seq2seq_tokenizer(family), geometry(json.loads(model.config.to_json_string())))


def examples_of(base: LoadedBase) -> list[Example]:
    return [encode_example(base.tokenizer, RENDERING, row, has_encoder=True) for row in ROWS]


def random_bank(base: LoadedBase, slots: int = 1) -> PrefixBank:
    shape = (slots, base.geometry.num_attentions, 2, base.geometry.num_kv_heads, 4, base.geometry.head_dim)
    return PrefixBank(torch.randn(shape, generator=torch.Generator().manual_seed(7)))


def answers(base: LoadedBase, bank: PrefixBank | None, rows: list[GenerationRow]) -> list[list[int]]:
    tokens: list[list[int]] = [[] for _ in rows]
    for events in stream(base, bank, rows):
        for event in events:
            tokens[event.row].append(event.token_id)
    return tokens


def test_prompt_and_answer_are_apart_with_the_special_tokens_of_the_tokenizer():
    for family, before in (("t5", []), ("bart", [START_ID])):
        base = base_of(family)
        example = examples_of(base)[0]
        assert list(example.prompt_ids) == base.tokenizer("Review: a delight").input_ids
        assert [*before, *example.target_ids] == base.tokenizer("positive").input_ids


def test_answers_begin_as_the_model_was_trained():
    assert base_of("t5").decoder_start_ids == (PAD_ID,)
    assert base_of("bart").decoder_start_ids == (END_ID, START_ID)
    assert base_of("pegasus").decoder_start_ids == (PAD_ID,)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_loss_equals_that_of_transformers_for_labels(family):
    base = base_of(family)
    examples = examples_of(base)
    ours = target_loss(base.model, None, collate(examples, base.decoder_start_ids))
    expected = 0.0
    stock = tiny_seq2seq(family)
    before = list(base.decoder_start_ids[1:])
    for example in examples:
        labels = torch.tensor([[*before, *example.target_ids]])
        logits = stock(input_ids=torch.tensor([example.prompt_ids]), labels=labels).logits[0, len(before) :]
        expected += torch.nn.functional.cross_entropy(logits, labels[0, len(before) :], reduction="sum").item()
    assert ours.item() == pytest.approx(expected, abs=1e-4)
    num_targets = sum(len(example.target_ids) for example in examples)
    assert evaluate(base, None, examples).loss == pytest.approx(expected / num_targets, abs=1e-5)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_base_rows_generate_what_transformers_generates(family):
    base = base_of(family)
    prompts = [example.prompt_ids for example in examples_of(base)]
    rows = [GenerationRow(prompt, max_new_tokens=12, end_ids=end_ids(base)) for prompt in prompts]
    stock = tiny_seq2seq(family)
    start = torch.tensor([base.decoder_start_ids])
    for prompt, ours in zip(prompts, answers(base, None, rows), strict=True):
        # Without a cache, because transformers makes the decoder's with as many layers as the encoder has.
        generated = stock.generate(
            torch.tensor([prompt]), decoder_input_ids=start, max_new_tokens=12, do_sample=False, use_cache=False
        )
        assert ours == generated[0, start.shape[1] :].tolist()


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_mixed_prefixes_generate_what_each_row_generates_alone(family):
    base = base_of(family)
    bank = random_bank(base, slots=2)
    prompts = [example.prompt_ids for example in examples_of(base)]
    rows = [
        GenerationRow(prompts[0], slot=1, max_new_tokens=3),
        GenerationRow(prompts[1], slot=NO_PREFIX, max_new_tokens=9),
        GenerationRow(prompts[1], slot=0, max_new_tokens=12),
    ]
    together = answers(base, bank, rows)
    assert together == [answers(base, bank, [row])[0] for row in rows]
    assert together[1] == answers(base, None, [rows[1]])[0]
    assert together[2][:9] != together[1]


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_first_logits_of_a_base_row_are_those_of_the_untouched_model(family):
    base = base_of(family)
    prompts = [example.prompt_ids for example in examples_of(base)]
    seen: list[torch.Tensor] = []
    rows = [GenerationRow(prompts[0], slot=0, max_new_tokens=1), GenerationRow(prompts[1], max_new_tokens=1)]
    list(stream(base, random_bank(base), rows, observe_first=seen.append))
    torch.testing.assert_close(seen[0][1], untouched_logits(base, prompts[1], "sdpa"), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_prefix_that_starts_from_a_text_holds_what_the_model_computes_for_it(family):
    base = base_of(family)
    ids = initialisation_ids(base.tokenizer, RENDERING, ROWS, 6, has_encoder=True)
    assert len(ids) == 6
    assert END_ID not in ids
    numbers = initial_numbers(base, Recipe(num_virtual_tokens=6), ids)
    assert numbers.shape == (1, base.geometry.num_attentions, 2, 4, 6, 8)
    torch.testing.assert_close(numbers[0], text_kv(base, ids))
    noise = initial_numbers(base, Recipe(num_virtual_tokens=6, init="random"), ids)
    assert noise.shape == numbers.shape
    assert noise.std() == pytest.approx(numbers.std(), rel=0.5)


def test_prompt_tuning_is_refused():
    with pytest.raises(UnsupportedModelError, match="Choose prefix tuning"):
        initial_numbers(base_of("t5"), Recipe(num_virtual_tokens=4, method="prompt-tuning"), [5, 6])


@pytest.mark.parametrize("family", SEQ2SEQ_FAMILIES)
def test_stored_prefix_of_a_loaded_folder_gives_the_same_loss(tmp_path, family):
    base = load_base(tiny_seq2seq_folder(tmp_path / "base", family), device="cpu")
    assert base.geometry.has_encoder
    bank = random_bank(base)
    batch = collate(examples_of(base), base.decoder_start_ids)
    before = target_loss(base.model, bank, batch)
    write_prefix_file(tmp_path / "prefix", PrefixArray.of("prefix-tuning", bank.kv[0].numpy()))
    stored = read_prefix_file(tmp_path / "prefix", "prefix-tuning", base.geometry)
    assert target_loss(base.model, load_bank(base, [stored]), batch).item() == before.item()


def test_bart_saved_without_the_name_of_its_head_is_loaded_with_it(tmp_path):
    """As facebook/bart-base is published: its head is its table of input vectors."""
    folder = tiny_seq2seq_folder(tmp_path / "base", "bart")
    whole = load_base(folder, device="cpu")
    tiny_seq2seq("bart").model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BartModel"]
    base = load_base(folder, device="cpu")
    assert base.decoder_start_ids == whole.decoder_start_ids
    losses = [evaluate(each, None, examples_of(each)).loss for each in (base, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_t5_whose_config_names_no_start_token_starts_with_padding(tmp_path):
    folder = tiny_seq2seq_folder(tmp_path / "base")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("decoder_start_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    assert load_base(folder, device="cpu").decoder_start_ids == (PAD_ID,)


def test_room_for_an_answer_does_not_depend_on_prompt_or_prefix():
    assert cap_new_tokens(100, 50, 1000, SEQ2SEQ_CONTEXT, has_encoder=True) == SEQ2SEQ_CONTEXT - 1
    assert cap_new_tokens(100, 50, 10, SEQ2SEQ_CONTEXT, has_encoder=True) == 10
    with pytest.raises(ContextOverflowError, match="encoder reads 128"):
        cap_new_tokens(129, 0, 10, SEQ2SEQ_CONTEXT, has_encoder=True)


def test_written_instruction_goes_to_the_encoder():
    base = base_of("t5")
    ids = encode_prompt(base.tokenizer, RENDERING, "Review: a delight", context="instruction")
    assert ids == base.tokenizer("Sort the review.\n\nReview: a delight").input_ids


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_training_lowers_the_loss_of_held_out_rows_and_leaves_the_base_as_it_was(family):
    base = base_of(family)
    before = weights_hash(base.model)
    recipe = Recipe(
        num_virtual_tokens=4, learning_rate=2e-1, max_steps=30, batch_size=2, eval_every=10, warmup_fraction=0.1
    )
    ids = initialisation_ids(base.tokenizer, RENDERING, ROWS, 4, has_encoder=True)
    events = list(train(base, examples_of(base), examples_of(base), recipe, init_ids=ids))
    started, finished = events[0], events[-1]
    assert started.num_parameters == base.geometry.prefix_parameters("prefix-tuning", 4)
    assert finished.validation_loss_after < 0.9 * finished.validation_loss_before
    bank = load_bank(base, [finished.prefix])
    assert evaluate(base, bank, examples_of(base)).loss == pytest.approx(finished.validation_loss_after, abs=1e-4)
    assert weights_hash(base.model) == before
    again = list(train(base, examples_of(base), examples_of(base), recipe, init_ids=ids))[-1]
    assert (again.prefix.values == finished.prefix.values).all()


@pytest.mark.parametrize("reparameterisation", ["direct", "muon", "mlp"])
def test_every_way_to_train_and_a_sweep_of_rates_work_with_an_encoder(reparameterisation):
    base = base_of("t5")
    recipe = Recipe(
        num_virtual_tokens=4,
        reparameterisation=reparameterisation,
        sweep=(2e-1, 1e-4),
        learning_rate=2e-1,
        max_steps=8,
        batch_size=2,
        eval_every=4,
    )
    ids = initialisation_ids(base.tokenizer, RENDERING, ROWS, 4, has_encoder=True)
    finished = list(train(base, examples_of(base), examples_of(base), recipe, init_ids=ids))[-1]
    assert finished.prefix.values.shape == (base.geometry.num_attentions, 2, 4, 4, 8)
    assert finished.validation_loss_after < finished.validation_loss_before


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_prefix_of_a_base_in_bfloat16_comes_close_to_fp32(tmp_path, family):
    folder = tiny_seq2seq_folder(tmp_path / "base", family)
    losses = []
    for dtype in ("float32", "bfloat16"):
        base = load_base(folder, device="cpu", dtype=dtype)
        bank = PrefixBank(random_bank(base).kv, trainable=True)
        loss = target_loss(base.model, bank, collate(examples_of(base), base.decoder_start_ids))
        loss.backward()
        losses.append(loss.item())
        assert (bank.kv.grad.abs().amax(dim=(0, 3, 4, 5)) > 0).all()
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_training_leaves_out_rows_whose_prompt_or_answer_is_too_long():
    base = base_of("t5")
    rows = [*examples_of(base), Example((5,) * (SEQ2SEQ_CONTEXT + 1), (6,)), Example((5,), (6,) * SEQ2SEQ_CONTEXT)]
    recipe = Recipe(num_virtual_tokens=60, learning_rate=1e-2, max_steps=1, batch_size=4, eval_every=1, init="random")
    started = next(iter(train(base, rows, [], recipe, init_ids=[])))
    assert (started.num_train, started.left_out) == (2, 2)
