"""The verdict where a person meets it: in words, on the page, on the card, in REST, and back from a file."""

import copy
import json
import zipfile
from typing import Any

import pytest

from app.services import prefixes, verdict
from app.services.foreign_evaluation import read_evaluation
from app.ui import job_view, prefix_view, verdict_view
from tests.evaluations import an_evaluation
from tests.prefixes import METRICS, add_prefix, tiny_context

NO_ROWS = {"part": "validation", "chose_checkpoint": True, "num_held_out": 0, "num_rows": 0, "reason": "No such rows."}


@pytest.fixture
def context(settings, database, store, tmp_path):
    return tiny_context(settings, database, store, tmp_path / "models")


def test_one_sentence_says_it_all() -> None:
    assert verdict.sentence(an_evaluation()) == (
        "On 120 rows that it was not trained on, the prefix answers 75 % right (68 to 82 %); the base 0 %, with the "
        "written instruction 10 %, with 4 examples in the prompt 21 %: it helps."
    )


@pytest.mark.parametrize(
    ("verdicts", "word", "words"),
    [
        (("no difference", "no difference", "no difference"), "no difference", ": no difference can be told."),
        (("worse", "worse", "worse"), "worse", ": it does worse."),
        (
            ("helps", "helps", "no difference"),
            "mixed",
            ": it helps against the base and the written instruction, no difference can be told to examples in the "
            "prompt.",
        ),
        (
            ("helps", "no difference", "worse"),
            "mixed",
            ": it helps against the base, no difference can be told to the written instruction, it does worse than "
            "examples in the prompt.",
        ),
    ],
)
def test_sentence_ends_with_the_verdict(verdicts: tuple[str, str, str], word: str, words: str) -> None:
    evaluation = an_evaluation(*verdicts)
    assert verdict.sentence(evaluation).endswith(words)
    assert verdict.overall(evaluation) == word


def test_texts_are_told_in_points() -> None:
    evaluation = json.loads(json.dumps(an_evaluation()).replace('"accuracy"', '"chrf"'))
    words = "the prefix's answers match the expected ones to 75 of 100 (chrF, 68 to 82); the base 0, "
    assert words in verdict.sentence(evaluation)
    assert verdict.headline(evaluation) == "0 → 75 chrF"
    assert verdict.headline(an_evaluation()) == "0 % → 75 % right"


def test_savings_name_only_what_is_saved() -> None:
    evaluation = an_evaluation()
    assert verdict.savings(evaluation) == (
        "Each request saves 28 tokens against the written instruction and 124 tokens against examples in the prompt."
    )
    for against in evaluation["verdicts"].values():
        against["tokens_saved"] = 0
    assert verdict.savings(evaluation) == ""


def test_notes_say_which_rows_these_are_and_what_limits_them() -> None:
    evaluation = an_evaluation()
    told = " ".join(verdict.notes(evaluation))
    assert "120 of the 500 rows, drawn by the seed, of the validation part" in told
    assert "same part chose the best step" in told
    few = " ".join(
        verdict.notes(evaluation | {"part": "test", "chose_checkpoint": False, "num_rows": 7, "ended": "time"})
    )
    assert "7 of the 500 rows, drawn by the seed, of the test part" in few
    assert "chose" not in few
    assert "time for the comparison was up" in few
    assert "With so few rows" in few


def test_page_shows_badge_table_and_rows_without_letting_markup_through() -> None:
    shown = verdict_view.shown(an_evaluation(few_shot="no difference"))
    assert '<span class="ps-badge ps-warn">mixed</span>' in shown
    assert shown.count('<span class="ps-badge ps-good">helps</span>') == 2
    assert "+50 points (40 to 60), better on 90 rows, worse on 3" in shown
    assert "my &lt;b&gt;card&lt;/b&gt;" in shown
    assert "<b>card" not in shown


def test_page_says_why_there_is_no_comparison() -> None:
    assert "Not compared with the base model. No such rows." in verdict_view.shown(NO_ROWS)
    assert verdict_view.shown(None) == ""


