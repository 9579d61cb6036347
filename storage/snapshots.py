"""Snapshots: the prefix that a training had at each evaluation, so that it can be asked again at any of them.

They live as long as their job or the prefix that it gave. A snapshot is also a model: `NAME@STEP` of a prefix,
`job:JOB_ID@STEP` of a job that has not published one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from storage.errors import NotFoundError
from storage.lease import Lease
from storage.prefixes import find_prefix
from storage.schema.job import Job
from storage.schema.prefix import Prefix
from storage.schema.snapshot import Snapshot
from storage.settings import OWNER

MAX_SNAPSHOTS = 32
"""Of one job: more than a slider of a page's width can be set to by hand, and a training of default settings has 11."""

JOB_MARK = "job:"


@dataclass(frozen=True)
class NewSnapshot:
    """A prefix of an evaluation whose file the artifact store holds already.

    Attributes:
        step: Updates that had been done.
        validation_loss: Nats per target token with this prefix; None without validation rows.
        artifact_hash: SHA-256 of its file.
        size_bytes: Bytes of its file.
        num_virtual_tokens: Its length P in tokens.
        base_fingerprint: Of the weights that it was trained on.
        rendering: How rows become prompts, with its kind decided.
    """

    step: int
    validation_loss: float | None
    artifact_hash: str
    size_bytes: int
    num_virtual_tokens: int
    base_fingerprint: str
    rendering: dict[str, Any]


def keep_snapshot(session: Session, lease: Lease, new: NewSnapshot, cap: int = MAX_SNAPSHOTS) -> None:
    """Writes a snapshot down, in place of one at the same step; past the cap others go, evenly over the steps.

    Args:
        session: A writing session.
        lease: The attempt that it was trained in.
        new: The snapshot.
        cap: The most to keep.

    Raises:
        LeaseLostError: The attempt has ended.
    """
    lease.record(session, [])
    kept = {row.step: row for row in list_snapshots(session, lease.job_id)}
    row = kept.setdefault(new.step, Snapshot(job_id=lease.job_id, step=new.step))
    row.attempt = lease.attempt
    for name, value in vars(new).items():
        setattr(row, name, value)
    session.add(row)
    while len(kept) > cap:
        session.delete(kept.pop(most_dispensable(list(kept.values()))))
    session.flush()


def keep_exact(session: Session, lease: Lease, exact: NewSnapshot) -> None:
    """Puts the published prefix itself in the place of its step's snapshot, whose numbers were rounded.

    Args:
        session: The session that publishes it, before its job has ended.
        lease: The attempt.
        exact: The published prefix at its step.

    Raises:
        LeaseLostError: The attempt has ended.
    """
    keep_snapshot(session, lease, exact, MAX_SNAPSHOTS + 1)


def forget_after(session: Session, lease: Lease, step: int | None) -> None:
    """Forgets the snapshots behind a step: the training goes on from there and comes to its own.

    Args:
        session: A writing session.
        lease: The attempt that goes on.
        step: The step that it goes on from; None where it begins anew.

    Raises:
        LeaseLostError: The attempt has ended.
    """
    lease.record(session, [])
    session.execute(
        delete(Snapshot).where(Snapshot.job_id == lease.job_id, Snapshot.step > (-1 if step is None else step))
    )


def list_snapshots(session: Session, job_id: str) -> list[Snapshot]:
    """The snapshots of a job in the order of their steps."""
    return list(session.scalars(select(Snapshot).where(Snapshot.job_id == job_id).order_by(Snapshot.step)))


def find_snapshot(session: Session, model: str) -> tuple[Snapshot, Job | Prefix] | None:
    """The snapshot that a model id names, and whose it is.

    Args:
        session: Any session.
        model: `NAME@STEP` or `job:JOB_ID@STEP`; a prefix of exactly that name comes first, and is not looked for here.

    Returns:
        None where the id is of another kind, or names no prefix and no job.

    Raises:
        NotFoundError: That prefix or job has no snapshot at that step; those that it has are named.
    """
    name, mark, digits = model.rpartition("@")
    if not (mark and name and digits.isascii() and digits.isdecimal() and len(digits) < 10):
        return None
    origin: Job | Prefix | None = find_prefix(session, name)
    if origin is None and name.startswith(JOB_MARK):
        found = select(Job).where(Job.id == name.removeprefix(JOB_MARK), Job.owner == OWNER)
        origin = session.scalar(found)
    if origin is None:
        return None
    kept = list_snapshots(session, snapshots_of(origin) or "")
    snapshot = next((each for each in kept if each.step == int(digits)), None)
    if snapshot is None:
        raise NotFoundError(f"{name!r} has no snapshot of step {int(digits)}. {_listed([each.step for each in kept])}")
    return snapshot, origin


def snapshots_of(origin: Job | Prefix) -> str | None:
    """The id that the snapshots of a job or prefix lie under; None of a prefix that was not trained here."""
    return origin.id if isinstance(origin, Job) else origin.job_id


def model_id(origin: Job | Prefix, step: int) -> str:
    """What a snapshot is called as a model."""
    return f"{JOB_MARK}{origin.id}@{step}" if isinstance(origin, Job) else f"{origin.name}@{step}"


def most_dispensable(snapshots: Sequence[Snapshot]) -> int:
    """The step that is missed least: the one between the two nearest neighbours; never the first, the last or the best.

    Args:
        snapshots: At least four of them.
    """
    losses = {each.step: each.validation_loss for each in snapshots if each.validation_loss is not None}
    best = min(losses, key=lambda step: (losses[step], step), default=None)
    steps = sorted(each.step for each in snapshots)
    gaps = {step: after - before for before, step, after in zip(steps, steps[1:], steps[2:], strict=False)}
    return min((step for step in gaps if step != best), key=lambda step: (gaps[step], step))


def _listed(steps: Sequence[int]) -> str:
    if not steps:
        return "It has none: they are kept from its first evaluation on."
    return f"Choose one of {', '.join(str(step) for step in steps)}."
