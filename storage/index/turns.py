"""Whose turn it is: the order of workitems by priority and age, what holds one back, and what people change of it.

A workitem that waits gains a point of priority in `AGE_S` seconds, so that nothing waits for ever. Of two that wait,
the one ahead stays ahead however long both wait; the order is therefore a stored number, `turn` (the time it waits
from, less `AGE_S` for each point), and an index.

    not yet      `not_before` is to come: a failed run is tried later, or a window is closed
    held         a person holds it back
    full         as many workitems of its pipeline are IN PROGRESS as the limits allow
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.errors import ChangeRefused, NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import clean_text
from storage.index.workitem_rows import get_workitem
from storage.model import AGE_S, Event, HeaderValue, Workitem, WorkitemState

#: Whoever claims under limits on PostgreSQL holds this advisory lock until it commits: two would count the same runs.
_CLAIMS = 0x05E0_C1A1
#: Completed runs that a pipeline's run time is the median of.
_MEASURED = 20
#: Last starts and stops of nodes that are looked at.
_STARTS = 100

_table = tables.workitems


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A workitem that waits or runs, as much as its place in the queue needs."""

    workitem_uid: str
    pipeline: str
    #: SCHEDULED or IN PROGRESS.
    state: WorkitemState
    not_before: datetime | None
    window: str | None
    held: bool
    started_at: datetime | None


# -- who is next ----------------------------------------------------------------------------------


def next_in_turn(
    connection: Connection,
    *,
    now: datetime,
    limits: Mapping[str, int],
    closed: Collection[str],
    lock: bool,
) -> str | None:
    """The workitem that is to run next, within the transaction that claims it; None when there is none.

    One IN PROGRESS whose lease ran out may be taken as well: its owner died.

    Parameters
    ----------
    limits
        Pipeline -> the most of its workitems IN PROGRESS, whoever owns them.
    closed
        Windows that are closed now.
    lock
        Keep others from taking it, or from counting, until the transaction ends.
    """
    if lock and limits and connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CLAIMS)))
    ready = [_table.c.state == WorkitemState.SCHEDULED, _table.c.held_at.is_(None), _is_due(now)]
    if full := _full(connection, limits):
        ready.append(_table.c.pipeline.not_in(full))
    if closed:
        ready.append(or_(_table.c.window.is_(None), _table.c.window.not_in(closed)))
    abandoned = [_table.c.state == WorkitemState.IN_PROGRESS, _table.c.lease_until < now]
    first: list[tuple[float, str]] = []
    # One question each: of the two together SQLite makes a sort of all that waits.
    for conditions in (ready, abandoned):
        statement = (
            select(_table.c.turn, _table.c.workitem_uid)
            .where(*conditions)
            .order_by(_table.c.turn, _table.c.workitem_uid)
            .limit(1)
        )
        if lock:
            statement = statement.with_for_update(skip_locked=True)
        first += [(row.turn, row.workitem_uid) for row in connection.execute(statement)]
    return min(first)[1] if first else None


def due_windows(index: Index, now: datetime) -> tuple[str, ...]:
    """The windows of workitems that would start now if these were open."""
    statement = (
        select(_table.c.window)
        .where(_table.c.window.is_not(None))
        .where(_table.c.state == WorkitemState.SCHEDULED)
        .where(_is_due(now))
        .distinct()
    )
    with index.read() as connection:
        return tuple(connection.scalars(statement))


def postpone(index: Index, *, window: str, until: datetime) -> int:
    """Put off what did not start before its window closed; how many there were. What it waited still counts."""
    statement = (
        update(_table)
        .where(_table.c.window == window)
        .where(_table.c.state == WorkitemState.SCHEDULED)
        .where(or_(_table.c.not_before.is_(None), _table.c.not_before < until))
        .values(not_before=until)
    )
    with index.begin() as connection:
        return connection.execute(statement).rowcount


