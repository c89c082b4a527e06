"""Findings: the segments of results, followed from study to study by their Tracking UIDs."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, func, select

from storage import tables
from storage.index.engine import Index
from storage.model import Finding


def of_workitem(index: Index, workitem_uid: str) -> tuple[Finding, ...]:
    """The findings of a completed workitem, by segment number."""
    table = tables.findings
    statement = select(table).where(table.c.workitem_uid == workitem_uid)
    with index.read() as connection:
        rows = connection.execute(statement.order_by(table.c.segment_number))
        return tuple(Finding(**row._mapping) for row in rows)


def known(index: Index, *, study_instance_uid: str, pipeline: str) -> dict[str, str]:
    """Segment Label -> Tracking UID of what a pipeline found before in the patient of a study.

    Where it was found several times, what was measured last counts. A patient is known by Patient ID and its issuer;
    a study without Patient ID is its own patient.
    """
    studies, findings, workitems = tables.studies, tables.findings, tables.workitems
    mine = studies.c.study_instance_uid == study_instance_uid
    with index.read() as connection:
        patient = connection.scalar(select(studies.c.patient_id).where(mine))
        same_patient = of_patient(connection, study_instance_uid, patient or "")
        rows = connection.execute(
            select(findings.c.segment_label, findings.c.tracking_uid)
            .join_from(findings, workitems)
            .join(studies)
            .where(workitems.c.pipeline == pipeline, same_patient if patient else mine)
            .order_by(workitems.c.ended_at, findings.c.workitem_uid)
        )
        return {row.segment_label: row.tracking_uid for row in rows}


def of_patient(
    connection: Connection, study_instance_uid: str, patient_id: str
) -> ColumnElement[bool]:
    """Condition on studies: of that Patient ID, and of the same issuer as a study."""
    issuer = connection.scalar(
        select(_issuer()).where(tables.series.c.study_instance_uid == study_instance_uid)
    )
    same_issuer = select(tables.series.c.study_instance_uid).where(_issuer() == (issuer or ""))
    return (tables.studies.c.patient_id == patient_id) & (
        tables.studies.c.study_instance_uid.in_(same_issuer)
    )


def _issuer() -> ColumnElement[str]:
    """Issuer of Patient ID (0010,0021) of a series, empty where it has none."""
    return func.coalesce(tables.series.c.header["IssuerOfPatientID"].as_string(), "")
