"""Files of the archive as rows name them, and marks of those that are not as their rows say.

A mark is kept for a file only while something is, or was, wrong with it: most have none. Rows are walked in the order
of their keys, from where the last walk ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, func, select, update

from storage import tables
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.values import insert_or_ignore
from storage.model import Event, FileMark, FileOrigin, FileState, KeptFile

_BATCH = 500
_marks = tables.file_marks
#: In the order they are walked, with the column that says since when.
_TABLES = {
    FileOrigin.INSTANCE: (tables.instances, tables.instances.c.received_at),
    FileOrigin.CONFLICT: (
        tables.conflicting_instances,
        tables.conflicting_instances.c.received_at,
    ),
    FileOrigin.EVIDENCE: (tables.evidence, tables.evidence.c.created_at),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far a walk over all rows is: behind this one."""

    origin: FileOrigin = FileOrigin.INSTANCE
    sop_instance_uid: str = ""


def walk(
    index: Index,
    *,
    after: Place | None = None,
    study: str | None = None,
    since: datetime | None = None,
) -> Iterator[tuple[Place, Sequence[KeptFile]]]:
    """What rows say of their files: instances, contents beside them, evidence; in batches, each with where it ends.

    Parameters
    ----------
    after
        Begin behind this row; at the first where None.
    study
        Only this study's.
    since
        Only what was received or made then or later.
    """
    after = after or Place()
    origins = list(_TABLES)
    for origin in origins[origins.index(after.origin) :]:
        uid = after.sop_instance_uid if origin is after.origin else ""
        while batch := _batch(index, origin, uid, study, since):
            uid = batch[-1].sop_instance_uid
            yield Place(origin=origin, sop_instance_uid=uid), batch


def _batch(
    index: Index, origin: FileOrigin, after: str, study: str | None, since: datetime | None
) -> Sequence[KeptFile]:
    table, when = _TABLES[origin]
    statement = _select(origin).where(table.c.sop_instance_uid > after)
    if study is not None:
        statement = statement.where(in_study(origin, study))
    if since is not None:
        statement = statement.where(when >= since)
    statement = statement.order_by(table.c.sop_instance_uid)
    if origin is not FileOrigin.CONFLICT:
        # Contents under one UID stay together: their key has two parts, and there are few.
        statement = statement.limit(_BATCH)
    with index.read() as connection:
        return [_kept_file(origin, row) for row in connection.execute(statement)]


def in_study(origin: FileOrigin, study_instance_uid: str) -> ColumnElement[bool]:
    """Whether a row is of this study."""
    table, _ = _TABLES[origin]
    mine = table.c.study_instance_uid == study_instance_uid
    if origin is not FileOrigin.INSTANCE:
        return mine
    # Instances are found by their series.
    series = tables.series
    of_study = select(series.c.series_instance_uid).where(
        series.c.study_instance_uid == study_instance_uid
    )
    return and_(tables.instances.c.series_instance_uid.in_(of_study), mine)


def _select(origin: FileOrigin) -> Select[Any]:
    table, _ = _TABLES[origin]
    return select(
        table.c.sop_instance_uid,
        table.c.study_instance_uid,
        table.c.archive_key,
        table.c.size,
        table.c.digest,
        _marks.c.state,
    ).outerjoin(_marks, _marks.c.archive_key == table.c.archive_key)


def count(index: Index) -> int:
    """How many rows name a file."""
    with index.read() as connection:
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table, _ in _TABLES.values()
        )


def known(index: Index, sop_instance_uids: Sequence[str]) -> dict[str, KeptFile]:
    """Archive key -> what its row says, of every content under these SOP Instance UIDs."""
    with index.read() as connection:
        return {
            row.archive_key: _kept_file(origin, row)
            for origin, (table, _) in _TABLES.items()
            for row in connection.execute(
                _select(origin).where(table.c.sop_instance_uid.in_(sop_instance_uids))
            )
        }


