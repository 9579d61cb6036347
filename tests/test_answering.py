"""An answering job on a tiny model: every row once, in order, whatever interrupts it."""

import json
from pathlib import Path

import pytest

from storage.artifacts import ArtifactStore
from storage.checkpoints import list_checkpoints
from storage.database import Database
from storage.errors import ConflictError, WrongBaseError
from storage.prefixes import find_prefix
from storage.schema.job import JobStatus
from storage.settings import Settings
from tests.answering_bench import AnsweringRole, food_rows
from tests.test_trainer_role import alter_a_weight
from tests.tiny import CONTEXT_LENGTH, tiny_base_folder
from worker.answering import answerer as answerer_module
from worker.answering import checkpoints as checkpoints_module
from worker.answering.answerer import batches
from worker.answering.journal import Journal, read_header
from worker.answering.limits import AnswerLimits, limits_of
from worker.answering.questions import Answer, Question
from worker.answering.result import NOT_REACHED
from worker.engine.base import load_base
from worker.engine.rendering import Rendering
from worker.training.mandate import Outcome


@pytest.fixture
def role(settings: Settings, database: Database, store: ArtifactStore, tmp_path: Path) -> AnsweringRole:
    return AnsweringRole(settings, database, store, tiny_base_folder(tmp_path / "models" / "tiny"))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(answerer_module.MAX_BATCH_ROWS, "cpu", 7)


def test_table_comes_back_with_one_column_more(role: AnsweringRole) -> None:
    rows = food_rows(30)
    job = role.submit(rows)
    assert role.attempt()[0] is Outcome.PUBLISHED
    done, answered = role.job(job), role.result(job)
    assert [{name: row[name] for name in ("id", "food")} for row in answered] == rows
    assert all(set(row) == {"id", "food", "answer"} for row in answered)
    assert any(row["answer"] for row in answered)
    assert (done.status, done.step, done.max_steps) == (JobStatus.SUCCEEDED, 30, 30)
    assert done.metrics["answered"] == 30
    assert done.metrics["examples"][0].keys() == {"prompt", "answer"}
    assert not list(role.store.run_folder(job, 1).iterdir())


def test_answers_do_not_depend_on_the_rows_beside_them(role: AnsweringRole, small_batches: None) -> None:
    rows = food_rows(20)
    job, turned = role.submit(rows), role.submit(rows[::-1])
    role.attempt()
    role.attempt()
    assert role.result(job) == role.result(turned)[::-1]


def test_base_alone_answers_otherwise(role: AnsweringRole) -> None:
    job, plain = role.submit(food_rows(12)), role.submit(food_rows(12), uses_prefix=False)
    role.attempt()
    role.attempt()
    assert role.result(job) != role.result(plain)


@pytest.mark.parametrize("outcome", [Outcome.PAUSED, Outcome.RELEASED])
def test_interrupted_job_goes_on_where_it_was(role: AnsweringRole, small_batches: None, outcome: Outcome) -> None:
    straight = role.submit(food_rows(40))
    role.attempt()
    job = role.submit(food_rows(40))
    for batches_done in (2, 0, 1):
        ended, lease = role.attempt(outcome, batches_done)
        assert ended is outcome
        role.release(lease)
    assert role.job(job).step == 21
    assert role.attempt()[0] is Outcome.PUBLISHED
    assert role.result(job) == role.result(straight)
    with role.database.read() as session:
        assert len(list_checkpoints(session, job)) == 3


