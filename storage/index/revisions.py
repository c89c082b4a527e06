"""Revisions: which workitem replaces which, and what becomes of the evidence that is replaced.

    scheduled   an evaluation plans a run at a place where others were: what has not ended there is cancelled, and the
                last of them that made evidence is the predecessor
    completed   the evidence is there: what is not sent yet of theirs is withdrawn, what was sent is marked; who wants
                it retracted is told by a rejection note (`storage.index.retractions`)
    failed      the old result still counts: it was right about what had come until then

Two workitems are at the same place when they are of one study and one pipeline, and the first role that both have is
played by the same series. Two rules may run one pipeline twice at one place, with different parameters: neither
replaces the other while both rules want their run. A rule that runs on one series of a study alone has one place there:
when a better series comes, its run replaces that on the other. What a worklist ordered is replaced by nothing: the step
ends with its own result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, or_, select, update

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.evidence_rows import evidence_from_row
from storage.index.workitem_rows import insert_workitem, select_workitems
from storage.model import DeliveryState, Event, Evidence, Workitem, WorkitemState

#: `reason_code` of a workitem that a newer one replaced before it ended.
SUPERSEDED = "superseded"
#: `kind` of evidence that retracts other evidence.
REJECTION = "REJECTION"

_table = tables.workitems
_LIVE = (WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS)
_NOT_SENT = (DeliveryState.PENDING, DeliveryState.FAILED)
_SENT = (DeliveryState.SENT, DeliveryState.COMMITTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a workitem stands in the line of those that replaced each other."""

    #: The first of the line; itself where it has no predecessor.
    first: str
    #: Evidence of its predecessor.
    replaced: tuple[Evidence, ...]


def schedule(
    connection: Connection,
    planned: Sequence[Workitem],
    now: datetime,
    *,
    outdone: Mapping[str, Collection[str]],
) -> int:
    """Schedule what an evaluation plans, within its transaction, in place of what it planned before.

    A workitem whose UID is known is left as it is, unless it was cancelled for another that is not wanted any more.

    Parameters
    ----------
    outdone
        UID of a planned workitem -> those that it replaces wherever they are: `planned_by`.

    Returns
    -------
    int
        How many will run that would not have.
    """
    return sum(
        _schedule(connection, workitem, planned, outdone.get(workitem.workitem_uid, ()), now)
        for workitem in planned
    )


def planned_by(
    connection: Connection, study_instance_uid: str, rules: Collection[str]
) -> dict[str, set[str]]:
    """Rule -> UIDs of the workitems that evaluations of a study planned for it so far."""
    table = tables.decisions
    rows = connection.execute(
        select(table.c.rule, table.c.workitem_uid)
        .where(table.c.study_instance_uid == study_instance_uid)
        .where(table.c.rule.in_(rules), table.c.workitem_uid.is_not(None))
        .distinct()
    )
    found: dict[str, set[str]] = {}
    for rule, uid in rows:
        found.setdefault(rule, set()).add(uid)
    return found


def replacing(index: Index, workitem_uid: str) -> str | None:
    """The completed workitem that was scheduled in place of this one; None where this one counts."""
    newer = _table.alias()
    statement = (
        select(newer.c.workitem_uid)
        .join_from(_table, newer, newer.c.workitem_uid == _table.c.superseded_by)
        .where(_table.c.workitem_uid == workitem_uid)
        .where(_table.c.state == WorkitemState.COMPLETED)
        .where(newer.c.state == WorkitemState.COMPLETED)
    )
    with index.read() as connection:
        return connection.scalar(statement)


def lineage(index: Index, workitem: Workitem) -> Lineage:
    """What a workitem replaces."""
    evidence = tables.evidence
    with index.read() as connection:
        first, seen = workitem.workitem_uid, {workitem.workitem_uid}
        before = workitem.predecessor
        while before is not None and before not in seen:
            seen.add(before)
            first = before
            before = connection.scalar(
                select(_table.c.predecessor).where(_table.c.workitem_uid == first)
            )
        rows = connection.execute(
            select(evidence)
            .where(evidence.c.workitem_uid == workitem.predecessor)
            .where(evidence.c.kind != REJECTION)
            .order_by(evidence.c.sop_instance_uid)
        )
        return Lineage(first=first, replaced=tuple(evidence_from_row(row) for row in rows))


