"""Retractions: evidence that a destination was sent, and that a newer result it was sent as well replaces."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.evidence_rows import evidence_from_row
from storage.index.revisions import REJECTION
from storage.index.values import insert_or_ignore
from storage.model import DeliveryState, Event, Evidence

_SENT = (DeliveryState.SENT, DeliveryState.COMMITTED)
_owed = tables.deliveries
_made = tables.evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraction:
    """What one destination is to be told not to use."""

    destination: str
    #: Whose evidence replaces it, and that evidence, as this destination was sent it.
    workitem_uid: str
    newer: tuple[Evidence, ...]
    #: In order of SOP Instance UID.
    rejected: tuple[Evidence, ...]


def due(index: Index, destinations: Collection[str]) -> tuple[Retraction, ...]:
    """What is to be retracted at these destinations: the old was sent there, and all of the new as well."""
    if not destinations:
        return ()
    statement = (
        select(_owed.c.destination, _owed.c.superseded_by)
        .where(_owed.c.destination.in_(sorted(destinations)))
        .where(_owed.c.superseded_by.is_not(None), _owed.c.state.in_(_SENT))
        .distinct()
        .order_by(_owed.c.destination, _owed.c.superseded_by)
    )
    with index.read() as connection:
        found = [
            _retraction(connection, row.destination, row.superseded_by)
            for row in connection.execute(statement)
        ]
    return tuple(one for one in found if one is not None)


def is_owed(index: Index, sop_instance_uid: str, destination: str) -> bool:
    """Whether a note is owed, or was sent, to a destination."""
    statement = select(_owed.c.delivery_id).where(
        _owed.c.sop_instance_uid == sop_instance_uid, _owed.c.destination == destination
    )
    with index.read() as connection:
        return connection.scalar(statement) is not None


def record(index: Index, note: Evidence, destination: str, *, now: datetime) -> bool:
    """Owe a rejection note to a destination; False when it is owed already."""
    row = {
        name: getattr(note, name)
        for name in (column.name for column in _made.c)
        if name not in ("proof",)
    }
    with index.begin() as connection:
        # The same note may go to two destinations.
        insert_or_ignore(connection, _made, row | {"proof": []})
        owed = {
            "sop_instance_uid": note.sop_instance_uid,
            "destination": destination,
            "state": DeliveryState.PENDING,
            "attempts": 0,
            "next_attempt_at": now,
            "message": "",
            "updated_at": now,
        }
        if not insert_or_ignore(connection, _owed, owed):
            return False
        insert_event(
            connection,
            Event(
                kind="retraction-owed",
                actor="node",
                at=now,
                study_instance_uid=note.study_instance_uid,
                workitem_uid=note.workitem_uid,
                detail={
                    "destination": destination,
                    "sop_instance_uid": note.sop_instance_uid,
                    "rejects": len(note.rejects),
                },
            ),
        )
    return True


def _retraction(connection: Connection, destination: str, newer: str) -> Retraction | None:
    """None while something of the new result is still owed, or where nothing of it is for this destination."""
    columns: list[ColumnElement[Any]] = [*_made.c, _owed.c.state]
    at = select(*columns).join_from(_owed, _made)
    at = at.where(_owed.c.destination == destination, _made.c.kind != REJECTION)
    order = _made.c.sop_instance_uid
    new = connection.execute(at.where(_made.c.workitem_uid == newer).order_by(order)).all()
    if not new or any(row.state not in _SENT for row in new):
        return None
    old = connection.execute(
        at.where(_owed.c.superseded_by == newer, _owed.c.state.in_(_SENT)).order_by(order)
    ).all()
    if not old:
        return None
    return Retraction(
        destination=destination,
        workitem_uid=newer,
        newer=tuple(evidence_from_row(row, without=("state",)) for row in new),
        rejected=tuple(evidence_from_row(row, without=("state",)) for row in old),
    )
