"""What the page says of datasets, base models, jobs, prefixes and comparisons."""

from typing import Any

import pytest

from app.services.status import work_line
from app.ui import compare_view, data_view, job_view, model_view, prefix_view

HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_ANSWER = {"prompt": HOSTILE, "expected": HOSTILE, "base": HOSTILE, "prefix": HOSTILE}


def a_job(**changes: Any) -> dict[str, Any]:
    job = {"id": "1", "name": "e2e", "status": "queued", "base_model": "tiny", "method": "prefix-tuning", "step": 0}
    return job | {"max_steps": 0, "metrics": {}, "eta_s": None, "error": None} | changes


def a_model(**changes: Any) -> dict[str, Any]:
    model = {"name": "tiny", "source": "local", "supported": True, "reason": None, "fit": "fits", "license": "mit"}
    return (
        model
        | {"num_parameters": 3_100_000, "context_length": 1024, "size_bytes": 6e6, "download_state": "ready"}
        | changes
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Waiting for its turn."),
        ({"jobs_ahead": 2}, "2 jobs before it"),
        ({"waits_because": "Waits for memory: it needs more."}, "Waits for memory: it needs more."),
        ({"status": "running", "stage": "Loading the base model"}, "Loading the base model …"),
        ({"status": "running", "step": 140, "max_steps": 400, "eta_s": 120}, "Step 140 of 400, about 2 min left."),
        ({"status": "failed", "error": {"message": "The disk is full."}}, "The disk is full."),
        ({"status": "cancelled"}, "nothing of it was kept"),
        ({"status": "succeeded", "metrics": {"base_loss": 4.3, "validation_loss": 2.3}}, "from 4.300 (base) to 2.300"),
        ({"status": "succeeded", "stopped_early": True}, "stopped early"),
    ],
)
def test_state_line_says_in_a_sentence_how_a_job_stands(changes: dict[str, Any], words: str) -> None:
    assert words in job_view.state_line(a_job(**changes))


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ([], "no job is running"),
        ([("running", "training"), ("queued", "answering")], "1 training, 1 waiting"),
        ([("running", "answering"), ("failed", "training")], "1 answering"),
        ([("running", "training"), ("running", "training"), ("running", "answering")], "2 training, 1 answering"),
    ],
)
def test_line_at_the_top_tells_trainings_from_tables_that_are_answered(jobs: list[tuple[str, str]], words: str) -> None:
    assert work_line([a_job(status=status, kind=kind) for status, kind in jobs]) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "running", "stop_request": "pause", "step": 3}, "the answers so far are kept"),
        ({"status": "running", "stop_request": "keep", "step": 3}, "the answers so far are being kept"),
        ({"status": "paused", "step": 3}, "Paused after 3 of 9 rows."),
    ],
)
def test_state_line_of_a_table_speaks_of_answers(changes: dict[str, Any], words: str) -> None:
    job = a_job(kind="answering", max_steps=9, **changes)
    assert words in job_view.state_line(job)
    assert "training" not in job_view.state_line(job)


def test_job_cards_say_what_to_do_when_there_is_none() -> None:
    assert "Train tab" in job_view.job_cards([], None)


def test_job_details_count_the_rows_that_were_too_long() -> None:
    assert "12 rows longer than the context" in job_view.details(a_job(metrics={"left_out_rows": 12}))
    assert "Left out" not in job_view.details(a_job(metrics={"left_out_rows": 0}))


def test_details_name_the_method_as_the_page_does() -> None:
    assert "Prefix tuning+" in job_view.details(a_job(method="prefix-tuning-plus"))


def test_job_curve_draws_both_baselines() -> None:
    told = {"steps": [1, 2], "train_loss": [3.0, 2.0], "validation": [{"step": 0, "loss": 3.0}], "best_step": 0}
    shown = job_view.curve(a_job(max_steps=2), told | {"baselines": {"base": 3.1, "instruction": 2.9}})
    assert "base model, 3.10" in shown
    assert "written instruction, 2.90" in shown