def supersede(connection: Connection, workitem: Workitem, now: datetime) -> None:
    """Within the transaction that records a workitem's evidence: that of those it replaces counts no more.

    Evidence of a result is replaced by a result only; that of a refusal by whatever comes after.
    """
    mine = (_table.c.study_instance_uid == workitem.study_instance_uid) & (
        _table.c.superseded_by == workitem.workitem_uid
    )
    if workitem.state is not WorkitemState.COMPLETED:
        mine &= _table.c.state == WorkitemState.CANCELED
    replaced = connection.scalars(select(_table.c.workitem_uid).where(mine)).all()
    if not replaced:
        return
    owed = tables.deliveries
    made = tables.evidence
    theirs = select(made.c.sop_instance_uid).where(made.c.workitem_uid.in_(replaced))
    concerned = or_(owed.c.sop_instance_uid.in_(theirs), owed.c.superseded_by.in_(replaced))
    withdrawn = connection.execute(
        update(owed)
        .where(concerned, owed.c.state.in_(_NOT_SENT))
        .values(
            state=DeliveryState.WITHDRAWN,
            superseded_by=workitem.workitem_uid,
            message=f"Superseded by workitem {workitem.workitem_uid} before it was sent.",
            updated_at=now,
        )
    ).rowcount
    # What was on its way may still arrive, and is marked then. A rejection note that was sent stays in force.
    results = theirs.where(made.c.kind != REJECTION)
    concerned = or_(owed.c.sop_instance_uid.in_(results), owed.c.superseded_by.in_(replaced))
    sent = connection.execute(
        update(owed)
        .where(concerned, owed.c.state.in_(_SENT))
        .values(superseded_by=workitem.workitem_uid)
    ).rowcount
    if withdrawn or sent:
        insert_event(
            connection,
            Event(
                kind="evidence-superseded",
                actor="node",
                at=now,
                study_instance_uid=workitem.study_instance_uid,
                workitem_uid=workitem.workitem_uid,
                detail={"withdrawn": withdrawn, "sent_before": sent},
            ),
        )


# -- scheduling -----------------------------------------------------------------------------------


def _schedule(
    connection: Connection,
    workitem: Workitem,
    planned: Sequence[Workitem],
    outdone: Collection[str],
    now: datetime,
) -> bool:
    earlier = _earlier(connection, workitem, planned, outdone)
    for one in earlier:
        _cancel(connection, one, workitem, now)
    # Read again: one that was IN PROGRESS may have ended while its row was waited for.
    before = _last_with_evidence(connection, [one.workitem_uid for one in earlier])
    if before is not None:
        findings = tables.findings
        known = connection.execute(
            select(findings.c.segment_label, findings.c.tracking_uid)
            .where(findings.c.workitem_uid == before)
            .order_by(findings.c.segment_number)
        ).all()
        # In one study the same structure keeps its Tracking UID, however soon one run followed the other.
        found = {label: uid for label, uid in known}
        workitem = replace(
            workitem,
            predecessor=before,
            known_findings={**workitem.known_findings, **found},
        )
    if insert_workitem(connection, workitem):
        return True
    return _want_again(connection, workitem, now)


def _earlier(
    connection: Connection,
    workitem: Workitem,
    planned: Sequence[Workitem],
    outdone: Collection[str],
) -> list[Workitem]:
    """Workitems at the same place, or outdone, that are wanted no more."""
    wanted = [one.workitem_uid for one in planned]
    others = {
        one.rule
        for one in planned
        if one.workitem_uid != workitem.workitem_uid and is_same_place(one, workitem)
    } - {workitem.rule}
    found = select_workitems(
        connection,
        _table.c.study_instance_uid == workitem.study_instance_uid,
        _table.c.pipeline == workitem.pipeline,
        _table.c.workitem_uid.not_in(wanted),
    )
    ordered = _ordered(connection, workitem.study_instance_uid)
    return [
        one
        for one in found
        if one.workitem_uid not in ordered
        and (
            one.workitem_uid in outdone or (is_same_place(one, workitem) and one.rule not in others)
        )
    ]