def next_start(index: Index, now: datetime) -> datetime | None:
    """When the next workitem whose time is to come may start."""
    statement = (
        select(_table.c.not_before)
        .where(_table.c.state == WorkitemState.SCHEDULED)
        .where(_table.c.not_before > now)
        .order_by(_table.c.not_before)
        .limit(1)
    )
    with index.read() as connection:
        found: datetime | None = connection.scalar(statement)
        return found


# -- the queue, for people ------------------------------------------------------------------------


def queue(index: Index, *, limit: int = 1000) -> tuple[Queued, ...]:
    """What runs, then what waits, in the order in which it will be taken when it may start."""
    columns = ("workitem_uid", "pipeline", "state", "not_before", "window", "held_at", "started_at")
    found: list[Queued] = []
    with index.read() as connection:
        for state in (WorkitemState.IN_PROGRESS, WorkitemState.SCHEDULED):
            statement = (
                select(*(_table.c[name] for name in columns))
                .where(_table.c.state == state)
                .order_by(_table.c.turn, _table.c.workitem_uid)
                .limit(limit)
            )
            for row in connection.execute(statement):
                values = dict(row._mapping)
                values["held"] = values.pop("held_at") is not None
                values["state"] = WorkitemState(values["state"])
                found.append(Queued(**values))
    return tuple(found)


def workers(index: Index) -> int:
    """Runs at once of all nodes that were started and not stopped, as they said when they started."""
    table = tables.events
    statement = (
        select(table.c.actor, table.c.kind, table.c.detail)
        .where(table.c.kind.in_(("node-started", "node-stopped")))
        .order_by(table.c.at.desc(), table.c.event_id.desc())
        .limit(_STARTS)
    )
    last: dict[str, int] = {}
    with index.read() as connection:
        for actor, kind, detail in connection.execute(statement):
            runs = int(detail.get("workers", 1)) if kind == "node-started" else 0
            last.setdefault(actor, runs)
    return sum(last.values())


