"""Storage commitment: who was asked to commit itself to what, and what came of it (PS3.4 Annex J).

A transaction is about what one destination took of one workitem. It is opened when nothing of that workitem is on its
way there any more, asked (N-ACTION), and settled by a report (N-EVENT-REPORT) or by what a query finds. A claim is an
owner's for `lease_s` seconds; then it is anyone's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.index.deliveries import log_delivery, select_deliveries
from storage.index.destinations import paused
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.model import Commitment, CommitmentState, Delivery, DeliveryState, Event, HeaderValue

_table = tables.commitments
_owed = tables.deliveries
_made = tables.evidence
_OPEN = (CommitmentState.WANTED, CommitmentState.ASKED, CommitmentState.READING)


def open_due(index: Index, *, now: datetime, deadline_s: float, new_uid: Callable[[], str]) -> int:
    """Open a transaction for each workitem and destination where all was sent; how many.

    Parameters
    ----------
    new_uid
        Makes a Transaction UID.
    """
    with index.read() as connection:
        if connection.execute(_whole().limit(1)).first() is None:
            return 0
    opened = 0
    with index.begin() as connection:
        for row in connection.execute(_whole()).all():
            destination, workitem_uid, uid = row.destination, row.workitem_uid, new_uid()
            theirs = select(_made.c.sop_instance_uid).where(_made.c.workitem_uid == workitem_uid)
            taken = connection.execute(
                update(_owed)
                .where(_owed.c.destination == destination, _awaits())
                .where(_owed.c.sop_instance_uid.in_(theirs))
                .values(transaction_uid=uid)
            )
            if not taken.rowcount:
                # Another node was faster.
                continue
            connection.execute(
                insert(_table).values(
                    transaction_uid=uid,
                    destination=destination,
                    workitem_uid=workitem_uid,
                    state=CommitmentState.WANTED,
                    opened_at=now,
                    deadline=now + timedelta(seconds=deadline_s),
                    next_attempt_at=now,
                    attempts=0,
                    reason="",
                )
            )
            opened += 1
    return opened


def _awaits() -> ColumnElement[bool]:
    return and_(
        _owed.c.to_commit,
        _owed.c.transaction_uid.is_(None),
        _owed.c.state == DeliveryState.SENT,
    )


def _whole() -> Select[Any]:
    """(destination, workitem) of which something awaits commitment, and nothing is on its way."""
    others, others_made = _owed.alias(), _made.alias()
    on_its_way = (
        select(others.c.delivery_id)
        .join(others_made, others_made.c.sop_instance_uid == others.c.sop_instance_uid)
        .where(others.c.state == DeliveryState.PENDING)
        .where(others.c.destination == _owed.c.destination)
        .where(others_made.c.workitem_uid == _made.c.workitem_uid)
    )
    return (
        select(_owed.c.destination, _made.c.workitem_uid)
        .join_from(_owed, _made)
        .where(_awaits(), ~exists(on_its_way))
        .distinct()
        .order_by(_owed.c.destination, _made.c.workitem_uid)
    )


def due_destinations(index: Index, now: datetime) -> tuple[str, ...]:
    """Destinations with a transaction whose time has come, by name."""
    statement = select(_table.c.destination).where(_is_due(now)).distinct()
    with index.read() as connection:
        return tuple(connection.scalars(statement.order_by(_table.c.destination)))


def claim_due(  # noqa: PLR0913 - one transition
    index: Index, *, owner: str, now: datetime, lease_s: float, destination: str, limit: int = 16
) -> tuple[Commitment, ...]:
    """Take transactions with a destination whose time has come and that nobody holds, the longest due first."""
    chosen = (
        select(_table.c.transaction_uid)
        .where(_is_due(now), _table.c.destination == destination)
        .order_by(_table.c.next_attempt_at, _table.c.transaction_uid)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with index.begin() as connection:
        uids = connection.scalars(chosen).all()
        if not uids:
            return ()
        mine = _table.c.transaction_uid.in_(uids)
        lease_until = now + timedelta(seconds=lease_s)
        connection.execute(update(_table).where(mine).values(owner=owner, lease_until=lease_until))
        return _select(connection, mine)


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(
        _table.c.state.in_(_OPEN),
        _table.c.next_attempt_at <= now,
        or_(_table.c.lease_until.is_(None), _table.c.lease_until < now),
        _table.c.destination.not_in(paused()),
    )


def renew(
    index: Index, *, transaction_uids: Sequence[str], owner: str, now: datetime, lease_s: float
) -> bool:
    """Prolong a claim; False when none of these is this owner's any more."""
    statement = (
        update(_table)
        .where(_table.c.transaction_uid.in_(transaction_uids), _table.c.owner == owner)
        .values(lease_until=now + timedelta(seconds=lease_s))
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount > 0


def release(index: Index, *, owner: str) -> int:
    """Give back what this owner held when it died; how many there were."""
    statement = update(_table).where(_table.c.owner == owner)
    with index.begin() as connection:
        return connection.execute(statement.values(owner=None, lease_until=None)).rowcount


def asked(index: Index, commitment: Commitment, *, deadline: datetime, now: datetime) -> bool:
    """The destination took the request: its report is waited for. False when that was there before its answer."""
    values = {"deadline": deadline, "next_attempt_at": deadline, "attempts": 0, "reason": ""}
    return _move(index, commitment, CommitmentState.ASKED, values, kind="commitment-asked", at=now)


def read_from(index: Index, commitment: Commitment, *, deadline: datetime, reason: str) -> bool:
    """The destination does not offer commitment: it is queried until `deadline` for what it holds, first at once."""
    values = {"deadline": deadline, "attempts": 0, "reason": reason}
    return _move(index, commitment, CommitmentState.READING, values)


def put_off(index: Index, commitment: Commitment, *, again_at: datetime, reason: str) -> bool:
    """An attempt that settled nothing."""
    values = {
        "next_attempt_at": again_at,
        "attempts": commitment.attempts + 1,
        "reason": reason,
    }
    # What waited for a report until now is looked for from now on.
    is_asked = commitment.state is CommitmentState.ASKED
    state = CommitmentState.READING if is_asked else commitment.state
    return _move(index, commitment, state, values)


def expire(index: Index, commitment: Commitment, *, reason: str, now: datetime) -> bool:
    """Give up: its deliveries stay SENT. A report that comes later counts still."""
    with index.begin() as connection:
        moved = _move_within(connection, commitment, CommitmentState.EXPIRED, {"reason": reason})
        if not moved:
            return False
        mine = _owed.c.transaction_uid == commitment.transaction_uid
        connection.execute(
            update(_owed)
            .where(mine, _owed.c.to_commit)
            .values(to_commit=False, message=f"Not committed: {reason}", updated_at=now)
        )
        _log(connection, commitment, kind="commitment-expired", at=now, reason=reason)
    return True


def settle(  # noqa: PLR0913 - one transition
    index: Index,
    transaction_uid: str,
    *,
    committed: Collection[str],
    failed: Mapping[str, int],
    source: str,
    now: datetime,
) -> bool:
    """Record what a destination commits itself to, and what not; what it says nothing of waits on.

    Parameters
    ----------
    committed
        SOP Instance UIDs.
    failed
        SOP Instance UID -> Failure Reason (PS3.3 C.14.1.1).
    source
        What says so, for people.

    Returns
    -------
    bool
        False when there is no such transaction. Said twice it counts once.
    """
    mine = _table.c.transaction_uid == transaction_uid
    with index.begin() as connection:
        # Locked: a report may come while what it is about is read back.
        known = select(_table.c.transaction_uid).where(mine).with_for_update()
        if connection.scalar(known) is None:
            return False
        for delivery in _of_transaction(connection, transaction_uid):
            uid = delivery.evidence.sop_instance_uid
            if uid in failed:
                _fail(connection, delivery, failed[uid], source, now)
            elif uid in committed:
                _commit(connection, delivery, source, now)
        owed = and_(_owed.c.transaction_uid == transaction_uid, _owed.c.to_commit)
        if connection.scalar(select(_owed.c.delivery_id).where(owed).limit(1)) is None:
            values = {"state": CommitmentState.SETTLED, "reason": "", "owner": None}
            connection.execute(update(_table).where(mine).values(**values, lease_until=None))
    return True


def _commit(connection: Connection, delivery: Delivery, source: str, now: datetime) -> None:
    # What a query did not find, a late report may still commit to.
    not_found = delivery.state is DeliveryState.FAILED and delivery.failure_reason is not None
    if delivery.state is not DeliveryState.SENT and not not_found:
        return
    values = {"state": DeliveryState.COMMITTED, "failure_reason": None}
    _set(connection, delivery, values, f"Committed: {source}.", now)


def _fail(
    connection: Connection, delivery: Delivery, reason: int, source: str, now: datetime
) -> None:
    if delivery.state is not DeliveryState.SENT:
        return
    values = {"state": DeliveryState.FAILED, "failure_reason": reason}
    message = f"Not committed: {source}, {describe_failure(reason)}."
    _set(connection, delivery, values, message, now)


def _set(
    connection: Connection,
    delivery: Delivery,
    values: Mapping[str, object],
    message: str,
    now: datetime,
) -> None:
    mine = _owed.c.delivery_id == delivery.delivery_id
    connection.execute(
        update(_owed).where(mine).values(**values, to_commit=False, message=message, updated_at=now)
    )
    (changed,) = select_deliveries(connection, mine)
    kind = "delivery-committed" if changed.failure_reason is None else "delivery-failed"
    log_delivery(connection, changed, kind=kind, actor="node", at=now)


def describe_failure(reason: int) -> str:
    """A Failure Reason (0008,1197) as people read it (PS3.3 C.14.1.1)."""
    names = {
        0x0110: "processing failure",
        0x0112: "no such object instance",
        0x0119: "class-instance conflict",
        0x0122: "referenced SOP Class not supported",
        0x0131: "duplicate Transaction UID",
        0x0213: "resource limitation",
    }
    return f"0x{reason:04X} {names.get(reason, 'failure')}"


def of_transaction(index: Index, transaction_uid: str) -> tuple[Delivery, ...]:
    """Deliveries that a transaction is about and that are not settled by it yet."""
    with index.read() as connection:
        found = _of_transaction(connection, transaction_uid)
    return tuple(delivery for delivery in found if delivery.to_commit)


def list_commitments(
    index: Index, *, destination: str | None = None, limit: int = 100
) -> tuple[Commitment, ...]:
    """Transactions, the latest first."""
    conditions = [] if destination is None else [_table.c.destination == destination]
    with index.read() as connection:
        return _select(connection, *conditions, limit=limit)


def get(index: Index, transaction_uid: str) -> Commitment | None:
    """One transaction; None when there is none."""
    with index.read() as connection:
        found = _select(connection, _table.c.transaction_uid == transaction_uid)
    return found[0] if found else None


def _of_transaction(connection: Connection, transaction_uid: str) -> tuple[Delivery, ...]:
    return select_deliveries(connection, _owed.c.transaction_uid == transaction_uid)


def _select(
    connection: Connection, *conditions: ColumnElement[bool], limit: int | None = None
) -> tuple[Commitment, ...]:
    columns = [column for column in _table.c if column.name not in {"owner", "lease_until"}]
    order = (_table.c.opened_at.desc(), _table.c.transaction_uid)
    rows = connection.execute(select(*columns).where(*conditions).order_by(*order).limit(limit))
    return tuple(
        Commitment(**{**row._mapping, "state": CommitmentState(row.state)}) for row in rows
    )


def _move(  # noqa: PLR0913 - one transition
    index: Index,
    commitment: Commitment,
    state: CommitmentState,
    values: Mapping[str, object],
    *,
    kind: str = "",
    at: datetime | None = None,
) -> bool:
    with index.begin() as connection:
        moved = _move_within(connection, commitment, state, values)
        if moved and kind and at is not None:
            _log(connection, commitment, kind=kind, at=at)
    return moved


def _move_within(
    connection: Connection,
    commitment: Commitment,
    state: CommitmentState,
    values: Mapping[str, object],
) -> bool:
    """From the state it was claimed in: a report that came meanwhile has settled it."""
    statement = (
        update(_table)
        .where(_table.c.transaction_uid == commitment.transaction_uid)
        .where(_table.c.state == commitment.state)
        .values(**values, state=state, owner=None, lease_until=None)
    )
    return connection.execute(statement).rowcount == 1


def _log(
    connection: Connection,
    commitment: Commitment,
    *,
    kind: str,
    at: datetime,
    **detail: HeaderValue,
) -> None:
    (study,) = connection.execute(
        select(_made.c.study_instance_uid)
        .where(_made.c.workitem_uid == commitment.workitem_uid)
        .limit(1)
    ).one()
    insert_event(
        connection,
        Event(
            kind=kind,
            actor="node",
            at=at,
            study_instance_uid=study,
            workitem_uid=commitment.workitem_uid,
            outcome="failure" if kind == "commitment-expired" else "success",
            detail={
                "destination": commitment.destination,
                "transaction_uid": commitment.transaction_uid,
                **detail,
            },
        ),
    )
