"""What may expire: files of studies that are done with, oldest first, and never what is owed.

Owed is a study that has news, waits or is held; that has a workitem which is not ended; or evidence of which is still
to be delivered, retracted or reported to a worklist. A failed workitem owes nothing by itself: the policy says whether
its study may expire.

Two steps, each one transaction: files are marked as expired, then removed while the mark is held, if nobody sent the
instance again between. Killed between the two, the next run removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    exists,
    func,
    or_,
    select,
    union_all,
    update,
)

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.files import in_study
from storage.index.values import insert_or_ignore
from storage.model import (
    SETTLED_STEPS,
    DeliveryState,
    Event,
    FileOrigin,
    FileState,
    PriorSearchState,
    WorkitemState,
)

#: Files removed in one transaction: receiving waits for it.
_AT_ONCE = 50
_marks = tables.file_marks
_studies = tables.studies
_ENDED = (WorkitemState.COMPLETED, WorkitemState.CANCELED)
#: Deliveries that have come to an end in each way.
_SENT = (
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
    DeliveryState.WITHDRAWN,
    DeliveryState.RETRACTED,
)
_COMMITTED = (DeliveryState.COMMITTED, DeliveryState.WITHDRAWN, DeliveryState.RETRACTED)
#: What a policy may wait for -> the states in which nothing is owed to a destination any more.
WHEN_DELIVERED = {"sent": _SENT, "committed": _COMMITTED}

RECEIVED = (FileOrigin.INSTANCE, FileOrigin.CONFLICT)
MADE = (FileOrigin.EVIDENCE,)
_ROWS = {
    FileOrigin.INSTANCE: (tables.instances, tables.instances.c.received_at),
    FileOrigin.CONFLICT: (
        tables.conflicting_instances,
        tables.conflicting_instances.c.received_at,
    ),
    FileOrigin.EVIDENCE: (tables.evidence, tables.evidence.c.created_at),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Files of one study, received or made, that may expire."""

    study_instance_uid: str
    #: `RECEIVED` or `MADE`.
    origins: tuple[FileOrigin, ...]
    files: int
    bytes: int
    #: When the youngest of them came, was sent again, or was made.
    last_at: datetime


def candidates(
    index: Index, *, origins: tuple[FileOrigin, ...], before: datetime, when: str
) -> tuple[Candidate, ...]:
    """Studies of which files of these kinds may expire: all came before then, and nothing is owed; oldest first.

    Parameters
    ----------
    when
        `sent` or `committed`: what every delivery of the study must be.
    """
    kept = _kept(origins)
    last_at = func.max(kept.c.kept_at).label("last_at")
    statement = (
        select(
            kept.c.study_instance_uid,
            func.count().label("files"),
            func.sum(kept.c.size).label("bytes"),
            last_at,
        )
        .select_from(
            kept.join(_studies, _studies.c.study_instance_uid == kept.c.study_instance_uid)
        )
        .where(_owes_nothing(when))
        .group_by(kept.c.study_instance_uid)
        .having(last_at < before)
        .order_by(last_at, kept.c.study_instance_uid)
    )
    with index.read() as connection:
        return tuple(
            Candidate(
                study_instance_uid=row.study_instance_uid,
                origins=origins,
                files=row.files,
                bytes=int(row.bytes),
                last_at=row.last_at,
            )
            for row in connection.execute(statement)
        )


def kept_bytes(index: Index) -> int:
    """Bytes of all files that have not expired, as their rows say."""
    kept = _kept((*RECEIVED, *MADE))
    with index.read() as connection:
        return int(connection.scalar(select(func.coalesce(func.sum(kept.c.size), 0))) or 0)