def marks_of(index: Index, study_instance_uid: str) -> tuple[FileMark, ...]:
    """Files of a study that are missing, damaged or expired."""
    statement = (
        select(_marks)
        .where(_marks.c.study_instance_uid == study_instance_uid)
        .where(_marks.c.state != FileState.RETURNED)
        .order_by(_marks.c.at, _marks.c.archive_key)
    )
    with index.read() as connection:
        return tuple(_from_values(**row._mapping) for row in connection.execute(statement))


def expired_among(index: Index, archive_keys: Sequence[str]) -> int:
    """How many of these files the retention policy has removed."""
    with index.read() as connection:
        return sum(
            connection.execute(
                select(func.count())
                .select_from(_marks)
                .where(_marks.c.archive_key.in_(archive_keys[start : start + 10_000]))
                .where(_marks.c.state == FileState.EXPIRED)
            ).scalar_one()
            for start in range(0, len(archive_keys), 10_000)
        )


def mark(index: Index, file_mark: FileMark, *, actor: str) -> bool:
    """Note that a file is missing or damaged, with a line of the log; False when that was known, or it has expired."""
    with index.begin() as connection:
        found = connection.scalar(
            select(_marks.c.state)
            .where(_marks.c.archive_key == file_mark.archive_key)
            .with_for_update()
        )
        # Damaged and then put aside, it is damaged still.
        if found in (file_mark.state, FileState.EXPIRED, FileState.DAMAGED):
            return False
        if not insert_or_ignore(connection, _marks, asdict(file_mark)):
            connection.execute(
                update(_marks)
                .where(_marks.c.archive_key == file_mark.archive_key)
                .values(state=file_mark.state, at=file_mark.at, reason=file_mark.reason)
            )
        log_mark(connection, file_mark, actor=actor)
    return True


def clear(index: Index, file: KeptFile, *, actor: str, at: datetime) -> bool:
    """Note that a file that was missing or damaged is whole; False when nothing was known against it."""
    with index.begin() as connection:
        cleared = connection.execute(
            delete(_marks)
            .where(_marks.c.archive_key == file.archive_key)
            .where(_marks.c.state.in_((FileState.MISSING, FileState.DAMAGED)))
        ).rowcount
        if cleared:
            event = Event(
                kind="file-whole",
                actor=actor,
                at=at,
                study_instance_uid=file.study_instance_uid,
                detail={"archive_key": file.archive_key},
            )
            insert_event(connection, event)
    return cleared > 0


def note_return(connection: Connection, archive_key: str, at: datetime) -> None:
    """Within the transaction of a content that is known: if its file was gone, it is back."""
    found = connection.execute(
        select(_marks).where(_marks.c.archive_key == archive_key).with_for_update()
    ).one_or_none()
    if found is None or found.state == FileState.RETURNED:
        return
    back = _from_values(
        **{**found._mapping, "state": FileState.RETURNED, "at": at, "reason": "It was sent again."}
    )
    connection.execute(
        update(_marks)
        .where(_marks.c.archive_key == archive_key)
        .values(state=back.state, at=back.at, reason=back.reason)
    )
    log_mark(connection, back, actor="node")


def log_mark(connection: Connection, file_mark: FileMark, *, actor: str) -> None:
    """The line of the log that goes with a mark."""
    returned = file_mark.state is FileState.RETURNED
    insert_event(
        connection,
        Event(
            kind=f"file-{file_mark.state.lower()}",
            actor=actor,
            at=file_mark.at,
            study_instance_uid=file_mark.study_instance_uid,
            outcome="success" if returned else "failure",
            detail={
                "sop_instance_uid": file_mark.sop_instance_uid,
                "archive_key": file_mark.archive_key,
                "reason": file_mark.reason,
            },
        ),
    )


def _kept_file(origin: FileOrigin, row: Row[Any]) -> KeptFile:
    state = None if row.state is None else FileState(row.state)
    return KeptFile(**{**row._mapping, "origin": origin, "state": state})


def _from_values(**values: Any) -> FileMark:
    return FileMark(**{**values, "state": FileState(values["state"])})
