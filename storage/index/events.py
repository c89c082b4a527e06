"""Events: the audit log. A transition writes its own line in its own transaction.

Kinds written by the index: `instance-conflict`, `instance-accepted`, `study-evaluated`, `study-held`,
`study-released`, `workitem-superseded`, `evidence-superseded`, `retraction-owed`, `delivery-retracted`,
`workitem-completed`, `workitem-attempt-failed`, `workitem-failed`, `workitem-released`, `workitem-canceled`,
`workitem-retried`, `workitem-prioritised`, `workitem-held`, `workitem-let-go`, `delivery-sent`,
`delivery-committed`, `delivery-failed`, `delivery-retried`, `rule-added`, `rule-edited`, `rule-enabled`,
`rule-disabled`, `rule-removed`, `destination-added`, `destination-removed`; `procedure-step-`
with each state of a worklist's step; `file-` with each state of a file's mark. The node writes `archive-verified`,
`archive-repaired`, `study-expired`, `disk-low`, `disk-full`, `disk-enough`. `clock-set-back`: `storage.index.clock`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, tuple_

from storage import tables
from storage.index.engine import Index
from storage.model import Event


def add(index: Index, event: Event) -> int:
    """Write one line of the log; its number."""
    with index.begin() as connection:
        return insert_event(connection, event)


def insert_event(connection: Connection, event: Event) -> int:
    """Write one line within a transaction of another noun."""
    row = {
        "kind": event.kind,
        "actor": event.actor,
        "at": event.at,
        "study_instance_uid": event.study_instance_uid,
        "workitem_uid": event.workitem_uid,
        "outcome": event.outcome,
        "detail": dict(event.detail),
    }
    statement = insert(tables.events).returning(tables.events.c.event_id)
    event_id: int = connection.execute(statement, row).scalar_one()
    return event_id


def list_events(  # noqa: PLR0913 - one per filter of `audit list`
    index: Index,
    *,
    study: str | None = None,
    workitem: str | None = None,
    actor: str | None = None,
    kind: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 1000,
) -> tuple[Event, ...]:
    """The last `limit` lines that match, oldest first; `since` is included, `until` is not.

    Parameters
    ----------
    before
        The number of the first line of the page after: those that lie before it.
    """
    table = tables.events
    statement = select(table).order_by(table.c.at.desc(), table.c.event_id.desc()).limit(limit)
    for column, wanted in (
        (table.c.study_instance_uid, study),
        (table.c.workitem_uid, workitem),
        (table.c.actor, actor),
        (table.c.kind, kind),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if since is not None:
        statement = statement.where(table.c.at >= since)
    if until is not None:
        statement = statement.where(table.c.at < until)
    if before is not None:
        order = (table.c.at, table.c.event_id)
        first = select(*order).where(table.c.event_id == before).subquery()
        statement = statement.join(first, tuple_(*order) < tuple_(*first.c))
    with index.read() as connection:
        rows = connection.execute(statement).all()
    return tuple(_from_row(row) for row in reversed(rows))


def _from_row(row: Row[Any]) -> Event:
    return Event(**row._mapping)
