"""Unified Procedure Steps of worklists: claimed, performed, answered for (PS3.4 Annex CC).

A step is looked at by one process at a time, for `lease_s` seconds at most; each look ends with `change` or
`schedule`, which set when it is looked at again. Events: `procedure-step-claiming`, `-claimed`, `-performing`,
`-canceling`, `-completed`, `-canceled`, `-lost`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.errors import NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import clean_text, insert_or_ignore
from storage.index.workitem_rows import insert_workitem
from storage.model import (
    SETTLED_STEPS,
    Event,
    ProcedureStep,
    ProcedureStepState,
    StepInput,
    Workitem,
)

_table = tables.procedure_steps
_ACTIVE = tuple(state for state in ProcedureStepState if state not in SETTLED_STEPS)
_FAILED = (ProcedureStepState.CANCELING, ProcedureStepState.LOST)
_UNDONE = (*_FAILED, ProcedureStepState.CANCELED)
_UNOWNED: Mapping[str, Any] = {"owner": None, "lease_until": None}


def add(index: Index, step: ProcedureStep, *, now: datetime) -> bool:
    """Write a step down before it is claimed, with its Transaction UID; False when it is known already.

    A step that was lost may be offered again (its performer gave it back): it begins anew.
    """
    row = asdict(step) | {"workitems": dict(step.workitems)}
    with index.begin() as connection:
        added = insert_or_ignore(connection, _table, row)
        if not added:
            again = _is(step.worklist, step.procedure_step_uid) & (
                _table.c.state == ProcedureStepState.LOST
            )
            added = connection.execute(update(_table).where(again).values(**row)).rowcount == 1
        if added:
            _log(connection, step, ProcedureStepState.CLAIMING, None, now)
    return added


def claim_due(
    index: Index, *, worklist: str, owner: str, now: datetime, lease_s: float
) -> ProcedureStep | None:
    """Take the step of a worklist that is longest due and that nobody looks at; None when there is none."""
    due = and_(
        _table.c.state.in_(_ACTIVE),
        _table.c.worklist == worklist,
        _table.c.next_attempt_at <= now,
        or_(_table.c.lease_until.is_(None), _table.c.lease_until < now),
    )
    chosen = (
        select(_table)
        .where(due)
        .order_by(_table.c.next_attempt_at, _table.c.procedure_step_uid)
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
        connection.execute(
            update(_table)
            .where(_is(worklist, row.procedure_step_uid))
            .values(owner=owner, lease_until=now + timedelta(seconds=lease_s))
        )
        return _from_row(row)


def renew(index: Index, step: ProcedureStep, *, owner: str, now: datetime, lease_s: float) -> bool:
    """Prolong a look; False when it is over."""
    mine = _is(step.worklist, step.procedure_step_uid) & (_table.c.owner == owner)
    statement = update(_table).where(mine).values(lease_until=now + timedelta(seconds=lease_s))
    with index.begin() as connection:
        return connection.execute(statement).rowcount == 1


def release(index: Index, *, owner: str) -> None:
    """Give back what this owner was looking at when it died."""
    with index.begin() as connection:
        connection.execute(update(_table).where(_table.c.owner == owner).values(**_UNOWNED))


def change(  # noqa: PLR0913 - one transition
    index: Index,
    step: ProcedureStep,
    *,
    now: datetime,
    again_at: datetime,
    state: ProcedureStepState | None = None,
    attempts: int = 0,
    reason: tuple[str, str] | None = None,
) -> None:
    """End a look at a step: its state (None: as before), and when it is looked at again.

    Nothing happens when another look has changed the state meanwhile.

    Parameters
    ----------
    reason
        Code and sentence; None leaves what is there, unless the step has come further.
    """
    values: dict[str, Any] = {"next_attempt_at": again_at, "attempts": attempts, **_UNOWNED}
    if reason is not None:
        values |= {"reason_code": reason[0], "reason": clean_text(reason[1])}
    elif state not in (None, *_UNDONE):
        # It goes on, or is done: what held it up is over.
        values |= {"reason_code": None, "reason": None}
    if state is not None:
        values |= {"state": state}
        if state in SETTLED_STEPS:
            values |= {"ended_at": now}
    mine = _is(step.worklist, step.procedure_step_uid) & (_table.c.state == step.state)
    with index.begin() as connection:
        changed = connection.execute(update(_table).where(mine).values(**values)).rowcount
        if changed and state is not None:
            _log(connection, step, state, reason[0] if reason else None, now)


def schedule(
    index: Index, step: ProcedureStep, workitems: Sequence[Workitem], *, now: datetime
) -> None:
    """Schedule the workitems of a step and note them, in one transaction. One that is known is left as it is."""
    mine = _is(step.worklist, step.procedure_step_uid) & (_table.c.state == step.state)
    with index.begin() as connection:
        if connection.scalar(select(_table.c.state).where(mine).with_for_update()) is None:
            return
        new = {one.workitem_uid: insert_workitem(connection, one) for one in workitems}
        connection.execute(
            update(_table)
            .where(mine)
            .values(
                state=ProcedureStepState.PERFORMING,
                workitems=new,
                next_attempt_at=now,
                attempts=0,
                reason_code=None,
                reason=None,
                **_UNOWNED,
            )
        )
        _log(connection, step, ProcedureStepState.PERFORMING, None, now)


def get(index: Index, worklist: str, procedure_step_uid: str) -> ProcedureStep:
    """The step of that SOP Instance UID."""
    with index.read() as connection:
        statement = select(_table).where(_is(worklist, procedure_step_uid))
        row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"No procedure step {procedure_step_uid} of worklist {worklist}.")
    return _from_row(row)


def list_steps(
    index: Index, *, worklist: str | None = None, limit: int = 100
) -> tuple[ProcedureStep, ...]:
    """Steps, the latest claimed first."""
    statement = (
        select(_table)
        .order_by(_table.c.claimed_at.desc(), _table.c.procedure_step_uid)
        .limit(limit)
    )
    if worklist is not None:
        statement = statement.where(_table.c.worklist == worklist)
    with index.read() as connection:
        return tuple(_from_row(row) for row in connection.execute(statement))


def count_active(index: Index, worklist: str) -> int:
    """Steps of a worklist that are not settled."""
    statement = (
        select(func.count()).where(_table.c.state.in_(_ACTIVE)).where(_table.c.worklist == worklist)
    )
    with index.read() as connection:
        return int(connection.scalar(statement) or 0)


def _is(worklist: str, uid: str) -> ColumnElement[bool]:
    return and_(_table.c.worklist == worklist, _table.c.procedure_step_uid == uid)


def _log(
    connection: Connection,
    step: ProcedureStep,
    state: ProcedureStepState,
    code: str | None,
    now: datetime,
) -> None:
    insert_event(
        connection,
        Event(
            kind=f"procedure-step-{state.lower()}",
            actor=f"worklist:{step.worklist}",
            at=now,
            study_instance_uid=step.study_instance_uid,
            outcome="failure" if state in _FAILED else "success",
            detail={"procedure_step_uid": step.procedure_step_uid, "work": step.work}
            | ({"code": code} if code else {}),
        ),
    )


def _from_row(row: Row[Any]) -> ProcedureStep:
    values = dict(row._mapping)
    del values["owner"], values["lease_until"]
    values["state"] = ProcedureStepState(values["state"])
    values["inputs"] = tuple(
        StepInput(**{**one, "sop_instance_uids": tuple(one["sop_instance_uids"])})
        for one in values["inputs"]
    )
    return ProcedureStep(**values)
