"""Workitems between rows and values, within a transaction of their own or of an evaluation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from storage import tables
from storage.errors import NotFound
from storage.index.values import insert_or_ignore
from storage.model import AGE_S, Prior, PriorReference, Workitem, WorkitemInput, WorkitemState


def insert_workitem(connection: Connection, workitem: Workitem) -> bool:
    """Schedule a workitem within an evaluation's transaction, unless its UID is known; whether it is new."""
    row = {
        "workitem_uid": workitem.workitem_uid,
        "study_instance_uid": workitem.study_instance_uid,
        "study_revision": workitem.study_revision,
        "rule": workitem.rule,
        "pipeline": workitem.pipeline,
        "pipeline_version": workitem.pipeline_version,
        "parameters": dict(workitem.parameters),
        "destinations": workitem.destinations,
        "priority": workitem.priority,
        "state": WorkitemState.SCHEDULED,
        "scheduled_at": workitem.scheduled_at,
        "attempts": 0,
        "not_before": workitem.not_before,
        "timings": {},
        "notices": (),
        "report_refusals": workitem.report_refusals,
        "known_findings": dict(workitem.known_findings),
        "priority_reasons": workitem.priority_reasons,
        "turn": turn_of(workitem.priority, workitem.not_before or workitem.scheduled_at),
        "window": workitem.window,
        "predecessor": workitem.predecessor,
        "lacks": workitem.lacks,
        "prior": None if workitem.prior is None else asdict(workitem.prior),
    }
    if not insert_or_ignore(connection, tables.workitems, row):
        return False
    for n, item in enumerate(workitem.inputs):
        row = {
            "workitem_uid": workitem.workitem_uid,
            "position": n,
            "role": item.role,
            "series_instance_uid": item.series_instance_uid,
            "sop_instance_uids": item.sop_instance_uids,
        }
        connection.execute(insert(tables.workitem_inputs), row)
    return True


def turn_of(priority: int, since: datetime) -> float:
    """What workitems are taken by, the lowest first: waiting since then, each point of priority as `AGE_S` more."""
    return since.timestamp() - priority * AGE_S


def get_workitem(connection: Connection, workitem_uid: str) -> Workitem:
    """The workitem of that UID, or NotFound."""
    found = select_workitems(connection, tables.workitems.c.workitem_uid == workitem_uid)
    if not found:
        raise NotFound(f"No workitem {workitem_uid}.")
    return found[0]


def select_workitems(
    connection: Connection,
    *conditions: ColumnElement[bool],
    after: str | None = None,
    in_turn: bool = False,
    limit: int | None = None,
) -> tuple[Workitem, ...]:
    """Workitems that meet all conditions, with their inputs, the latest scheduled first, or by their turn."""
    table = tables.workitems
    order = (table.c.turn if in_turn else table.c.scheduled_at, table.c.workitem_uid)
    directed = [column if in_turn else column.desc() for column in order]
    chosen = select(table).where(*conditions).order_by(*directed).limit(limit)
    if after is not None:
        last = select(*order).where(table.c.workitem_uid == after).subquery()
        place, theirs = tuple_(*order), tuple_(*last.c)
        chosen = chosen.join(last, place > theirs if in_turn else place < theirs)
    rows = connection.execute(chosen).all()
    inputs = _select_inputs(connection, [row.workitem_uid for row in rows])
    return tuple(_from_row(dict(row._mapping), inputs[row.workitem_uid]) for row in rows)


def _select_inputs(connection: Connection, uids: list[str]) -> dict[str, list[WorkitemInput]]:
    table = tables.workitem_inputs
    found: dict[str, list[WorkitemInput]] = defaultdict(list)
    # SQLite takes 32,766 parameters in one statement.
    for start in range(0, len(uids), 10_000):
        statement = (
            select(table)
            .where(table.c.workitem_uid.in_(uids[start : start + 10_000]))
            .order_by(table.c.workitem_uid, table.c.position)
        )
        for row in connection.execute(statement):
            found[row.workitem_uid].append(
                WorkitemInput(
                    role=row.role,
                    series_instance_uid=row.series_instance_uid,
                    sop_instance_uids=tuple(row.sop_instance_uids),
                )
            )
    return found


def _from_row(values: dict[str, Any], inputs: list[WorkitemInput]) -> Workitem:
    del values["lease_until"], values["turn"]
    values["state"] = WorkitemState(values["state"])
    values["destinations"] = tuple(values["destinations"])
    values["priority_reasons"] = tuple(values["priority_reasons"])
    values["lacks"] = tuple((code, sentence) for code, sentence in values["lacks"])
    values["prior"] = None if values["prior"] is None else _to_prior(values["prior"])
    values["notices"] = tuple((code, sentence) for code, sentence in values["notices"])
    return Workitem(**values, inputs=tuple(inputs))


def _to_prior(stored: dict[str, Any]) -> Prior:
    evidence = tuple(PriorReference(**one) for one in stored["evidence"])
    return Prior(**{**stored, "evidence": evidence})
