"""Comparisons that were kept, and the tally of blind votes."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from storage.errors import NotFoundError
from storage.names import check_name
from storage.schema.comparison import Comparison, Vote, Winner
from storage.settings import OWNER


@dataclass(frozen=True)
class Pair:
    """How the votes between two columns stand.

    Attributes:
        base_model: Their base.
        first: The one column, as the text that stands for it.
        second: The other one.
        first_wins: Votes for the first.
        second_wins: Votes for the second.
        ties: Votes for neither.
    """

    base_model: str
    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int


def add_comparison(session: Session, name: str, fields: dict[str, Any]) -> Comparison:
    """Keeps a comparison.

    Args:
        session: A writing session.
        name: What it is called; need not be unique.
        fields: The other columns of `Comparison`.

    Raises:
        InvalidInputError: The name cannot be used.
    """
    comparison = Comparison(**{**fields, "name": check_name(name)})
    session.add(comparison)
    session.flush()
    return comparison


def get_comparison(session: Session, comparison_id: str) -> Comparison:
    """The comparison of that id.

    Raises:
        NotFoundError: There is none.
    """
    query = select(Comparison).where(Comparison.id == comparison_id, Comparison.owner == OWNER)
    comparison = session.scalar(query)
    if comparison is None:
        raise NotFoundError(f"There is no comparison with the id {comparison_id!r}. It may have been deleted.")
    return comparison


def list_comparisons(session: Session) -> list[Comparison]:
    """Every comparison that was kept, the newest first."""
    query = select(Comparison).where(Comparison.owner == OWNER)
    return list(session.scalars(query.order_by(Comparison.created_at.desc(), Comparison.id)))


def delete_comparison(session: Session, comparison_id: str) -> None:
    """Deletes a comparison.

    Raises:
        NotFoundError: There is no such comparison.
    """
    session.delete(get_comparison(session, comparison_id))
    session.flush()


def add_vote(session: Session, fields: dict[str, Any]) -> Vote:
    """Keeps a vote.

    Args:
        session: A writing session.
        fields: The columns of `Vote`, `first` before `second`.
    """
    vote = Vote(**fields)
    session.add(vote)
    session.flush()
    return vote


def tally(session: Session) -> list[Pair]:
    """How all pairs stand that were voted on, those with most votes first."""
    first_wins, second_wins, ties = (
        func.count().filter(Vote.winner == winner) for winner in (Winner.FIRST, Winner.SECOND, Winner.TIE)
    )
    query = (
        select(Vote.base_model, Vote.first, Vote.second, first_wins, second_wins, ties)
        .where(Vote.owner == OWNER)
        .group_by(Vote.base_model, Vote.first, Vote.second)
        .order_by(func.count().desc(), Vote.first, Vote.second)
    )
    return [
        Pair(base_model, first, second, first_won, second_won, tied)
        for base_model, first, second, first_won, second_won, tied in session.execute(query)
    ]