def _ordered(connection: Connection, study_instance_uid: str) -> frozenset[str]:
    """Workitems that a step of a worklist waits for."""
    steps = tables.procedure_steps
    wanted = select(steps.c.workitems).where(steps.c.study_instance_uid == study_instance_uid)
    return frozenset(uid for uids in connection.scalars(wanted) for uid in uids)


def is_same_place(one: Workitem, other: Workitem) -> bool:
    """Whether two workitems are of one pipeline, and the first role that both have is played by the same series."""
    if (one.study_instance_uid, one.pipeline) != (other.study_instance_uid, other.pipeline):
        return False
    theirs = {item.role: item.series_instance_uid for item in other.inputs}
    shared = next((item for item in one.inputs if item.role in theirs), None)
    return shared is not None and theirs[shared.role] == shared.series_instance_uid


def _cancel(connection: Connection, one: Workitem, newer: Workitem, now: datetime) -> None:
    """Stop it if it has not ended; its owner notices when it renews. Say what replaces it."""
    mine = _table.c.workitem_uid == one.workitem_uid
    canceled = connection.execute(
        update(_table)
        .where(mine, _table.c.state.in_(_LIVE))
        .values(
            state=WorkitemState.CANCELED,
            lease_until=None,
            ended_at=now,
            reason_code=SUPERSEDED,
            reason=f"Superseded by workitem {newer.workitem_uid}: the study changed, or its rule did.",
        )
    ).rowcount
    # One that was replaced by a result stays so: the next in the line replaces that.
    connection.execute(
        update(_table).where(mine, _is_not_replaced()).values(superseded_by=newer.workitem_uid)
    )
    if canceled:
        insert_event(
            connection,
            Event(
                kind="workitem-superseded",
                actor="node",
                at=now,
                study_instance_uid=one.study_instance_uid,
                workitem_uid=one.workitem_uid,
                detail={"by": newer.workitem_uid},
            ),
        )


def _is_not_replaced() -> ColumnElement[bool]:
    """The condition that nothing was completed in place of a workitem."""
    newer = _table.alias()
    return ~exists(
        select(newer.c.workitem_uid)
        .where(newer.c.workitem_uid == _table.c.superseded_by)
        .where(newer.c.state == WorkitemState.COMPLETED)
    )


def _last_with_evidence(connection: Connection, uids: Sequence[str]) -> str | None:
    made = tables.evidence
    return connection.scalar(
        select(_table.c.workitem_uid)
        .where(_table.c.workitem_uid.in_(uids))
        .where(_table.c.workitem_uid.in_(select(made.c.workitem_uid)))
        .order_by(_table.c.ended_at.desc(), _table.c.workitem_uid)
        .limit(1)
    )


def _want_again(connection: Connection, workitem: Workitem, now: datetime) -> bool:
    """What is known is wanted (still, or again): whether it was cancelled for another, and is scheduled once more."""
    mine = _table.c.workitem_uid == workitem.workitem_uid
    connection.execute(
        update(_table)
        .where(mine, _table.c.superseded_by.is_not(None), _is_not_replaced())
        .values(superseded_by=None)
    )
    values: dict[str, Any] = {
        "state": WorkitemState.SCHEDULED,
        "study_revision": workitem.study_revision,
        "scheduled_at": now,
        "attempts": 0,
        "not_before": None,
        "started_at": None,
        "ended_at": None,
        "owner": None,
        "reason_code": None,
        "reason": None,
        "predecessor": workitem.predecessor,
        "known_findings": dict(workitem.known_findings),
    }
    canceled = (_table.c.state == WorkitemState.CANCELED) & (_table.c.reason_code == SUPERSEDED)
    revived = connection.execute(update(_table).where(mine, canceled).values(**values)).rowcount
    return revived == 1