def run_times(index: Index, pipelines: Collection[str]) -> dict[str, float]:
    """Pipeline -> seconds that its last completed runs took, the median; those that never completed are left out."""
    found: dict[str, float] = {}
    with index.read() as connection:
        for pipeline in sorted(set(pipelines)):
            statement = (
                select(_table.c.timings)
                .where(_table.c.state == WorkitemState.COMPLETED)
                .where(_table.c.pipeline == pipeline)
                .order_by(_table.c.ended_at.desc())
                .limit(_MEASURED)
            )
            took = sorted(sum(one.values()) for one in connection.scalars(statement) if one)
            if took:
                found[pipeline] = took[len(took) // 2]
    return found


# -- what people change ---------------------------------------------------------------------------


def set_priority(
    index: Index, workitem_uid: str, *, to: int | None, actor: str, now: datetime
) -> Workitem:
    """Give a SCHEDULED workitem another priority; what it has waited still counts.

    Parameters
    ----------
    to
        None: the least priority that puts it before all that wait, never a lower one than it has.

    Raises
    ------
    NotFound, ChangeRefused
        No such workitem; or it is not SCHEDULED.
    """
    with _scheduled(index, workitem_uid, actor, now) as (connection, row, told):
        priority = to
        if priority is None:
            others = and_(
                _table.c.state == WorkitemState.SCHEDULED, _table.c.workitem_uid != workitem_uid
            )
            ahead = connection.scalar(select(func.min(_table.c.turn)).where(others))
            short = 0 if ahead is None else math.floor((row.turn - ahead) / AGE_S) + 1
            priority = row.priority + max(0, short)
        reason = f"Set from {row.priority} to {priority} by {actor}."
        told |= {"kind": "workitem-prioritised", "from": row.priority, "to": priority}
        _set(
            connection,
            workitem_uid,
            priority=priority,
            turn=row.turn - (priority - row.priority) * AGE_S,
            priority_reasons=[*row.priority_reasons, reason],
        )
    return _get(index, workitem_uid)


def hold(index: Index, workitem_uid: str, *, reason: str, actor: str, now: datetime) -> Workitem:
    """Keep a SCHEDULED workitem from starting until it is let go.

    Raises
    ------
    NotFound, ChangeRefused
        No such workitem; or it is not SCHEDULED, or held already.
    """
    said = clean_text(reason)
    with _scheduled(index, workitem_uid, actor, now) as (connection, row, told):
        if row.held_at is not None:
            raise ChangeRefused(f"Workitem {workitem_uid} is held already.")
        told |= {"kind": "workitem-held", "reason": said}
        _set(connection, workitem_uid, held_at=now, hold_reason=said or f"Held by {actor}.")
    return _get(index, workitem_uid)


def let_go(
    index: Index, workitem_uid: str, *, at_once: bool = False, actor: str, now: datetime
) -> Workitem:
    """Let a held workitem take its turn again; the time it was held counts for nothing.

    Parameters
    ----------
    at_once
        Whatever its window, or its pause after a failed run; then one that is not held may be meant as well.

    Raises
    ------
    NotFound, ChangeRefused
        No such workitem; or it is not SCHEDULED, or nothing holds it.
    """
    with _scheduled(index, workitem_uid, actor, now) as (connection, row, told):
        freed = row.window is not None or row.not_before is not None
        if row.held_at is None and not (at_once and freed):
            raise ChangeRefused(f"Workitem {workitem_uid} is not held.")
        told |= {"kind": "workitem-let-go", "at_once": at_once}
        values: dict[str, Any] = {"held_at": None, "hold_reason": None}
        since = row.turn + row.priority * AGE_S
        if at_once:
            values |= {"window": None, "not_before": None}
            since = min(since, now.timestamp())
        if row.held_at is not None:
            since += max(0.0, now.timestamp() - max(row.held_at.timestamp(), since))
        _set(connection, workitem_uid, turn=since - row.priority * AGE_S, **values)
    return _get(index, workitem_uid)


# -- helpers --------------------------------------------------------------------------------------


def _is_due(now: datetime) -> ColumnElement[bool]:
    return or_(_table.c.not_before.is_(None), _table.c.not_before <= now)


def _full(connection: Connection, limits: Mapping[str, int]) -> list[str]:
    """Pipelines of which no more may start."""
    if not limits:
        return []
    statement = (
        select(_table.c.pipeline, func.count())
        .where(_table.c.state == WorkitemState.IN_PROGRESS)
        .group_by(_table.c.pipeline)
    )
    running = {pipeline: count for pipeline, count in connection.execute(statement)}
    return [name for name, most in limits.items() if running.get(name, 0) >= most]


@contextmanager
def _scheduled(
    index: Index, workitem_uid: str, actor: str, now: datetime
) -> Iterator[tuple[Connection, Row[Any], dict[str, HeaderValue]]]:
    """A change by a person of a workitem that is SCHEDULED, and its line of the log: `kind`, then the detail."""
    told: dict[str, HeaderValue] = {}
    with index.begin() as connection:
        statement = select(_table).where(_table.c.workitem_uid == workitem_uid).with_for_update()
        row = connection.execute(statement).one_or_none()
        if row is None:
            raise NotFound(f"No workitem {workitem_uid}.")
        if row.state != WorkitemState.SCHEDULED:
            raise ChangeRefused(
                f"Workitem {workitem_uid} is {row.state}; only one that is SCHEDULED can be."
            )
        yield connection, row, told
        insert_event(
            connection,
            Event(
                kind=str(told.pop("kind")),
                actor=actor,
                at=now,
                study_instance_uid=row.study_instance_uid,
                workitem_uid=workitem_uid,
                detail=told,
            ),
        )


def _set(connection: Connection, workitem_uid: str, **values: Any) -> None:
    connection.execute(update(_table).where(_table.c.workitem_uid == workitem_uid).values(**values))


def _get(index: Index, workitem_uid: str) -> Workitem:
    with index.read() as connection:
        return get_workitem(connection, workitem_uid)
