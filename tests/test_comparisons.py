"""Comparisons that are kept, their files, and the tally of blind votes."""

import json
import re
from random import Random
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import comparisons as routes
from app.api.errors import install_error_answers
from app.context import AppContext
from app.services import comparisons, votes
from app.services.columns import column_of, column_of_key, key_of, label_of, title_of
from app.services.votes import wilson
from storage.artifacts import ArtifactStore
from storage.database import Database
from storage.errors import InvalidInputError, NotFoundError, TooLargeError
from storage.settings import Settings

HOSTILE = "<img src=x onerror=alert(1)> \u202e`# =cmd"
TOKEN = {
    "text": " soup", "logprob": -0.1, "base_logprob": -4.0, "kl": 1.5, "top": [[" soup", -0.1]],
    "base_top": [[" tea", -0.2]],
}  # fmt: skip


@pytest.fixture
def context(settings: Settings, database: Database, store: ArtifactStore) -> AppContext:
    return AppContext(settings, database, store)


@pytest.fixture
def client(context: AppContext) -> TestClient:
    app = FastAPI()
    app.state.context = context
    install_error_answers(app)
    app.include_router(routes.router, prefix="/api/v1")
    return TestClient(app)


def body(**changes: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "base_model": "tiny",
        "columns": [column_of("tiny"), column_of("mine", strength=50)],
        "request": {"prompt": "What is for lunch", "max_tokens": 8, "temperature": 0.0, "seed": 0},
        "result": {
            "prompt": "What is for lunch",
            "proof": {"base_verified": True, "max_difference": 1e-7},
            "answers": [
                {"text": " tea", "tokens": 1, "tokens_per_second": 20.0, "finish_reason": "stop"},
                {"text": " soup", "tokens": 1, "explained": {"mean_kl": 1.5, "tokens": [TOKEN]}},
            ],
        },
    }
    return {**told, **changes}


def test_key_is_the_same_however_a_column_is_written() -> None:
    written = [{"model": "mine"}, {"context": "none", "model": "mine", "strength": 100.0}, column_of("mine")]
    assert len({key_of(column) for column in written}) == 1
    assert column_of_key(key_of(column_of("mine", strength=50.0))) == {
        "model": "mine",
        "context": "none",
        "strength": 50,
    }


def test_label_says_context_strength_and_step() -> None:
    assert label_of(column_of("tiny"), "tiny") == "tiny, untouched"
    assert label_of(column_of("tiny", "few-shot"), "tiny") == "tiny, with examples in the prompt"
    assert label_of(column_of("mine@40", strength=50), "tiny") == "mine, step 40, at 50 %"
    assert title_of(column_of("job:1@40"), {"job:1": "support"}) == "support, step 40"


def test_saved_comparison_comes_back_as_it_was(context: AppContext) -> None:
    kept = comparisons.save(context, body())
    again = comparisons.describe(context, kept["id"])
    assert again == kept
    assert again["name"] == "What is for lunch"
    assert again["columns"][1]["strength"] == 50
    assert again["result"] == body()["result"]
    (listed,) = comparisons.listing(context)
    assert listed["labels"] == ["tiny, untouched", "mine, at 50 %"]
    assert "result" not in listed


def test_deleted_comparison_is_gone(context: AppContext) -> None:
    kept = comparisons.save(context, body())
    comparisons.remove(context, kept["id"])
    assert comparisons.listing(context) == []
    with pytest.raises(NotFoundError, match="may have been deleted"):
        comparisons.describe(context, kept["id"])


def test_comparison_without_an_answer_for_each_column_is_refused(context: AppContext) -> None:
    with pytest.raises(InvalidInputError, match="2 answers for 1 columns"):
        comparisons.save(context, body(columns=[column_of("tiny")]))


def test_comparison_that_no_json_can_carry_is_refused(context: AppContext) -> None:
    with pytest.raises(InvalidInputError, match="half a character"):
        comparisons.save(context, body(request={"prompt": "\ud800"}))
    with pytest.raises(InvalidInputError, match="not finite"):
        comparisons.save(context, body(request={"prompt": "x", "temperature": float("nan")}))
    with pytest.raises(TooLargeError, match="expected at most"):
        comparisons.save(context, body(request={"prompt": "x" * comparisons.MAX_BYTES}))


