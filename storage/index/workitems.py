"""Workitems: scheduled, claimed under a lease, completed or cancelled (PS3.4 Table CC.1.1-1).

A claim is an owner's for `lease_s` seconds unless renewed; then it is anyone's. Only the owner of a claim can
complete or fail it, so a run that was taken over counts once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Table, and_, case, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.errors import ChangeRefused
from storage.index import turns
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.revisions import supersede
from storage.index.values import clean_text, select_like
from storage.index.workitem_rows import get_workitem, select_workitems
from storage.model import (
    AGE_S,
    Completion,
    DeliveryState,
    Event,
    Evidence,
    Failure,
    Finding,
    MeasurementRow,
    Workitem,
    WorkitemState,
    utcnow,
)

#: `reason_code` of a workitem that a person cancelled.
CANCELED_BY_USER = "canceled-by-user"

_table = tables.workitems
#: What a workitem without an owner looks like.
_UNOWNED: dict[str, Any] = {"owner": None, "lease_until": None}


def claim(  # noqa: PLR0913 - one transition
    index: Index,
    *,
    owner: str,
    now: datetime,
    lease_s: float,
    limits: Mapping[str, int] = MappingProxyType({}),
    closed: Collection[str] = (),
) -> Workitem | None:
    """Take the workitem whose turn it is (`storage.index.turns`); None when none may start.

    The attempt is counted. `limits` are the most workitems IN PROGRESS of a pipeline, `closed` windows that are
    closed now.
    """
    # Looked for without the write lock first: most looks find nothing, and receiving needs the lock.
    with index.read() as connection:
        if (
            turns.next_in_turn(connection, now=now, limits=limits, closed=closed, lock=False)
            is None
        ):
            return None
    with index.begin() as connection:
        uid = turns.next_in_turn(connection, now=now, limits=limits, closed=closed, lock=True)
        if uid is None:
            return None
        connection.execute(
            update(_table)
            .where(_table.c.workitem_uid == uid)
            .values(
                state=WorkitemState.IN_PROGRESS,
                owner=owner,
                lease_until=now + timedelta(seconds=lease_s),
                attempts=_table.c.attempts + 1,
                # Of the first attempt: it is the Content Time of the evidence, which another attempt makes again.
                started_at=func.coalesce(_table.c.started_at, now),
                not_before=None,
            )
        )
        return get_workitem(connection, uid)


def renew(index: Index, *, workitem_uid: str, owner: str, now: datetime, lease_s: float) -> bool:
    """Prolong a claim; False when it is no longer this owner's (taken over, cancelled)."""
    statement = (
        update(_table)
        .where(_held(workitem_uid, owner))
        .values(lease_until=now + timedelta(seconds=lease_s))
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount == 1


def release(index: Index, *, owner: str, now: datetime) -> int:
    """Give back what this owner held when it died; the cut attempts are not counted. How many there were."""
    mine = and_(_table.c.owner == owner, _table.c.state == WorkitemState.IN_PROGRESS)
    with index.begin() as connection:
        held = connection.execute(
            select(_table.c.workitem_uid, _table.c.study_instance_uid).where(mine).with_for_update()
        ).all()
        connection.execute(
            update(_table)
            .where(mine)
            .values(
                state=WorkitemState.SCHEDULED,
                attempts=case((_table.c.attempts > 0, _table.c.attempts - 1), else_=0),
                **_UNOWNED,
            )
        )
        for row in held:
            insert_event(
                connection,
                Event(
                    kind="workitem-released",
                    actor=owner,
                    at=now,
                    study_instance_uid=row.study_instance_uid,
                    workitem_uid=row.workitem_uid,
                ),
            )
    return len(held)


def complete(index: Index, completion: Completion) -> bool:
    """Record a finished run: evidence, measurements, findings, and a delivery of each evidence to whom it is for.

    Returns
    -------
    bool
        False, and nothing recorded, when the workitem is not IN PROGRESS under this owner: another run counts.
    """
    with index.begin() as connection:
        done = connection.execute(
            update(_table)
            .where(_held(completion.workitem_uid, completion.owner))
            .values(
                state=WorkitemState.COMPLETED,
                lease_until=None,
                started_at=completion.started_at,
                ended_at=completion.ended_at,
                reason_code=None,
                reason=None,
                timings=dict(completion.timings),
                notices=completion.notices,
            )
        )
        if done.rowcount != 1:
            return False
        workitem = get_workitem(connection, completion.workitem_uid)
        _insert_all(connection, tables.evidence, completion.evidence)
        _insert_all(connection, tables.measurements, completion.measurements)
        _insert_all(connection, tables.findings, completion.findings)
        supersede(connection, workitem, completion.ended_at)
        _owe(connection, workitem, completion.evidence, completion.profiles, completion.ended_at)
        event = Event(
            kind="workitem-completed",
            actor=completion.owner,
            at=completion.ended_at,
            detail={
                "pipeline": workitem.pipeline,
                "evidence": len(completion.evidence),
                "measurements": len(completion.measurements),
            },
        )
        _log(connection, workitem, event)
    return True


def fail(index: Index, failure: Failure) -> bool:
    """Record a failed run: SCHEDULED again, or CANCELED with the reason and the report that says it.

    Returns
    -------
    bool
        False, and nothing recorded, when the workitem is not IN PROGRESS under this owner.
    """
    # A pipeline's sentence may quote a header: what the database cannot hold must not keep it from being told.
    values: dict[str, Any] = {
        "lease_until": None,
        "reason_code": failure.code,
        "reason": clean_text(failure.reason),
    }
    if failure.retry_at is None:
        values |= {"state": WorkitemState.CANCELED, "ended_at": failure.at}
    else:
        values |= {
            "state": WorkitemState.SCHEDULED,
            "not_before": failure.retry_at,
            "started_at": None,
            "owner": None,
        }
    with index.begin() as connection:
        held = _held(failure.workitem_uid, failure.owner)
        if connection.execute(update(_table).where(held).values(**values)).rowcount != 1:
            return False
        workitem = get_workitem(connection, failure.workitem_uid)
        _insert_all(connection, tables.evidence, failure.evidence)
        if failure.evidence:
            supersede(connection, workitem, failure.at)
        _owe(connection, workitem, failure.evidence, failure.profiles, failure.at)
        again = failure.retry_at.isoformat() if failure.retry_at else None
        event = Event(
            kind="workitem-attempt-failed" if again else "workitem-failed",
            actor=failure.owner,
            at=failure.at,
            outcome="failure",
            detail={"code": failure.code, "retry_at": again},
        )
        _log(connection, workitem, event)
    return True


def cancel(index: Index, workitem_uid: str, *, actor: str, now: datetime | None = None) -> Workitem:
    """Stop a workitem that is SCHEDULED or IN PROGRESS; its owner notices when it renews.

    Raises
    ------
    NotFound, ChangeRefused
        No such workitem; or it is settled already.
    """
    now = now or utcnow()
    return _change(
        index,
        workitem_uid,
        allowed=(WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS),
        values={
            "state": WorkitemState.CANCELED,
            "lease_until": None,
            "ended_at": now,
            "held_at": None,
            "hold_reason": None,
            "reason_code": CANCELED_BY_USER,
            "reason": f"Cancelled by {actor}.",
        },
        event=Event(kind="workitem-canceled", actor=actor, at=now),
    )


def retry(index: Index, workitem_uid: str, *, actor: str, now: datetime | None = None) -> Workitem:
    """Schedule a CANCELED workitem again, its attempts counted from zero.

    Raises
    ------
    NotFound, ChangeRefused
        No such workitem; or it is not CANCELED; or a newer one has taken its place.
    """
    now = now or utcnow()
    # What it waited before it was cancelled counts for nothing.
    turn = now.timestamp() - _table.c.priority * AGE_S
    newer = get(index, workitem_uid).superseded_by
    if newer is not None:
        raise ChangeRefused(
            f"Workitem {newer} has taken the place of {workitem_uid}: its result would go out after the newer one."
        )
    return _change(
        index,
        workitem_uid,
        allowed=(WorkitemState.CANCELED,),
        values={
            "state": WorkitemState.SCHEDULED,
            "turn": turn,
            "attempts": 0,
            "not_before": None,
            "started_at": None,
            "ended_at": None,
            "reason_code": None,
            "reason": None,
            **_UNOWNED,
        },
        event=Event(kind="workitem-retried", actor=actor, at=now),
    )


def list_workitems(  # noqa: PLR0913 - one per filter of `workitems list`
    index: Index,
    *,
    study: str | None = None,
    state: WorkitemState | None = None,
    pipeline: str | None = None,
    after: str | None = None,
    in_turn: bool = False,
    limit: int = 100,
) -> tuple[Workitem, ...]:
    """Workitems that match, the latest scheduled first, or in the order in which they are taken.

    Parameters
    ----------
    after
        The UID of the last of the page before; it need not match.
    """
    conditions: list[ColumnElement[bool]] = []
    if pipeline is not None:
        conditions.append(_table.c.pipeline == pipeline)
    if study is not None:
        conditions.append(_table.c.study_instance_uid == study)
    if state is not None:
        conditions.append(_table.c.state == state)
    with index.read() as connection:
        return select_workitems(connection, *conditions, after=after, in_turn=in_turn, limit=limit)


def uids_like(index: Index, part: str, *, limit: int = 20) -> tuple[str, ...]:
    """UIDs that begin or end with this, so that people need not type the whole."""
    with index.read() as connection:
        return select_like(connection, _table.c.workitem_uid, part, limit)


def get(index: Index, workitem_uid: str) -> Workitem:
    """The workitem of that UID."""
    with index.read() as connection:
        return get_workitem(connection, workitem_uid)


def _insert_all(
    connection: Connection,
    table: Table,
    values: Sequence[Evidence] | Sequence[MeasurementRow] | Sequence[Finding],
) -> None:
    if values:
        connection.execute(insert(table), [asdict(value) for value in values])


def _owe(
    connection: Connection,
    workitem: Workitem,
    evidence: Sequence[Evidence],
    profiles: Mapping[str, str],
    now: datetime,
) -> None:
    """A delivery of each evidence to each destination whose profile it was made for."""
    owed = [
        {
            "sop_instance_uid": one.sop_instance_uid,
            "destination": destination,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "next_attempt_at": now,
            "message": "",
            "updated_at": now,
        }
        for one in evidence
        for destination in dict.fromkeys(workitem.destinations)
        if profiles[destination] in one.profiles
    ]
    if owed:
        connection.execute(insert(tables.deliveries), owed)


def _held(workitem_uid: str, owner: str) -> ColumnElement[bool]:
    return and_(
        _table.c.workitem_uid == workitem_uid,
        _table.c.owner == owner,
        _table.c.state == WorkitemState.IN_PROGRESS,
    )


def _log(connection: Connection, workitem: Workitem, event: Event) -> None:
    insert_event(
        connection,
        replace(
            event,
            study_instance_uid=workitem.study_instance_uid,
            workitem_uid=workitem.workitem_uid,
        ),
    )


def _change(
    index: Index,
    workitem_uid: str,
    *,
    allowed: Sequence[WorkitemState],
    values: dict[str, Any],
    event: Event,
) -> Workitem:
    """A change by a person, of a workitem in one of the allowed states."""
    mine = _table.c.workitem_uid == workitem_uid
    with index.begin() as connection:
        changed = connection.execute(
            update(_table).where(mine).where(_table.c.state.in_(allowed)).values(**values)
        )
        workitem = get_workitem(connection, workitem_uid)
        if changed.rowcount != 1:
            raise ChangeRefused(
                f"Workitem {workitem_uid} is {workitem.state}; only one that is {' or '.join(allowed)} can be."
            )
        _log(connection, workitem, event)
    return workitem
