"""Priors: the patient's earlier result of a pipeline, to compare a new one with."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, select

from storage import tables
from storage.index.engine import Index
from storage.index.findings import of_patient
from storage.model import Prior, PriorReference, WorkitemState

#: (118565006, SCT) Volume.
_VOLUME = ("118565006", "SCT")


def latest(
    index: Index,
    *,
    study_instance_uid: str,
    pipeline: str,
    within_days: int,
    kinds: Collection[str] = ("SEG", "SR"),
) -> Prior:
    """The result of a pipeline on the patient's last study before a study; one without a workitem when there is none.

    A patient is known by Patient ID and its issuer; a study without Patient ID, or without a valid Study Date, has no
    prior. A study of the same day is none: nobody could say which of the two was first.

    Parameters
    ----------
    within_days
        How many days the earlier study may lie back.
    kinds
        Evidence that is referred to.
    """
    nothing = Prior(within_days=within_days)
    studies, workitems = tables.studies, tables.workitems
    with index.read() as connection:
        current = connection.execute(
            select(studies.c.patient_id, studies.c.study_date).where(
                studies.c.study_instance_uid == study_instance_uid
            )
        ).one_or_none()
        today = None if current is None else parse_date(current.study_date)
        if current is None or not current.patient_id or today is None:
            return nothing
        earliest = today - timedelta(days=min(within_days, today.toordinal() - 1))
        found = connection.execute(
            select(
                workitems.c.workitem_uid,
                workitems.c.pipeline_version,
                workitems.c.lacks,
                studies.c.study_date,
            )
            .join_from(workitems, studies)
            .where(
                workitems.c.pipeline == pipeline,
                workitems.c.state == WorkitemState.COMPLETED,
                workitems.c.superseded_by.is_(None),
                studies.c.study_date < f"{today:%Y%m%d}",
                studies.c.study_date >= f"{earliest:%Y%m%d}",
                of_patient(connection, study_instance_uid, current.patient_id),
            )
            .order_by(
                studies.c.study_date.desc(), workitems.c.ended_at.desc(), workitems.c.workitem_uid
            )
        )
        for row in found:
            # Of a part of a study, volumes are those of the part.
            if not row.lacks and (before := parse_date(row.study_date)) is not None:
                return Prior(
                    workitem_uid=row.workitem_uid,
                    pipeline_version=row.pipeline_version,
                    interval_days=(today - before).days,
                    within_days=within_days,
                    volumes_ml=_volumes(connection, row.workitem_uid),
                    evidence=_evidence(connection, row.workitem_uid, kinds)
                    or _inputs(connection, row.workitem_uid),
                )
    return nothing


def parse_date(text: str) -> date | None:
    """A Study Date: a DA (PS3.5 Table 6.2-1); None where it is none."""
    try:
        return datetime.strptime(text, "%Y%m%d").date() if len(text) == 8 else None
    except ValueError:
        return None


def _volumes(connection: Connection, workitem_uid: str) -> dict[str, float]:
    table = tables.measurements
    rows = connection.execute(
        select(table.c.segment_label, table.c.value)
        .where(table.c.workitem_uid == workitem_uid)
        .where(table.c.segment_number.is_not(None))
        .where(table.c.concept_value == _VOLUME[0], table.c.concept_scheme == _VOLUME[1])
        # A volume at a site, as of one vertebra, has it in its meaning: it is another's.
        .where(table.c.concept_meaning == "Volume", table.c.unit == "mL")
        .order_by(table.c.measurement_id)
    )
    volumes: dict[str, float] = {}
    for row in rows:
        volumes.setdefault(row.segment_label, row.value)
    return volumes


def _evidence(
    connection: Connection, workitem_uid: str, kinds: Collection[str]
) -> tuple[PriorReference, ...]:
    table = tables.evidence
    rows = connection.execute(
        select(
            table.c.study_instance_uid,
            table.c.series_instance_uid,
            table.c.sop_class_uid,
            table.c.sop_instance_uid,
        )
        .where(table.c.workitem_uid == workitem_uid, table.c.kind.in_(kinds))
        .order_by(table.c.sop_instance_uid)
    )
    return tuple(PriorReference(**row._mapping) for row in rows)


def _inputs(connection: Connection, workitem_uid: str) -> tuple[PriorReference, ...]:
    """The images of a result that was made for comparison alone, and left no evidence."""
    table, held = tables.workitem_inputs, tables.instances
    of_workitem = select(table.c.sop_instance_uids).where(table.c.workitem_uid == workitem_uid)
    uids = sorted({uid for listed in connection.scalars(of_workitem) for uid in listed})
    rows = connection.execute(
        select(
            held.c.study_instance_uid,
            held.c.series_instance_uid,
            held.c.sop_class_uid,
            held.c.sop_instance_uid,
        )
        # SQLite takes 32,766 parameters in one statement.
        .where(held.c.sop_instance_uid.in_(uids[:10_000]))
        .order_by(held.c.sop_instance_uid)
    )
    return tuple(PriorReference(**row._mapping) for row in rows)