def test_rest_keeps_lists_and_deletes(client: TestClient) -> None:
    made = client.post("/api/v1/comparisons", json=body(name="Lunch"))
    assert made.status_code == 201, made.text
    path = f"/api/v1/comparisons/{made.json()['id']}"
    assert client.get(path).json()["result"]["answers"][1]["explained"]["tokens"][0]["top"] == [[" soup", -0.1]]
    assert [each["name"] for each in client.get("/api/v1/comparisons").json()] == ["Lunch"]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": []},
        {"columns": [{"model": "m"}] * 7},
        {"columns": [{"model": "m", "context": "magic"}, {"model": "m"}]},
        {"columns": [{"model": "m", "strength": 101}, {"model": "m"}]},
        {"result": {"answers": [{"text": 1}]}},
        {"request": {"command": "rm"}},
        {"name": "x" * 81},
        {"surprise": 1},
    ],
)
def test_rest_refuses_what_is_no_comparison(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = client.post("/api/v1/comparisons", json=body(**wrong))
    assert answer.status_code == 422
    assert client.get("/api/v1/comparisons").json() == []


def test_rest_refuses_numbers_that_are_none(client: TestClient) -> None:
    content = json.dumps(body()).replace('"tokens_per_second": 20.0', '"tokens_per_second": Infinity')
    answer = client.post("/api/v1/comparisons", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


def test_markdown_file_lets_no_text_act(client: TestClient) -> None:
    hostile = body(name=HOSTILE[:80], columns=[column_of("tiny"), column_of(HOSTILE)])
    hostile["result"]["answers"][1]["text"] = "``` \n# not a heading\n<script>alert(1)</script>"
    kept = client.post("/api/v1/comparisons", json=hostile).json()
    answer = client.get(f"/api/v1/comparisons/{kept['id']}/download?format=md")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = answer.text
    blocks = re.split(r"^(`{3,})(?:text)?\n.*?^\1$", text, flags=re.DOTALL | re.MULTILINE)
    outside = "".join(blocks[::2])
    assert not re.search(r"(?<!\\)<", outside)
    assert "\u202e" not in outside
    assert "not a heading" in text
    assert "not a heading" not in outside
    assert "mean KL to the base 1.5 nats" in text
    assert "Base verified" in text


def test_json_file_can_be_sent_again(client: TestClient) -> None:
    kept = client.post("/api/v1/comparisons", json=body()).json()
    told = json.loads(client.get(f"/api/v1/comparisons/{kept['id']}/download?format=json").content)
    again = {name: told[name] for name in ("name", "base_model", "columns", "request", "result")}
    assert client.post("/api/v1/comparisons", json=again).status_code == 201
    assert client.get(f"/api/v1/comparisons/{kept['id']}/download?format=exe").status_code == 422


def ballot(context: AppContext, columns: list[dict[str, Any]], winner: int | None) -> None:
    votes.vote(context, "tiny", columns, ["one", "two"], prompt="?", winner=winner)


def test_votes_count_for_the_column_whichever_side_it_stood_on(context: AppContext) -> None:
    base, mine = column_of("tiny"), column_of("mine")
    ballot(context, [base, mine], 1)
    ballot(context, [mine, base], 0)
    ballot(context, [mine, base], 1)
    ballot(context, [base, mine], None)
    ballot(context, [base, column_of("mine", strength=50)], 0)
    first, second = votes.tally(context)
    wins = dict(zip(first["labels"], first["wins"], strict=True))
    assert wins == {"mine": 2, "tiny, untouched": 1}
    assert first["ties"] == 1
    assert first["low"] < first["share"] < first["high"]
    assert second["labels"] != first["labels"]


def test_tally_of_ties_alone_has_no_share(context: AppContext) -> None:
    ballot(context, [column_of("tiny"), column_of("mine")], None)
    (pair,) = votes.tally(context)
    assert (pair["share"], pair["low"], pair["high"]) == (None, None, None)


def test_vote_between_a_column_and_itself_is_refused(context: AppContext) -> None:
    with pytest.raises(InvalidInputError, match="two different columns"):
        ballot(context, [column_of("tiny"), column_of("tiny")], 0)


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"), [(0, 5, 0.0, 0.4345), (5, 5, 0.5655, 1.0), (8, 10, 0.4902, 0.9433)]
)
def test_interval_is_that_of_wilson(wins: int, total: int, low: float, high: float) -> None:
    assert wilson(wins, total) == pytest.approx((low, high), abs=1e-4)


def test_pair_with_the_fewest_votes_comes_next_so_that_all_columns_meet(context: AppContext) -> None:
    columns = [column_of("tiny"), column_of("mine"), column_of("mine", strength=50)]
    met = []
    for seed in range(6):
        pair = votes.next_pair(context, "tiny", columns, Random(seed))
        met.append(frozenset(map(key_of, pair)))
        ballot(context, pair, seed % 2)
    assert len(set(met[:3])) == len(set(met[3:])) == 3
    firsts = {key_of(votes.next_pair(context, "tiny", columns[:2], Random(seed))[0]) for seed in range(20)}
    assert len(firsts) == 2


def test_standings_count_every_column_against_all_others(context: AppContext) -> None:
    base, mine, half = column_of("tiny"), column_of("mine"), column_of("mine", strength=50)
    ballot(context, [base, mine], 1)
    assert votes.standings(votes.tally(context)) == []
    ballot(context, [half, mine], 1)
    ballot(context, [base, half], None)
    first, *others = votes.standings(votes.tally(context))
    assert (first["label"], first["wins"], first["losses"], first["ties"], first["share"]) == ("mine", 2, 0, 0, 1.0)
    assert {each["label"]: (each["wins"], each["losses"], each["ties"]) for each in others} == {
        "tiny, untouched": (0, 1, 1), "mine, at 50 %": (0, 1, 1),
    }  # fmt: skip
    assert 0.0 < first["low"] < 1.0
