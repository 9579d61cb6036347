"""Blind votes: which of two answers was preferred, and how sure the tally is."""

import math
from collections.abc import Sequence
from itertools import combinations
from random import Random
from typing import Any

from app.context import AppContext
from app.services.columns import Column, column_of_key, key_of, label_of
from storage import comparisons as stored
from storage.comparisons import Pair
from storage.errors import InvalidInputError
from storage.schema.comparison import Winner

Z_95 = 1.959964
"""Half the width of a 95 % interval in standard deviations."""


def vote(
    context: AppContext, base_model: str, columns: list[Column], answers: list[str], *, prompt: str, winner: int | None
) -> None:
    """Keeps a vote between two columns.

    Args:
        context: The open stores.
        base_model: Their base.
        columns: Two of them, in the order in which they were shown.
        answers: What they said.
        prompt: What they were asked, as the models read it.
        winner: 0 or 1; None is a tie.

    Raises:
        InvalidInputError: It is not about two different columns.
    """
    keys = [key_of(column) for column in columns]
    if len(set(keys)) != 2 or len(answers) != 2:
        raise InvalidInputError("A vote is between two different columns. Choose at least two.")
    order = sorted((0, 1), key=lambda at: keys[at])
    fields = {
        "base_model": base_model,
        "first": keys[order[0]],
        "second": keys[order[1]],
        "winner": Winner.TIE if winner is None else (Winner.FIRST if order[0] == winner else Winner.SECOND),
        "prompt": prompt,
        "answers": [answers[at] for at in order],
    }
    with context.database.write() as session:
        stored.add_vote(session, fields)


def tally(context: AppContext) -> list[dict[str, Any]]:
    """How every pair stands that was voted on, the one with most votes first.

    Returns:
        `base_model`, `columns` and `labels` (two each), `wins` (of each), `ties`, and for the first column's share of
        the votes that were no tie `share`, `low`, `high` (95 % interval), None where there is no such vote.
    """
    with context.database.read() as session:
        return [_body(pair) for pair in stored.tally(session)]


def next_pair(context: AppContext, base_model: str, columns: Sequence[Column], chance: Random) -> list[Column]:
    """The two columns to be judged next: a pair with the fewest votes so far, so that all columns meet each other.

    Args:
        context: The open stores.
        base_model: Their base.
        columns: Those that are chosen, at least two.
        chance: Picks among pairs of equal votes, and who stands first.
    """
    with context.database.read() as session:
        counted = {
            frozenset((pair.first, pair.second)): pair.first_wins + pair.second_wins + pair.ties
            for pair in stored.tally(session)
            if pair.base_model == base_model
        }
    pairs = [list(pair) for pair in combinations(columns, 2)]
    num_votes = [counted.get(frozenset(map(key_of, pair)), 0) for pair in pairs]
    chosen = chance.choice([pair for pair, number in zip(pairs, num_votes, strict=True) if number == min(num_votes)])
    return chance.sample(chosen, 2)


def standings(pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How every column stands against all others of its base that it was judged with, the most preferred first.

    Args:
        pairs: What `tally` gives.

    Returns:
        `base_model`, `label`, `wins`, `losses`, `ties`, `share`, `low`, `high`; columns of a base with one pair, of
        which the pair says everything, and those with ties alone are left out.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for pair in pairs:
        if sum(each["base_model"] == pair["base_model"] for each in pairs) < 2:
            continue
        for label, wins, losses in zip(pair["labels"], pair["wins"], pair["wins"][::-1], strict=True):
            told = counts.setdefault((pair["base_model"], label), [0, 0, 0])
            told[:] = [told[0] + wins, told[1] + losses, told[2] + pair["ties"]]
    rows = []
    for (base_model, label), (wins, losses, ties) in counts.items():
        if wins + losses:
            low, high = wilson(wins, wins + losses)
            row = {"base_model": base_model, "label": label, "wins": wins, "losses": losses, "ties": ties}
            rows.append({**row, "share": wins / (wins + losses), "low": low, "high": high})
    return sorted(rows, key=lambda row: (row["base_model"], -row["share"]))


def wilson(wins: int, votes: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Args:
        wins: Votes for it.
        votes: All votes, at least one.

    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927).
    """
    share, spread = wins / votes, Z_95**2 / votes
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _body(pair: Pair) -> dict[str, Any]:
    columns = [column_of_key(key) for key in (pair.first, pair.second)]
    decided = pair.first_wins + pair.second_wins
    low, high = wilson(pair.first_wins, decided) if decided else (None, None)
    return {
        "base_model": pair.base_model,
        "columns": columns,
        "labels": [label_of(column, pair.base_model) for column in columns],
        "wins": [pair.first_wins, pair.second_wins],
        "ties": pair.ties,
        "share": pair.first_wins / decided if decided else None,
        "low": low,
        "high": high,
    }
