"""Searches for studies before: wanted, fetched, settled. Events: `prior-wanted`, `-fetched`, `-settled`.

A search is looked at by one process at a time. When it is settled, the study that waits for it is evaluated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import clean_text, insert_or_ignore
from storage.index.workitem_rows import insert_workitem
from storage.model import Event, PriorSearch, PriorSearchState, Workitem

_table = tables.prior_searches
#: What a search that nobody looks at has.
_UNOWNED: dict[str, Any] = {"owner": None, "lease_until": None}


def want(index: Index, search: PriorSearch, *, now: datetime) -> PriorSearch:
    """Write a search down, unless it is there; as it stands."""
    wanted = select(_table).where(_is(search))
    with index.read() as connection:
        row = connection.execute(wanted).one_or_none()
    if row is None:
        with index.begin() as connection:
            if insert_or_ignore(connection, _table, asdict(search)):
                _log(connection, search, "prior-wanted", now)
            row = connection.execute(wanted).one()
    return _from_row(row)


def reason(index: Index, *, study_instance_uid: str, rule: str) -> str:
    """Why a search brought nothing; empty when it did, or when there was none."""
    statement = select(_table.c.reason).where(
        _table.c.study_instance_uid == study_instance_uid, _table.c.rule == rule
    )
    with index.read() as connection:
        return connection.scalar(statement) or ""


def is_fetched(index: Index, study_instance_uid: str) -> bool:
    """Whether a study was fetched for comparison alone."""
    with index.read() as connection:
        return _is_fetched(connection, study_instance_uid)


def claim_due(index: Index, *, owner: str, now: datetime, lease_s: float) -> PriorSearch | None:
    """Take the search that is longest due and that nobody looks at; None when there is none."""
    chosen = (
        select(_table)
        .where(
            _table.c.state.in_((PriorSearchState.WANTED, PriorSearchState.FETCHED)),
            _table.c.next_attempt_at <= now,
            or_(_table.c.lease_until.is_(None), _table.c.lease_until < now),
        )
        .order_by(_table.c.next_attempt_at, _table.c.study_instance_uid)
        .limit(1)
    )
    # Without the write lock first: most looks find nothing, and receiving needs the lock.
    with index.read() as connection:
        if connection.execute(chosen).first() is None:
            return None
    with index.begin() as connection:
        row = connection.execute(chosen.with_for_update(skip_locked=True)).one_or_none()
        if row is None:
            return None
        search = _from_row(row)
        lease_until = now + timedelta(seconds=lease_s)
        _set(connection, search, owner=owner, lease_until=lease_until)
        return search


def renew(index: Index, search: PriorSearch, *, owner: str, now: datetime, lease_s: float) -> bool:
    """Prolong a look; False when it is over."""
    mine = _is(search) & (_table.c.owner == owner)
    prolonged = update(_table).where(mine).values(lease_until=now + timedelta(seconds=lease_s))
    with index.begin() as connection:
        return connection.execute(prolonged).rowcount == 1


def release(index: Index, *, owner: str) -> None:
    """Give back what this owner was looking at when it died."""
    with index.begin() as connection:
        connection.execute(update(_table).where(_table.c.owner == owner).values(**_UNOWNED))


def choose(index: Index, search: PriorSearch, prior_study_instance_uid: str) -> None:
    """Note the study that was found, before anything of it comes: one that is not held is there for comparison alone.

    Chosen again, it is what it was: by then a part of it may have come.
    """
    held = select(tables.studies.c.revision).where(
        tables.studies.c.study_instance_uid == prior_study_instance_uid
    )
    with index.begin() as connection:
        _set(
            connection,
            search,
            prior_study_instance_uid=prior_study_instance_uid,
            is_fetched=_is_fetched(connection, prior_study_instance_uid)
            or connection.scalar(held) is None,
        )


def schedule(
    index: Index, search: PriorSearch, workitems: Sequence[Workitem], *, now: datetime
) -> None:
    """The study is held: schedule what makes its result. A workitem that is known is left as it is."""
    with index.begin() as connection:
        for one in workitems:
            insert_workitem(connection, one)
        _set(
            connection,
            search,
            state=PriorSearchState.FETCHED,
            workitem_uids=[one.workitem_uid for one in workitems],
            next_attempt_at=now,
            attempts=0,
            reason="",
            **_UNOWNED,
        )
        _log(connection, search, "prior-fetched", now)


def put_off(index: Index, search: PriorSearch, *, again_at: datetime, reason: str = "") -> None:
    """End a look without an end; with a reason it counts as an attempt."""
    failed = {"attempts": search.attempts + 1, "reason": clean_text(reason)} if reason else {}
    with index.begin() as connection:
        _set(connection, search, next_attempt_at=again_at, **failed, **_UNOWNED)


def settle(index: Index, search: PriorSearch, *, reason: str, now: datetime) -> None:
    """There is a result (no reason), or none will come; the study that waits is evaluated again."""
    study = tables.studies
    waiting = (study.c.study_instance_uid == search.study_instance_uid) & (
        study.c.waits_until > now
    )
    with index.begin() as connection:
        said = clean_text(reason)
        _set(connection, search, state=PriorSearchState.SETTLED, reason=said, **_UNOWNED)
        connection.execute(update(study).where(waiting).values(waits_until=now))
        _log(connection, search, "prior-settled", now, outcome="failure" if reason else "success")


def _is(search: PriorSearch) -> ColumnElement[bool]:
    return and_(
        _table.c.study_instance_uid == search.study_instance_uid, _table.c.rule == search.rule
    )


def _set(connection: Connection, search: PriorSearch, **values: Any) -> None:
    connection.execute(update(_table).where(_is(search)).values(**values))


def _is_fetched(connection: Connection, study_instance_uid: str) -> bool:
    fetched = _table.c.prior_study_instance_uid == study_instance_uid
    statement = select(_table.c.rule).where(fetched, _table.c.is_fetched).limit(1)
    return connection.execute(statement).first() is not None


def _log(
    connection: Connection,
    search: PriorSearch,
    kind: str,
    now: datetime,
    *,
    outcome: str = "success",
) -> None:
    insert_event(
        connection,
        Event(
            kind=kind,
            actor="node",
            at=now,
            study_instance_uid=search.study_instance_uid,
            outcome=outcome,
            detail={"rule": search.rule, "destination": search.destination},
        ),
    )


def _from_row(row: Row[Any]) -> PriorSearch:
    values = dict(row._mapping)
    del values["owner"], values["lease_until"]
    values["state"] = PriorSearchState(values["state"])
    values["workitem_uids"] = tuple(values["workitem_uids"])
    return PriorSearch(**values)
