"""Measurements: one row a value, written when its workitem completes."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select

from storage import tables
from storage.index.engine import Index
from storage.model import MeasurementRow


def list_measurements(  # noqa: PLR0913 - one per filter of `measurements list`
    index: Index,
    *,
    pipeline: str | None = None,
    study: str | None = None,
    workitem: str | None = None,
    concept: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 1000,
) -> tuple[MeasurementRow, ...]:
    """Values that match: the latest workitem first, within it in the result's order.

    Parameters
    ----------
    concept
        Code value or code meaning of the concept, as `118565006` or `Volume`.
    since, until
        When it was measured; `since` is included, `until` is not.
    """
    table = tables.measurements
    columns = [column for column in table.c if column.name != "measurement_id"]
    statement = (
        select(*columns)
        .order_by(table.c.measured_at.desc(), table.c.workitem_uid, table.c.measurement_id)
        .limit(limit)
    )
    for column, wanted in (
        (table.c.pipeline, pipeline),
        (table.c.study_instance_uid, study),
        (table.c.workitem_uid, workitem),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if concept is not None:
        statement = statement.where(
            or_(table.c.concept_value == concept, table.c.concept_meaning == concept)
        )
    if since is not None:
        statement = statement.where(table.c.measured_at >= since)
    if until is not None:
        statement = statement.where(table.c.measured_at < until)
    with index.read() as connection:
        return tuple(MeasurementRow(**row._mapping) for row in connection.execute(statement))
