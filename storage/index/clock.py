"""What is planned when the clock is set back: it would wait as long as the clock was ahead. Event: `clock-set-back`."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, Table, or_, select, update

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.model import Event

#: Times that something waits for, or is measured from. What happened, and when, stays as it was written.
_PLANNED: tuple[tuple[Table, tuple[str, ...]], ...] = (
    (
        tables.studies,
        (
            *("first_received_at", "last_received_at", "released_at", "aborted_at", "waits_until"),
            *("look_at", "asked_at", "ask_again_at"),
        ),
    ),
    (tables.workitems, ("not_before", "lease_until")),
    (tables.deliveries, ("next_attempt_at", "lease_until")),
    (tables.commitments, ("deadline", "next_attempt_at", "lease_until")),
    (tables.prior_searches, ("deadline", "next_attempt_at", "lease_until")),
    (tables.procedure_steps, ("next_attempt_at", "lease_until")),
)


def last_written(index: Index) -> datetime | None:
    """Time of the newest line of the audit log: the clock was there once."""
    events = tables.events
    newest = select(events.c.at).order_by(events.c.event_id.desc()).limit(1)
    with index.read() as connection:
        return connection.scalar(newest)


def set_back(index: Index, *, by: timedelta, now: datetime, actor: str) -> int:
    """Move what is planned for later than `now` by as much as the clock was; how many rows that were.

    One transaction, with a line of the audit log: `last_written` is in order again, and no second process does it.
    """
    with index.begin() as connection:
        moved = sum(_move(connection, table, columns, by, now) for table, columns in _PLANNED)
        event = Event(
            kind="clock-set-back",
            actor=actor,
            at=now,
            detail={"seconds": round(by.total_seconds()), "rows": moved},
        )
        insert_event(connection, event)
    return moved


def _move(
    connection: Connection, table: Table, columns: tuple[str, ...], by: timedelta, now: datetime
) -> int:
    keys = tuple(table.primary_key.columns)
    later = or_(*(table.c[name] > now for name in columns))
    wanted = select(*keys, *(table.c[name] for name in columns)).where(later)
    rows = connection.execute(wanted).all()
    for row in rows:
        times = {name: getattr(row, name) for name in columns}
        moved = {name: at - by for name, at in times.items() if at is not None and at > now}
        this = (key == getattr(row, key.name) for key in keys)
        connection.execute(update(table).where(*this).values(**moved))
    return len(rows)