def test_verdict_stands_on_the_page_of_a_finished_job_only() -> None:
    job: dict[str, Any] = {"status": "succeeded", "name": "e2e", "metrics": {"evaluation": an_evaluation()}}
    assert "it helps." in job_view.verdict(job)
    assert job_view.verdict(job | {"status": "running"}) == ""
    assert job_view.verdict(job | {"metrics": {}}) == ""
    line = job_view.state_line({**job, "max_steps": 8, "metrics": {**job["metrics"], "train_s": 27.0}})
    assert "Done: trained in 27 s." in line


def test_stage_is_shown_once_the_last_step_is_done() -> None:
    job = {"status": "running", "name": "e2e", "step": 400, "max_steps": 400, "eta_s": 0.0, "metrics": {}}
    assert "Comparing with the base model …" in job_view.state_line(job | {"stage": "Comparing with the base model"})


def test_prefix_page_and_its_card_in_the_library_carry_the_verdict(context, tmp_path) -> None:
    add_prefix(context, tmp_path, metrics={**METRICS, "evaluation": an_evaluation()})
    [listed] = prefixes.listing(context)
    told = prefixes.describe(context, listed["id"])
    assert "rows" not in listed["metrics"]["evaluation"]
    assert told["metrics"]["evaluation"]["rows"]["gained"][0]["expected"] == "PRIVATE ROW"
    assert told["metrics"]["evaluation"]["sentence"].endswith("it helps.")
    assert "0 % → 75 % right" in prefix_view.library([listed], None)
    assert "measured elsewhere" not in prefix_view.detail(told)
    assert "measured elsewhere" in prefix_view.detail(told | {"imported": True})


def test_card_carries_the_verdict_and_rows_only_when_asked(context, tmp_path) -> None:
    prefix = add_prefix(context, tmp_path, metrics={**METRICS, "evaluation": an_evaluation()})
    texts = {}
    for with_rows in (False, True):
        with zipfile.ZipFile(prefixes.export(context, prefix.id, include_rows=with_rows)) as archive:
            texts[with_rows] = {name: archive.read(name).decode() for name in ("README.md", "prefix-studio.json")}
    plain = texts[False]
    assert "## Does it help?" in plain["README.md"]
    assert verdict.sentence(an_evaluation()) in plain["README.md"]
    assert "| With the prefix | 75 % (68 to 82) | – | 25 | 75 (68 to 82) |" in plain["README.md"]
    assert "PRIVATE ROW" not in "".join(plain.values())
    assert "### Rows that gained most against the base" in texts[True]["README.md"]
    assert all("PRIVATE ROW" in text for text in texts[True].values())


def test_verdict_goes_round_with_the_file(context, tmp_path) -> None:
    prefix = add_prefix(context, tmp_path, metrics={**METRICS, "evaluation": an_evaluation()})
    imported = prefixes.import_zip(context, prefixes.export(context, prefix.id))
    told = prefixes.describe(context, imported["id"])["metrics"]["evaluation"]
    assert told["sentence"] == verdict.sentence(an_evaluation())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("metric",), "<b>"),
        (("part",), ["test"]),
        (("arms", "prefix", "metrics", "accuracy", "value"), 75),
        (("arms", "prefix", "metrics", "accuracy"), None),
        (("arms", "base"), None),
        (("verdicts", "base", "verdict"), "<img src=x>"),
        (("verdicts", "base", "gained"), True),
        (("verdicts", "base", "tokens_saved"), float("nan")),
        (("verdicts", "stranger"), {}),
        (("num_rows",), "120"),
        (("num_rows",), -1),
        (("rows", "gained"), [{"change": 2}]),
    ],
)
def test_evaluation_of_another_form_is_left_out(path: tuple[str, ...], value: Any) -> None:
    evaluation = copy.deepcopy(an_evaluation())
    place = evaluation
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert read_evaluation(evaluation) is None


def test_evaluation_is_rebuilt_from_what_is_known() -> None:
    evaluation = an_evaluation()
    assert read_evaluation(evaluation | {"stranger": "<b>"}) == {
        name: value for name, value in evaluation.items() if name not in ("seed", "seconds")
    }
    assert read_evaluation(NO_ROWS) == NO_ROWS
    assert read_evaluation("x") is None