def test_resumed_attempt_asks_no_row_again(
    role: AnsweringRole, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = role.submit(food_rows(40))
    _, lease = role.attempt(Outcome.RELEASED, 2)
    role.release(lease)
    done = role.job(job).step
    asked: list[int] = []
    stream = answerer_module.stream
    monkeypatch.setattr(
        answerer_module,
        "stream",
        lambda base, bank, rows, end: asked.append(len(rows)) or stream(base, bank, rows, end),
    )
    role.attempt()
    assert sum(asked) == 40 - done < 40


def test_stop_and_keep_publishes_all_rows_and_says_which_were_not_reached(
    role: AnsweringRole, small_batches: None
) -> None:
    job = role.submit(food_rows(40))
    assert role.attempt(Outcome.PUBLISHED, 2)[0] is Outcome.PUBLISHED
    done, rows = role.job(job), role.result(job)
    assert (done.status, done.stopped_early, len(rows)) == (JobStatus.SUCCEEDED, True, 40)
    missing = [row for row in rows if row["answer_note"] == NOT_REACHED]
    assert 0 < len(missing) == done.metrics["not_reached"] == 40 - done.step
    assert all(row["answer"] == "" for row in missing)


def test_wish_to_keep_waits_for_the_first_answers(role: AnsweringRole, small_batches: None) -> None:
    job = role.submit(food_rows(20))
    role.attempt(Outcome.PUBLISHED)
    assert role.job(job).metrics["answered"] == 7


def test_discarded_job_leaves_no_answers(role: AnsweringRole, small_batches: None) -> None:
    job = role.submit(food_rows(40))
    assert role.attempt(Outcome.DISCARDED, 2)[0] is Outcome.DISCARDED
    assert not list(role.store.run_folder(job, 1).iterdir())


def test_rows_too_long_get_a_reason_and_no_answer(role: AnsweringRole) -> None:
    rows = food_rows(6)
    rows[2]["food"] = "soup " * CONTEXT_LENGTH
    job = role.submit(rows)
    role.attempt()
    answered = role.result(job)
    assert answered[2]["answer"] == ""
    assert "there is room for 249" in answered[2]["answer_note"]
    assert [row["answer_note"] for row in answered if row["id"] != "2"] == [""] * 5
    metrics = role.job(job).metrics
    assert (metrics["answered"], metrics["left_out"]) == (5, 1)


def test_answer_that_the_context_cuts_says_so(role: AnsweringRole) -> None:
    rows = food_rows(3)
    rows[1]["food"] = "a b " * 120
    job = role.submit(rows, max_tokens=200)
    role.attempt()
    notes = [row["answer_note"] for row in role.result(job)]
    assert notes[1].startswith("Cut: the prompt leaves room for")
    assert role.job(job).metrics["cut"] == 1


@pytest.mark.parametrize("number", [0, 1])
def test_table_of_no_or_one_row_is_answered_too(role: AnsweringRole, number: int) -> None:
    job = role.submit(food_rows(number))
    role.attempt()
    assert len(role.result(job)) == number
    assert role.job(job).status == JobStatus.SUCCEEDED


def test_columns_may_be_told_and_a_taken_name_is_left_alone(role: AnsweringRole) -> None:
    rows = [{"Answer": "mine", "dish": row["food"]} for row in food_rows(4)]
    job, plain = role.submit(rows, mapping={"food": "dish"}), role.submit(food_rows(4))
    role.attempt()
    role.attempt()
    answered = role.result(job)
    assert [row["Answer"] for row in answered] == ["mine"] * 4
    assert [row["answer 2"] for row in answered] == [row["answer"] for row in role.result(plain)]


def test_sampled_answers_are_the_same_for_the_same_seed(role: AnsweringRole, small_batches: None) -> None:
    sampled = {"temperature": 1.0, "seed": 3}
    jobs = [role.submit(food_rows(20), **sampled), role.submit(food_rows(20), **sampled)]
    jobs.append(role.submit(food_rows(20), temperature=1.0, seed=4))
    for _ in jobs:
        role.attempt()
    first, second, other = map(role.result, jobs)
    assert first == second != other


def test_length_comes_from_the_training_answers_unless_it_is_told(role: AnsweringRole) -> None:
    job = role.submit(food_rows(2), max_tokens=None)
    role.attempt()
    told = role.job(job).metrics["max_tokens"]
    base = load_base(role.trainer.folder)
    longest = len(base.tokenizer(" A place for olives.").input_ids) + 1
    assert longest < told <= longest + 6


def test_limits_know_labels_and_one_line_answers(role: AnsweringRole) -> None:
    tokenizer = load_base(role.trainer.folder).tokenizer
    rendering = Rendering("plain", "{text}", "label")
    labels = limits_of(tokenizer, rendering, [{"text": "a", "label": name} for name in ("yes", "no") * 10])
    assert (labels.is_labels, labels.cut_at) == (True, "\n")
    texts = limits_of(tokenizer, rendering, [{"text": "a", "label": f"line {row}\nnext"} for row in range(9)], 33)
    assert texts == AnswerLimits(33, "\n\n", is_labels=False)
    assert limits_of(tokenizer, rendering, []).max_tokens == 256
    assert texts.trimmed(" one\ntwo\n\nthree") == "one\ntwo"


def test_weights_that_changed_in_between_are_refused(role: AnsweringRole, small_batches: None) -> None:
    role.submit(food_rows(40), uses_prefix=False)
    _, lease = role.attempt(Outcome.RELEASED, 2)
    role.release(lease)
    alter_a_weight(role.trainer.folder)
    with pytest.raises(ConflictError, match="weights have changed since this job began"):
        role.attempt()


def test_prefix_of_other_weights_is_refused(role: AnsweringRole) -> None:
    role.submit(food_rows(4))
    alter_a_weight(role.trainer.folder)
    with pytest.raises(WrongBaseError, match="Put the old weights back"):
        role.attempt()


def test_retry_after_the_prefix_is_gone_says_so(role: AnsweringRole) -> None:
    role.submit(food_rows(4))
    with role.database.write() as session:
        prefix = find_prefix(session, "Food")
        assert prefix is not None
        session.delete(prefix)
    with pytest.raises(ConflictError, match="prefix 'Food' was deleted"):
        role.attempt()


def test_short_memory_halves_a_batch(role: AnsweringRole, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, job = role.submit(food_rows(4)), role.submit(food_rows(4))
    role.attempt()
    stream = answerer_module.stream
    monkeypatch.setattr(answerer_module, "free_memory", lambda device: None)

    def scarce(base, bank, rows, end):  # type: ignore[no-untyped-def]
        if len(rows) > 3:
            raise RuntimeError("CUDA out of memory")
        return stream(base, bank, rows, end)

    monkeypatch.setattr(answerer_module, "stream", scarce)
    role.attempt()
    assert role.result(job) == role.result(straight)


def question(row: int, length: int) -> Question:
    return Question(row, (1,) * length, 10, "")


def test_batches_keep_to_rows_tokens_and_padding() -> None:
    questions = [question(row, 5 + row % 3) for row in range(10)] + [question(10, 400), question(11, 90)]
    planned = batches(questions, most_rows=4, most_tokens=200)
    assert sorted(each.row for batch in planned for each in batch) == list(range(12))
    assert [len(batch) for batch in planned] == [4, 4, 2, 1, 1]
    assert batches(questions[::-1], most_rows=4, most_tokens=200) == planned


def answers(*rows: int) -> list[Answer]:
    return [Answer(row, f"text {row}\n", "", 2) for row in rows]


def test_journal_takes_over_sound_lines_only(tmp_path: Path) -> None:
    first = Journal(tmp_path / "1", {"seed": 1}, 10)
    first.write(answers(0, 1))
    first.write(answers(5, 4))
    first.write(answers(7))
    first.close()
    lines = (tmp_path / "1").read_bytes().splitlines(keepends=True)
    damaged = lines[2].replace(b"text 5", b"text 6")
    (tmp_path / "1").write_bytes(b"".join([*lines[:2], damaged, lines[3], lines[3][:20]]))
    second = Journal(tmp_path / "2", {"seed": 1}, 10)
    second.take_over(tmp_path / "1")
    second.take_over(tmp_path / "1")
    assert [second.has(row) for row in range(10)] == [row in (0, 1, 7) for row in range(10)]
    assert second.num_answered == 3
    assert second.read(0, 3) == [*answers(0, 1), None]
    assert len((tmp_path / "2").read_bytes().splitlines()) == 3
    second.close()
    assert read_header(tmp_path / "2") == {"seed": 1}


def test_journal_without_a_sound_header_has_none(tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"0123 " + json.dumps({"seed": 1}).encode())
    assert read_header(tmp_path / "torn") is None


def test_stale_attempt_writes_into_a_file_that_nobody_reads(role: AnsweringRole, small_batches: None) -> None:
    job = role.submit(food_rows(20))
    _, first = role.attempt(Outcome.RELEASED, 2)
    with role.database.write() as session:
        first.lose(session, "it stopped answering")
    stale = role.store.run_folder(job, 1) / checkpoints_module.NAME
    held = stale.open("ab")
    _, second = role.attempt(Outcome.RELEASED, 0)
    held.write(b"late answers of a trainer that woke up\n")
    held.close()
    role.release(second)
    role.attempt()
    assert len(role.result(job)) == 20
