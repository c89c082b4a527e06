"""Deliveries: what is owed to whom, until a peer has answered for it.

A claim is an owner's for `lease_s` seconds; then it is anyone's. An attempt is counted when it is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, case, false, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.errors import ChangeRefused, NotFound
from storage.index.destinations import paused
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.evidence_rows import evidence_from_values
from storage.model import Delivery, DeliveryState, Event, HeaderValue, utcnow

_table = tables.deliveries
#: What a delivery must be to be settled so. Commitment comes after C-STORE, in a report of its own (PS3.4 J.3).
#: What was withdrawn while it was on its way has arrived all the same.
_BEFORE = {
    DeliveryState.PENDING: (DeliveryState.PENDING,),
    DeliveryState.SENT: (DeliveryState.PENDING, DeliveryState.WITHDRAWN),
    DeliveryState.COMMITTED: (
        DeliveryState.PENDING,
        DeliveryState.SENT,
        DeliveryState.WITHDRAWN,
    ),
    DeliveryState.FAILED: (DeliveryState.PENDING, DeliveryState.SENT),
}
_EVENTS = {
    DeliveryState.SENT: "delivery-sent",
    DeliveryState.COMMITTED: "delivery-committed",
    DeliveryState.FAILED: "delivery-failed",
}


def claim_due(  # noqa: PLR0913 - one transition
    index: Index,
    *,
    owner: str,
    now: datetime,
    lease_s: float,
    destination: str | None = None,
    limit: int = 64,
) -> tuple[Delivery, ...]:
    """Take deliveries whose time has come and that nobody holds, the longest due first."""
    chosen = (
        select(_table.c.delivery_id)
        .where(_is_due(now))
        .order_by(_table.c.next_attempt_at, _table.c.delivery_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if destination is not None:
        chosen = chosen.where(_table.c.destination == destination)
    with index.begin() as connection:
        ids = connection.scalars(chosen).all()
        if not ids:
            return ()
        connection.execute(
            update(_table)
            .where(_table.c.delivery_id.in_(ids))
            .values(owner=owner, lease_until=now + timedelta(seconds=lease_s))
        )
        return select_deliveries(connection, _table.c.delivery_id.in_(ids))


def renew(
    index: Index, *, delivery_ids: Sequence[int], owner: str, now: datetime, lease_s: float
) -> bool:
    """Prolong a claim; False when none of these is this owner's any more (settled, taken over)."""
    statement = (
        update(_table)
        .where(_table.c.delivery_id.in_(delivery_ids))
        .where(_table.c.owner == owner)
        .where(_table.c.state == DeliveryState.PENDING)
        .values(lease_until=now + timedelta(seconds=lease_s))
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount > 0


def due_destinations(index: Index, now: datetime) -> tuple[str, ...]:
    """Destinations to which something is due, by name."""
    statement = (
        select(_table.c.destination).where(_is_due(now)).distinct().order_by(_table.c.destination)
    )
    with index.read() as connection:
        return tuple(connection.scalars(statement))


def settle(  # noqa: PLR0913 - one transition
    index: Index,
    *,
    delivery_id: int,
    state: DeliveryState,
    status: int | None,
    message: str,
    next_attempt_at: datetime | None,
    now: datetime,
) -> bool:
    """Record what came of an attempt: PENDING again (for `next_attempt_at`), SENT, COMMITTED or FAILED.

    Parameters
    ----------
    status
        DIMSE status of the answer (of STOW-RS, Failure or Warning Reason); None when there was none.
    next_attempt_at
        Only for PENDING; `now` when None.

    Returns
    -------
    bool
        False, and nothing recorded, when the delivery was settled meanwhile.
    """
    values: dict[str, Any] = {
        "state": state,
        "status": status,
        "message": message,
        "updated_at": now,
        "owner": None,
        "lease_until": None,
        # Commitment is about an attempt that was counted.
        "attempts": case(
            (
                _table.c.state.in_((DeliveryState.PENDING, DeliveryState.WITHDRAWN)),
                _table.c.attempts + 1,
            ),
            else_=_table.c.attempts,
        ),
    }
    if state is DeliveryState.PENDING:
        values["next_attempt_at"] = next_attempt_at or now
    elif state is DeliveryState.SENT:
        asks = select(tables.destinations.c.commitment)
        asks = asks.where(tables.destinations.c.name == _table.c.destination)
        values["to_commit"] = func.coalesce(asks.scalar_subquery(), false())
    with index.begin() as connection:
        settled = connection.execute(
            update(_table)
            .where(_table.c.delivery_id == delivery_id)
            .where(_table.c.state.in_(_BEFORE[state]))
            .values(**values)
        )
        delivery = _get(connection, delivery_id)
        if settled.rowcount != 1:
            return False
        if state in _EVENTS:
            log_delivery(connection, delivery, kind=_EVENTS[state], actor="node", at=now)
        if state is DeliveryState.SENT and delivery.evidence.rejects:
            _retract(connection, delivery, now)
    return True


def put_off(index: Index, destination: str, *, until: datetime) -> int:
    """Nothing is due to a destination before: it wants to be left alone for so long; how many that concerns."""
    statement = (
        update(_table)
        .where(_table.c.destination == destination)
        .where(_table.c.state == DeliveryState.PENDING, _table.c.next_attempt_at < until)
        .values(next_attempt_at=until)
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount


def _retract(connection: Connection, note: Delivery, now: datetime) -> None:
    """A rejection note was taken: its destination shows what it names no more (IHE RAD TF-3 4.66)."""
    told = and_(
        _table.c.sop_instance_uid.in_(note.evidence.rejects),
        _table.c.destination == note.destination,
        _table.c.state.in_((DeliveryState.SENT, DeliveryState.COMMITTED)),
    )
    retracted = select_deliveries(connection, told)
    connection.execute(
        update(_table)
        .where(told)
        .values(state=DeliveryState.RETRACTED, to_commit=False, updated_at=now)
    )
    for delivery in retracted:
        log_delivery(connection, delivery, kind="delivery-retracted", actor="node", at=now)


def release(index: Index, *, owner: str, now: datetime) -> int:
    """Give back what this owner held when it died; how many there were."""
    statement = (
        update(_table)
        .where(_table.c.owner == owner)
        .values(owner=None, lease_until=None, updated_at=now)
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount


def retry(index: Index, *, delivery_id: int, actor: str, now: datetime | None = None) -> Delivery:
    """Send again, now, whatever came of it before; attempts are counted from zero.

    Raises
    ------
    NotFound, ChangeRefused
        No such delivery; or a newer result has taken its place.
    """
    now = now or utcnow()
    with index.begin() as connection:
        newer = _get(connection, delivery_id).superseded_by
        if newer is not None:
            raise ChangeRefused(
                f"Delivery {delivery_id} is of a result that workitem {newer} replaced: send that one's."
            )
        connection.execute(
            update(_table)
            .where(_table.c.delivery_id == delivery_id)
            .values(
                state=DeliveryState.PENDING,
                attempts=0,
                next_attempt_at=now,
                updated_at=now,
                owner=None,
                lease_until=None,
                to_commit=False,
                transaction_uid=None,
                failure_reason=None,
            )
        )
        delivery = _get(connection, delivery_id)
        log_delivery(connection, delivery, kind="delivery-retried", actor=actor, at=now)
    return delivery


def list_deliveries(  # noqa: PLR0913 - one per filter of `deliveries list`
    index: Index,
    *,
    study: str | None = None,
    workitem: str | None = None,
    destination: str | None = None,
    state: DeliveryState | None = None,
    limit: int = 100,
) -> tuple[Delivery, ...]:
    """Deliveries that match, the latest first."""
    conditions: list[ColumnElement[bool]] = []
    for column, wanted in (
        (tables.evidence.c.study_instance_uid, study),
        (tables.evidence.c.workitem_uid, workitem),
        (_table.c.destination, destination),
        (_table.c.state, state),
    ):
        if wanted is not None:
            conditions.append(column == wanted)
    with index.read() as connection:
        found = select_deliveries(connection, *conditions, limit=limit, latest_first=True)
    return found


def get(index: Index, delivery_id: int) -> Delivery:
    """The delivery of that number."""
    with index.read() as connection:
        return _get(connection, delivery_id)


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(
        _table.c.state == DeliveryState.PENDING,
        _table.c.next_attempt_at <= now,
        or_(_table.c.lease_until.is_(None), _table.c.lease_until < now),
        _table.c.destination.not_in(paused()),
    )


def _get(connection: Connection, delivery_id: int) -> Delivery:
    found = select_deliveries(connection, _table.c.delivery_id == delivery_id)
    if not found:
        raise NotFound(f"No delivery {delivery_id}.")
    return found[0]


def select_deliveries(
    connection: Connection,
    *conditions: ColumnElement[bool],
    limit: int | None = None,
    latest_first: bool = False,
) -> tuple[Delivery, ...]:
    """Deliveries with their evidence, within a transaction; the longest due first."""
    order: Sequence[ColumnElement[Any]] = (
        (_table.c.delivery_id.desc(),)
        if latest_first
        else (_table.c.next_attempt_at, _table.c.delivery_id)
    )
    ours = [
        column
        for column in _table.c
        if column.name not in {"sop_instance_uid", "owner", "lease_until"}
    ]
    statement = (
        select(*ours, *tables.evidence.c)
        .join_from(_table, tables.evidence)
        .where(*conditions)
        .order_by(*order)
        .limit(limit)
    )
    return tuple(_from_row(row, len(ours)) for row in connection.execute(statement))


def _from_row(row: Row[Any], split: int) -> Delivery:
    names = [str(name) for name in row._mapping]
    values: dict[str, Any] = dict(zip(names[:split], row[:split], strict=True))
    values["state"] = DeliveryState(values["state"])
    made: dict[str, Any] = dict(zip(names[split:], row[split:], strict=True))
    return Delivery(**values, evidence=evidence_from_values(made))


def log_delivery(
    connection: Connection, delivery: Delivery, *, kind: str, actor: str, at: datetime
) -> None:
    """An event about a delivery, within the transaction that changed it."""
    insert_event(
        connection,
        Event(
            kind=kind,
            actor=actor,
            at=at,
            study_instance_uid=delivery.evidence.study_instance_uid,
            workitem_uid=delivery.evidence.workitem_uid,
            outcome="failure" if kind == "delivery-failed" else "success",
            detail={
                "destination": delivery.destination,
                "sop_instance_uid": delivery.evidence.sop_instance_uid,
                "kind": delivery.evidence.kind,
                "status": delivery.status,
                "attempts": delivery.attempts,
                **_failure(delivery),
            },
        ),
    )


def _failure(delivery: Delivery) -> dict[str, HeaderValue]:
    reason = delivery.failure_reason
    return {} if reason is None else {"failure_reason": f"0x{reason:04X}"}
