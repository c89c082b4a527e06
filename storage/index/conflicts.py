"""Conflicts: other contents that came under a SOP Instance UID already held. None counts until a person says so."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from storage import tables
from storage.errors import ChangeRefused, NotFound
from storage.index.counting import header_text
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.instances import to_header
from storage.model import ConflictingInstance, Event, Header, utcnow

_table = tables.conflicting_instances
_held = tables.instances
#: Columns of a study, and the attributes they were taken from.
_STUDY = {
    "patient_id": "PatientID",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "study_description": "StudyDescription",
}


def of_study(index: Index, study_instance_uid: str) -> tuple[ConflictingInstance, ...]:
    """Contents kept beside what is held of a study, by SOP Instance UID and time; our own objects are left out."""
    statement = (
        select(_table)
        .join(_held, _held.c.sop_instance_uid == _table.c.sop_instance_uid)
        .where(_table.c.study_instance_uid == study_instance_uid, _held.c.own.is_(False))
        .order_by(_table.c.sop_instance_uid, _table.c.received_at, _table.c.digest)
    )
    with index.read() as connection:
        return tuple(_from_row(row) for row in connection.execute(statement))


def studies_with(index: Index) -> dict[str, int]:
    """Study Instance UID -> how many contents are kept beside what is held of it."""
    statement = (
        select(_table.c.study_instance_uid)
        .join(_held, _held.c.sop_instance_uid == _table.c.sop_instance_uid)
        .where(_held.c.own.is_(False))
        .order_by(_table.c.study_instance_uid)
    )
    found: dict[str, int] = {}
    with index.read() as connection:
        for uid in connection.scalars(statement):
            found[uid] = found.get(uid, 0) + 1
    return found


def accept(  # noqa: PLR0913 - one transition
    index: Index,
    sop_instance_uid: str,
    *,
    digest: str,
    header: Header,
    actor: str,
    now: datetime | None = None,
) -> None:
    """Let another content count in place of the one that is held, which is kept beside. That is news of the study.

    What series and study say of themselves, if it was taken from the content put aside, is taken from this one.

    Parameters
    ----------
    digest
        Of a content kept beside.
    header
        Of that content.

    Raises
    ------
    NotFound, ChangeRefused
        No such content; or it is of another study or series, or the instance is our own.
    """
    now = now or utcnow()
    mine = _held.c.sop_instance_uid == sop_instance_uid
    with index.begin() as connection:
        held = connection.execute(select(_held).where(mine).with_for_update()).one_or_none()
        beside = connection.execute(
            select(_table).where(_table.c.sop_instance_uid == sop_instance_uid)
        ).all()
        chosen = next((row for row in beside if row.digest == digest), None)
        if held is None or chosen is None:
            raise NotFound(f"No content {digest} is kept beside instance {sop_instance_uid}.")
        _check_place(held, header)
        connection.execute(
            delete(_table).where(
                _table.c.sop_instance_uid == sop_instance_uid, _table.c.digest == digest
            )
        )
        aside = ConflictingInstance(
            **{name: getattr(held, name) for name in ConflictingInstance.__dataclass_fields__}
        )
        connection.execute(insert(_table), asdict(aside))
        others = [held, *(row for row in beside if row.digest != digest)]
        connection.execute(
            update(_held)
            .where(mine)
            .values(
                sop_class_uid=str(header["SOPClassUID"][0]),
                transfer_syntax_uid=chosen.transfer_syntax_uid,
                archive_key=chosen.archive_key,
                size=chosen.size,
                digest=digest,
                calling_ae=chosen.calling_ae,
                received_at=chosen.received_at,
                header=dict(header),
                replaced=any(row.received_at < chosen.received_at for row in others),
            )
        )
        _count_news(connection, held, header)
        insert_event(
            connection,
            Event(
                kind="instance-accepted",
                actor=actor,
                at=now,
                study_instance_uid=held.study_instance_uid,
                detail={
                    "sop_instance_uid": sop_instance_uid,
                    "held_digest": held.digest,
                    "accepted_digest": digest,
                },
            ),
        )


def _check_place(held: Row[Any], header: Header) -> None:
    if held.own:
        raise ChangeRefused(
            f"Instance {held.sop_instance_uid} is our own: what counts is what was made."
        )
    for keyword, uid in (
        ("StudyInstanceUID", held.study_instance_uid),
        ("SeriesInstanceUID", held.series_instance_uid),
    ):
        if header.get(keyword) != (uid,):
            raise ChangeRefused(
                f"That content has another {keyword}: it is no newer state of this instance. Its sender must give it a "
                "SOP Instance UID of its own (PS3.3 C.12.1)."
            )


def _count_news(connection: Connection, held: Row[Any], header: Header) -> None:
    """Series and study as if the accepted content had been there in the place of the other."""
    before = to_header(held.header)
    series, study = tables.series, tables.studies
    in_study = study.c.study_instance_uid == held.study_instance_uid
    in_series = (series.c.study_instance_uid == held.study_instance_uid) & (
        series.c.series_instance_uid == held.series_instance_uid
    )
    first = connection.scalar(select(series.c.header).where(in_series))
    if first is not None and to_header(first) == before:
        values = {"header": dict(header), "modality": header_text(header, "Modality")}
        connection.execute(update(series).where(in_series).values(**values))
    known = connection.execute(select(study).where(in_study)).one()
    changed = {
        column: header_text(header, keyword)
        for column, keyword in _STUDY.items()
        if getattr(known, column) == header_text(before, keyword)
    }
    connection.execute(
        update(study).where(in_study).values(revision=study.c.revision + 1, **changed)
    )


def _from_row(row: Row[Any]) -> ConflictingInstance:
    return ConflictingInstance(**row._mapping)