def expire(  # noqa: PLR0913 - one transition
    index: Index,
    candidate: Candidate,
    *,
    before: datetime,
    when: str,
    reason: str,
    actor: str,
    now: datetime,
) -> tuple[str, ...]:
    """Mark the files of one study as expired, if it owes nothing still and none came meanwhile; their keys."""
    study = candidate.study_instance_uid
    kept = _kept(candidate.origins, study=study)
    with index.begin() as connection:
        may = select(_studies.c.study_instance_uid).where(
            _studies.c.study_instance_uid == study, _owes_nothing(when)
        )
        if connection.scalar(may.with_for_update()) is None:
            return ()
        rows = connection.execute(select(kept)).all()
        if not rows or max(row.kept_at for row in rows) >= before:
            return ()
        for row in rows:
            _mark_expired(connection, row, reason, now)
        insert_event(
            connection,
            Event(
                kind="study-expired",
                actor=actor,
                at=now,
                study_instance_uid=study,
                detail={
                    "files": len(rows),
                    "bytes": sum(row.size for row in rows),
                    "what": "evidence" if candidate.origins == MADE else "received",
                    "reason": reason,
                },
            ),
        )
    return tuple(row.archive_key for row in rows)


def remove_expired(index: Index, archive_keys: Sequence[str], delete: Callable[[str], None]) -> int:
    """Remove files that are marked as expired, while nobody can say they are back; how many.

    Parameters
    ----------
    delete
        Removes one file; may raise, and is called again the next time.
    """
    removed = 0
    for start in range(0, len(archive_keys), _AT_ONCE):
        with index.begin() as connection:
            expired = connection.scalars(
                select(_marks.c.archive_key)
                .where(_marks.c.archive_key.in_(archive_keys[start : start + _AT_ONCE]))
                .where(_marks.c.state == FileState.EXPIRED)
                .order_by(_marks.c.archive_key)
                .with_for_update()
            ).all()
            for key in expired:
                delete(key)
                removed += 1
    return removed


def _mark_expired(connection: Connection, row: Any, reason: str, now: datetime) -> None:
    values = {
        "archive_key": row.archive_key,
        "sop_instance_uid": row.sop_instance_uid,
        "study_instance_uid": row.study_instance_uid,
        "state": FileState.EXPIRED,
        "at": now,
        "reason": reason,
    }
    if not insert_or_ignore(connection, _marks, values):
        connection.execute(
            update(_marks).where(_marks.c.archive_key == row.archive_key).values(**values)
        )


def _kept(origins: Sequence[FileOrigin], *, study: str | None = None) -> Subquery:
    """Files that have not expired, damaged ones too: study, key, SOP Instance UID, bytes, when their age began."""
    returned = _marks.c.state == FileState.RETURNED
    parts: list[Select[Any]] = []
    for origin in origins:
        table, when = _ROWS[origin]
        part = (
            select(
                table.c.study_instance_uid,
                table.c.archive_key,
                table.c.sop_instance_uid,
                table.c.size,
                case((returned, _marks.c.at), else_=when).label("kept_at"),
            )
            .select_from(table.outerjoin(_marks, _marks.c.archive_key == table.c.archive_key))
            .where(or_(_marks.c.state.is_(None), _marks.c.state != FileState.EXPIRED))
        )
        if study is not None:
            part = part.where(in_study(origin, study))
        parts.append(part)
    return union_all(*parts).subquery()


def _owes_nothing(when: str) -> ColumnElement[bool]:
    """Of a row of studies: it was evaluated, nothing of it runs or waits, and every delivery is what it must be."""
    study = _studies.c.study_instance_uid
    workitem, evidence, delivery = tables.workitems, tables.evidence, tables.deliveries
    step, search = tables.procedure_steps, tables.prior_searches
    return and_(
        _studies.c.revision <= _studies.c.evaluated_revision,
        _studies.c.waits_until.is_(None),
        _studies.c.held_at.is_(None),
        _studies.c.forced_at.is_(None),
        ~exists().where(workitem.c.study_instance_uid == study, workitem.c.state.not_in(_ENDED)),
        ~exists().where(
            evidence.c.study_instance_uid == study,
            delivery.c.sop_instance_uid == evidence.c.sop_instance_uid,
            delivery.c.state.not_in(WHEN_DELIVERED[when]),
        ),
        ~exists().where(step.c.study_instance_uid == study, step.c.state.not_in(SETTLED_STEPS)),
        ~exists().where(
            or_(search.c.study_instance_uid == study, search.c.prior_study_instance_uid == study),
            search.c.state != PriorSearchState.SETTLED,
        ),
    )