def test_model_cards_put_what_can_be_used_first_and_say_why_not() -> None:
    refused = a_model(name="odd", supported=False, reason="It needs custom code.")
    shown = model_view.model_cards([refused, a_model()], "tiny")
    assert shown.index("tiny") < shown.index("odd")
    assert "It needs custom code." in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"download_state": "downloading", "downloaded_bytes": 5e6, "total_bytes": 1e7}, "5.0 MB of 10.0 MB"),
        ({"download_state": "absent", "size_bytes": 2.7e8}, "Download it once (270 MB)"),
        ({"download_state": "failed", "reason": "The network is down."}, "The network is down."),
        ({}, "tiny is ready."),
    ],
)
def test_download_line_says_how_a_model_stands(changes: dict[str, Any], words: str) -> None:
    assert words in model_view.download_line(a_model(**changes))


@pytest.mark.parametrize(
    "shown",
    [
        data_view.samples([{"row": 1, "prompt": HOSTILE, "target": HOSTILE}]),
        data_view.chips([HOSTILE]),
        job_view.job_cards([a_job(name=HOSTILE)], None),
        job_view.samples("1", [{"step": step, "rows": [HOSTILE_ANSWER]} for step in (0, 9)]),
        job_view.log([HOSTILE]),
        model_view.model_cards([a_model(name=HOSTILE, license=HOSTILE, reason=HOSTILE)], HOSTILE),
        prefix_view.snippet(HOSTILE),
        compare_view.panes(compare_view.Comparison([compare_view.Pane(HOSTILE, "", text=HOSTILE)])),
    ],
)
def test_views_never_let_a_script_through(shown: str) -> None:
    assert "<img" not in shown
    assert "onerror=alert" not in shown.replace("&lt;img src=x onerror=alert", "")


def test_comparison_collects_what_the_stream_brings() -> None:
    state = compare_view.Comparison([compare_view.Pane("base", ""), compare_view.Pane("mine", "")])
    state.take({"prompt": "Say hello:"})
    state.take({"column": 1, "text": "Hel"})
    state.take({"column": 1, "text": "lo"})
    state.take({"column": 1, "done": True, "finish_reason": "length", "tokens": 2, "tokens_per_second": 30.4})
    state.take({"proof": {"base_verified": True, "max_difference": 0.0, "prefix_kl": 1.5}})
    shown = compare_view.panes(state)
    assert "Hello" in shown
    assert "2 tokens, 30 tokens/s, cut at the limit" in shown
    assert "base verified" in compare_view.proof(state)
    assert "prefix active" in compare_view.proof(state)


def test_proof_says_so_when_a_prefix_does_nothing() -> None:
    state = compare_view.Comparison([], proof={"base_verified": False, "max_difference": 0.5, "prefix_kl": 0.0})
    assert "base differs" in compare_view.proof(state)
    assert "prefix without effect" in compare_view.proof(state)


def test_stopped_answers_say_so() -> None:
    state = compare_view.Comparison([compare_view.Pane("base", "", text="Once", tokens=1)])
    state.end()
    assert "1 token, stopped" in compare_view.panes(state)


def test_stopping_a_download_is_acknowledged_at_once() -> None:
    model = a_model(download_state="downloading", cancel_requested=True)
    assert "Stopping the download of tiny" in model_view.download_line(model)


def a_dataset(**detected: Any) -> dict[str, Any]:
    counts = {"num_rows": 12, "num_train": 11, "num_validation": 1}
    return {"name": "survey", "columns": ["text", "label"], "detected": detected, **counts}


@pytest.mark.parametrize(
    ("detected", "words"),
    [
        ({"format": "csv", "header": True}, "row 1 is row 2 of a spreadsheet."),
        ({"format": "tsv", "header": False}, "row 1 is row 1 of a spreadsheet."),
        ({"format": "xlsx", "header": True, "first_row": 4}, "row 1 is row 4 of a spreadsheet."),
    ],
)
def test_the_line_about_a_table_says_how_its_rows_are_counted(detected: dict[str, Any], words: str) -> None:
    assert words in data_view.read_line(a_dataset(**detected))


def test_the_line_about_a_table_tells_what_reading_it_left_out() -> None:
    note = "2 cells hold formulas without a result, read as empty."
    line = data_view.read_line(a_dataset(format="xlsx", files=[{"notes": [note]}, {"notes": [note]}, {}]))
    assert line.count(note) == 1
    assert "spreadsheet" not in data_view.read_line(a_dataset(format="jsonl"))
