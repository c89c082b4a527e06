"""Destinations: the remote application entities that evidence goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Select, delete, select, update

from storage import tables
from storage.errors import ChangeRefused, NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import insert_or_ignore
from storage.model import Destination, Event, HeaderValue, utcnow

_table = tables.destinations


def add(
    index: Index, destination: Destination, *, actor: str, now: datetime | None = None
) -> Destination:
    """Add a destination.

    Raises
    ------
    ChangeRefused
        When the name is taken.
    """
    with index.begin() as connection:
        if not insert_or_ignore(connection, _table, asdict(destination)):
            raise ChangeRefused(
                f"There is a destination {destination.name} already; remove it first."
            )
        detail = {"name": destination.name, "called_ae": destination.called_ae}
        event = Event(kind="destination-added", actor=actor, at=now or utcnow(), detail=detail)
        insert_event(connection, event)
    return destination


def set_profile(
    index: Index, name: str, profile: str, *, actor: str, now: datetime | None = None
) -> None:
    """Give a destination another profile.

    Raises
    ------
    NotFound
        No such destination.
    """
    with index.begin() as connection:
        statement = update(_table).where(_table.c.name == name).values(profile=profile)
        if connection.execute(statement).rowcount != 1:
            raise NotFound(f"No destination {name}.")
        detail = {"name": name, "profile": profile}
        insert_event(
            connection,
            Event(kind="destination-changed", actor=actor, at=now or utcnow(), detail=detail),
        )


def edit(
    index: Index,
    name: str,
    changes: Mapping[str, HeaderValue],
    *,
    actor: str,
    now: datetime | None = None,
) -> Destination:
    """Change some of a destination: field of `Destination` -> value.

    Raises
    ------
    NotFound
        No such destination.
    """
    with index.begin() as connection:
        statement = update(_table).where(_table.c.name == name).values(**changes)
        if connection.execute(statement).rowcount != 1:
            raise NotFound(f"No destination {name}.")
        detail = {"name": name, **changes}
        insert_event(
            connection,
            Event(kind="destination-changed", actor=actor, at=now or utcnow(), detail=detail),
        )
        row = connection.execute(select(_table).where(_table.c.name == name)).one()
    return Destination(**row._mapping)


def pause(index: Index, name: str, *, actor: str, now: datetime | None = None) -> bool:
    """Send nothing to a destination until `resume`; what is owed to it waits. False when it is paused already.

    Raises
    ------
    NotFound
        No such destination.
    """
    return _set_paused(index, name, now or utcnow(), actor=actor, now=now or utcnow())


def resume(index: Index, name: str, *, actor: str, now: datetime | None = None) -> bool:
    """Send to a destination again; what waited is due at once. False when it is not paused.

    Raises
    ------
    NotFound
        No such destination.
    """
    return _set_paused(index, name, None, actor=actor, now=now or utcnow())


def _set_paused(index: Index, name: str, at: datetime | None, *, actor: str, now: datetime) -> bool:
    with index.begin() as connection:
        mine = _table.c.name == name
        if connection.scalar(select(_table.c.name).where(mine)) is None:
            raise NotFound(f"No destination {name}.")
        before = _table.c.paused_at.is_not(None) if at is None else _table.c.paused_at.is_(None)
        statement = update(_table).where(mine, before).values(paused_at=at)
        if connection.execute(statement).rowcount != 1:
            return False
        kind = "destination-resumed" if at is None else "destination-paused"
        insert_event(connection, Event(kind=kind, actor=actor, at=now, detail={"name": name}))
    return True


def paused() -> Select[tuple[str]]:
    """Names of destinations that are paused, for another statement's condition."""
    return select(_table.c.name).where(_table.c.paused_at.is_not(None))


def remove(index: Index, name: str, *, actor: str, now: datetime | None = None) -> None:
    """Remove a destination; what is still owed to it fails when it is sent.

    Raises
    ------
    NotFound, ChangeRefused
        No such destination; or a rule names it.
    """
    with index.begin() as connection:
        # Locked before rules are read: one that is being added holds it, and is seen then.
        mine = select(_table.c.name).where(_table.c.name == name).with_for_update()
        if connection.scalar(mine) is None:
            raise NotFound(f"No destination {name}.")
        table = tables.rules.c
        rules = connection.execute(select(table.name, table.destinations, table.prior_from))
        naming = sorted(row.name for row in rules if name in (*row.destinations, row.prior_from))
        if naming:
            raise ChangeRefused(
                f"Destination {name} is named by rule {', '.join(naming)}; edit the rule first."
            )
        connection.execute(delete(_table).where(_table.c.name == name))
        event = Event(
            kind="destination-removed", actor=actor, at=now or utcnow(), detail={"name": name}
        )
        insert_event(connection, event)


def list_destinations(index: Index) -> tuple[Destination, ...]:
    """All destinations, by name."""
    with index.read() as connection:
        rows = connection.execute(select(_table).order_by(_table.c.name))
        return tuple(Destination(**row._mapping) for row in rows)


def get(index: Index, name: str) -> Destination:
    """The destination of that name."""
    with index.read() as connection:
        row = connection.execute(select(_table).where(_table.c.name == name)).one_or_none()
    if row is None:
        raise NotFound(f"No destination {name}.")
    return Destination(**row._mapping)
