"""Studies: what came, what is news, and what each evaluation decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from storage import tables
from storage.errors import NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.geometry import Numbers, measure_slices
from storage.index.instances import to_header
from storage.index.workitem_rows import insert_workitem
from storage.model import (
    ClauseVerdict,
    Decision,
    Event,
    HeaderValue,
    Series,
    Study,
    Workitem,
)


def list_studies(
    index: Index, *, limit: int = 100, since: datetime | None = None
) -> tuple[Study, ...]:
    """Studies that got something last (`since` or later), the latest first."""
    table = tables.studies
    statement = select(table).order_by(table.c.last_received_at.desc()).limit(limit)
    if since is not None:
        statement = statement.where(table.c.last_received_at >= since)
    with index.read() as connection:
        return tuple(_from_row(row) for row in connection.execute(statement))


def get(index: Index, study_instance_uid: str) -> Study:
    """The study of that UID."""
    statement = select(tables.studies).where(
        tables.studies.c.study_instance_uid == study_instance_uid
    )
    with index.read() as connection:
        row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound(f"No study {study_instance_uid}.")
    return _from_row(row)


def with_news(index: Index) -> tuple[Study, ...]:
    """Studies whose revision is not evaluated yet, those that waited longest first."""
    table = tables.studies
    statement = (
        select(table)
        .where(table.c.revision > table.c.evaluated_revision)
        .order_by(table.c.last_received_at)
    )
    with index.read() as connection:
        return tuple(_from_row(row) for row in connection.execute(statement))


def series_of(index: Index, study_instance_uid: str) -> tuple[Series, ...]:
    """The series of a study with the facts rules may name, in the order they began.

    Facts are `calling_ae`, `instances`, `slices`, `own` (1 or 0), and for a series with one orientation
    `slice_gap_mm` (median distance of neighbouring slices along the normal) and `slice_gap_irregular_mm` (largest
    distance less the smallest, mm); without a known spacing the last two are missing.
    """
    table = tables.series
    statement = (
        select(table)
        .where(table.c.study_instance_uid == study_instance_uid)
        .order_by(table.c.first_received_at, table.c.series_instance_uid)
    )
    with index.read() as connection:
        rows = connection.execute(statement).all()
        return tuple(_series_from_row(connection, row) for row in rows)


def record_evaluation(  # noqa: PLR0913 - one transition
    index: Index,
    *,
    study_instance_uid: str,
    revision: int,
    decisions: Sequence[Decision],
    workitems: Sequence[Workitem],
    now: datetime,
) -> None:
    """Keep what an evaluation decided, and schedule its workitems.

    Counts once: nothing happens when this revision, or a later one, is evaluated already. A workitem whose UID is
    known is left as it is.

    Parameters
    ----------
    revision
        The revision that was looked at; what came after it stays news.

    Raises
    ------
    NotFound
        When there is no such study.
    """
    study = tables.studies
    with index.begin() as connection:
        advanced = connection.execute(
            update(study)
            .where(study.c.study_instance_uid == study_instance_uid)
            .where(study.c.evaluated_revision < revision)
            .values(evaluated_revision=revision)
        ).rowcount
        if not advanced:
            _require(connection, study_instance_uid)
            return
        scheduled = sum(insert_workitem(connection, workitem) for workitem in workitems)
        if decisions:
            connection.execute(
                insert(tables.decisions),
                [
                    _decision_to_row(study_instance_uid, revision, n, decision)
                    for n, decision in enumerate(decisions)
                ],
            )
        insert_event(
            connection,
            Event(
                kind="study-evaluated",
                actor="node",
                at=now,
                study_instance_uid=study_instance_uid,
                detail={
                    "revision": revision,
                    "decisions": len(decisions),
                    "matched": sum(decision.matched for decision in decisions),
                    "scheduled": scheduled,
                },
            ),
        )


def decisions(
    index: Index, study_instance_uid: str, *, revision: int | None = None
) -> tuple[Decision, ...]:
    """What an evaluation decided, in its order: the latest, or that of `revision`."""
    table = tables.decisions
    of_study = table.c.study_instance_uid == study_instance_uid
    wanted = (
        select(tables.studies.c.evaluated_revision)
        .where(tables.studies.c.study_instance_uid == study_instance_uid)
        .scalar_subquery()
        if revision is None
        else revision
    )
    statement = (
        select(table).where(of_study).where(table.c.revision == wanted).order_by(table.c.position)
    )
    with index.read() as connection:
        return tuple(_decision_from_row(row) for row in connection.execute(statement))


def _require(connection: Connection, study_instance_uid: str) -> None:
    table = tables.studies
    statement = select(table.c.revision).where(table.c.study_instance_uid == study_instance_uid)
    if connection.scalar(statement) is None:
        raise NotFound(f"No study {study_instance_uid}.")


def _from_row(row: Row[Any]) -> Study:
    return Study(**row._mapping)


def _series_from_row(connection: Connection, row: Row[Any]) -> Series:
    table = tables.instances
    geometries = connection.execute(
        select(table.c.header["ImagePositionPatient"], table.c.header["ImageOrientationPatient"])
        .where(table.c.series_instance_uid == row.series_instance_uid)
        .where(table.c.study_instance_uid == row.study_instance_uid)
    )
    return Series(
        series_instance_uid=row.series_instance_uid,
        study_instance_uid=row.study_instance_uid,
        modality=row.modality,
        instance_count=row.instance_count,
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        header=to_header(row.header),
        facts=_derive_facts(row, [(stored[0], stored[1]) for stored in geometries]),
        own=row.own,
    )


def _derive_facts(
    row: Row[Any], geometries: Iterable[tuple[Numbers, Numbers]]
) -> dict[str, HeaderValue]:
    facts: dict[str, HeaderValue] = {
        "calling_ae": row.calling_ae,
        "instances": row.instance_count,
        "slices": row.instance_count,
        "own": int(row.own),
    }
    measured = measure_slices(geometries)
    if measured is not None:
        facts["slices"] = measured.slices
        if measured.gap_mm is not None:
            facts["slice_gap_mm"] = measured.gap_mm
            facts["slice_gap_irregular_mm"] = measured.irregular_mm
    return facts


def _decision_to_row(
    study: str, revision: int, position: int, decision: Decision
) -> dict[str, Any]:
    return {
        **asdict(decision),
        "study_instance_uid": study,
        "revision": revision,
        "position": position,
    }


def _decision_from_row(row: Row[Any]) -> Decision:
    values = dict(row._mapping)
    for key in ("study_instance_uid", "revision", "position"):
        del values[key]
    values["clauses"] = tuple(ClauseVerdict(**clause) for clause in values["clauses"])
    return Decision(**values)
