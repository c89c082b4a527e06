"""Which steps of a worklist are ours to claim: searched, judged, written down with a Transaction UID (PS3.18 11.9)."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from node import orders
from node.config import WorklistSetting, WorkSetting
from node.errors import WorklistError
from node.lifecycle import Parts
from node.ups import UpsClient
from storage.index import events, procedure_steps
from storage.model import Event, ProcedureStep, ProcedureStepState

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Worklist:
    """One worklist, and what we know of it beside the index: when we asked it last, and how that went."""

    name: str
    setting: WorklistSetting
    client: UpsClient
    stopping: threading.Event
    look_again_at: datetime | None = None
    #: Step -> when the worklist was asked last about it.
    asked: dict[str, datetime] = field(default_factory=dict)
    is_down: bool = False


def look(parts: Parts, worklist: Worklist, *, now: datetime) -> int:
    """Search the worklist and write down what shall be claimed; how many steps."""
    free = worklist.setting.at_once - procedure_steps.count_active(parts.index, worklist.name)
    if free <= 0:
        return 0
    try:
        found = find(worklist.client, worklist.setting, now=now)
    except WorklistError as error:
        _note_down(parts, worklist, error, now)
        return 0
    _note_up(parts, worklist, now)
    added = 0
    for order, work in found:
        if added < free:
            added += procedure_steps.add(
                parts.index, _begin(worklist.name, order, work, now), now=now
            )
    return added


def find(
    client: UpsClient, setting: WorklistSetting, *, now: datetime
) -> list[tuple[orders.Order, WorkSetting]]:
    """The steps that are scheduled for us and can begin, most urgent first.

    Raises
    ------
    node.errors.WorklistError
    """
    found: dict[str, tuple[orders.Order, WorkSetting]] = {}
    for work in setting.work:
        for ds in client.search(work.code):
            try:
                order = orders.read_order(ds)
            except WorklistError as error:
                log.warning("step_unreadable", reason=str(error))
                continue
            if is_ours(order, work, setting, now=now):
                found.setdefault(order.procedure_step_uid, (order, work))
    return sorted(found.values(), key=lambda one: _urgency(one[0]))


def is_ours(
    order: orders.Order, work: WorkSetting, setting: WorklistSetting, *, now: datetime
) -> bool:
    """Whether a step is scheduled, ready, due, of this work, and for us: some worklists match on less than asked."""
    return (
        order.state in ("SCHEDULED", "")
        and order.is_ready
        and bool(order.inputs)
        and work.code in order.codes
        and (not setting.station or not order.stations or setting.station in order.stations)
        and (order.starts_at is None or order.starts_at <= now)
    )


def _urgency(order: orders.Order) -> tuple[int, float, str]:
    rank = orders.PRIORITIES.index(order.priority) if order.priority in orders.PRIORITIES else 1
    starts = order.starts_at.timestamp() if order.starts_at else 0.0
    return rank, starts, order.procedure_step_uid


def _begin(name: str, order: orders.Order, work: WorkSetting, now: datetime) -> ProcedureStep:
    return ProcedureStep(
        worklist=name,
        procedure_step_uid=order.procedure_step_uid,
        # Random: whoever could guess it could end our step.
        transaction_uid=f"2.25.{uuid.uuid4().int}",
        state=ProcedureStepState.CLAIMING,
        study_instance_uid=order.study_instance_uid,
        work=work.code,
        priority=order.priority,
        inputs=order.inputs,
        claimed_at=now,
        next_attempt_at=now,
    )


def _note_down(parts: Parts, worklist: Worklist, error: WorklistError, now: datetime) -> None:
    log.warning("worklist_not_read", worklist=worklist.name, code=error.code, reason=str(error))
    if not worklist.is_down:
        worklist.is_down = True
        _note(parts, worklist, "worklist-failed", now, code=error.code)


def _note_up(parts: Parts, worklist: Worklist, now: datetime) -> None:
    if worklist.is_down:
        worklist.is_down = False
        _note(parts, worklist, "worklist-answers", now)


def _note(parts: Parts, worklist: Worklist, kind: str, now: datetime, *, code: str = "") -> None:
    events.add(
        parts.index,
        Event(
            kind=kind,
            actor=parts.owner,
            at=now,
            outcome="failure" if code else "success",
            detail={"worklist": worklist.name} | ({"code": code} if code else {}),
        ),
    )
