"""What came and what ran since a day, for replays: in a stream, with what is asked for and no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, true

from storage import tables
from storage.index.engine import Index
from storage.index.facts import keep_facts, read_series
from storage.model import Series, WorkitemState

#: Series whose facts are kept in one transaction.
_CHUNK = 100
#: Rows fetched at once.
_FETCHED = 2000
#: Runs of one pipeline that its usual time is measured from: the last ones.
_MEASURED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """One run that ended."""

    pipeline: str
    priority: int
    scheduled_at: datetime
    started_at: datetime
    ended_at: datetime

    @property
    def seconds(self) -> float:
        """How long it took."""
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


def count_studies(index: Index, *, since: datetime | None = None) -> int:
    """Studies that got something last since then."""
    statement = select(func.count()).select_from(tables.studies).where(_came(since))
    with index.read() as connection:
        return int(connection.scalar(statement) or 0)


def derive_facts(index: Index, *, since: datetime | None = None) -> int:
    """Derive and keep the facts of series that no evaluation looked at as they are now; how many."""
    table = tables.series
    stale = and_(
        _from_outside(since),
        or_(table.c.facts_count.is_(None), table.c.facts_count != table.c.instance_count),
    )
    keys = select(table.c.study_instance_uid, table.c.series_instance_uid).where(stale)
    with index.read() as connection:
        found = connection.execute(keys).all()
    for start in range(0, len(found), _CHUNK):
        wanted = or_(
            *(
                and_(table.c.study_instance_uid == one[0], table.c.series_instance_uid == one[1])
                for one in found[start : start + _CHUNK]
            )
        )
        # Read first: whoever receives waits for the write lock.
        with index.read() as connection:
            rows = connection.execute(select(table).where(wanted)).all()
            derived = [read_series(connection, row) for row in rows]
        with index.begin() as connection:
            keep_facts(connection, derived)
    return len(found)


def stream_series(
    index: Index, *, keywords: Iterable[str], since: datetime | None = None
) -> Iterator[Series]:
    """Series of others in studies that got something last since then, in no order; headers have these keywords only.

    Facts are those kept: `derive_facts` first.
    """
    table = tables.series
    statement = select(
        table.c.series_instance_uid,
        table.c.study_instance_uid,
        table.c.modality,
        table.c.instance_count,
        table.c.first_received_at,
        table.c.last_received_at,
        table.c.facts,
        _part_of_header(index, sorted(set(keywords))),
    ).where(_from_outside(since))
    with index.read() as connection:
        rows = connection.execution_options(yield_per=_FETCHED).execute(statement)
        for row in rows:
            yield Series(
                series_instance_uid=row[0],
                study_instance_uid=row[1],
                modality=row[2],
                instance_count=row[3],
                first_received_at=row[4],
                last_received_at=row[5],
                header={name: tuple(values) for name, values in row[7].items() if values},
                facts=row[6] or {},
            )


def runs_since(index: Index, *, since: datetime | None = None) -> tuple[PastRun, ...]:
    """Runs that completed and were scheduled since then, the first scheduled first."""
    table = tables.workitems
    statement = _select_runs(table.c.scheduled_at >= since if since else true())
    with index.read() as connection:
        rows = connection.execute(statement.order_by(table.c.scheduled_at))
        return tuple(PastRun(**row._mapping) for row in rows)


def run_times(index: Index, pipeline: str) -> Sequence[float]:
    """Seconds that the last completed runs of a pipeline took."""
    table = tables.workitems
    statement = _select_runs(table.c.pipeline == pipeline)
    with index.read() as connection:
        rows = connection.execute(statement.order_by(table.c.ended_at.desc()).limit(_MEASURED))
        return [PastRun(**row._mapping).seconds for row in rows]


def _select_runs(condition: ColumnElement[bool]) -> Any:
    table = tables.workitems
    return (
        select(
            table.c.pipeline,
            table.c.priority,
            table.c.scheduled_at,
            table.c.started_at,
            table.c.ended_at,
        )
        .where(table.c.state == WorkitemState.COMPLETED)
        .where(table.c.started_at.is_not(None))
        .where(table.c.ended_at.is_not(None))
        .where(condition)
    )


def _part_of_header(index: Index, names: Sequence[str]) -> ColumnElement[Any]:
    """An object of these attributes, null where there is none: read once for a row, not once for each."""
    header = tables.series.c.header
    parts: list[Any] = []
    for name in names:
        # Keywords are letters and digits: nothing to quote in a path.
        on_sqlite = func.json_extract(header, f"$.{name}")
        parts += [literal(name), header[name] if index.dialect == "postgresql" else on_sqlite]
    make = func.jsonb_build_object if index.dialect == "postgresql" else func.json_object
    return make(*parts, type_=tables.JsonValue)


def _came(since: datetime | None) -> ColumnElement[bool]:
    return true() if since is None else tables.studies.c.last_received_at >= since


def _from_outside(since: datetime | None) -> ColumnElement[bool]:
    """Series that are not our own, of studies that got something last since then."""
    table = tables.series
    foreign = table.c.own.is_(False)
    if since is None:
        return foreign
    recent = select(tables.studies.c.study_instance_uid).where(_came(since))
    return and_(foreign, table.c.study_instance_uid.in_(recent))
