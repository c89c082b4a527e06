"""Instances: what was received, counted into series and studies.

`add_many` is the receiving path. Nearly every instance is new and of a series that is known: that takes three
statements, which `_Usual` has ready. Whatever is not so starts again, the long way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, Dialect, Row, select

from storage import tables
from storage.errors import NotFound
from storage.index.counting import (
    Tally,
    count_into_series,
    count_into_study,
    updating_series,
    updating_study,
)
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.files import note_return
from storage.index.prepared import Prepared
from storage.index.values import insert_or_ignore, inserting_or_ignoring
from storage.model import AddOutcome, Event, Header, Instance


def add(index: Index, instance: Instance) -> AddOutcome:
    """Add one instance and commit, together with those that other threads are adding: see `add_many`."""
    return index.arrivals.commit(instance, partial(add_many, index))


def add_many(index: Index, instances: Sequence[Instance]) -> list[AddOutcome]:
    """Add instances, count them into their series and studies, and commit.

    A new instance that is not our own raises its study's revision. Another content under a known SOP Instance UID
    is kept beside the first, with an event, and is no news.

    Parameters
    ----------
    instances
        In the order received; one transaction for all.

    Returns
    -------
    list[AddOutcome]
        One per instance, in the same order.
    """
    if instances and _add_usual(index, instances):
        return [AddOutcome.ADDED] * len(instances)
    return _add_any(index, instances)


def get(index: Index, sop_instance_uid: str) -> Instance:
    """The instance of that SOP Instance UID; the first when there are conflicting ones."""
    found = of_uids(index, (sop_instance_uid,))
    if not found:
        raise NotFound(f"No instance {sop_instance_uid}.")
    return found[0]


def of_series(
    index: Index, series_instance_uid: str, *, study_instance_uid: str | None = None
) -> tuple[Instance, ...]:
    """All instances of a series, in order of SOP Instance UID."""
    table = tables.instances
    statement = select(table).where(table.c.series_instance_uid == series_instance_uid)
    if study_instance_uid is not None:
        statement = statement.where(table.c.study_instance_uid == study_instance_uid)
    with index.read() as connection:
        rows = connection.execute(statement.order_by(table.c.sop_instance_uid))
        return tuple(_from_row(row) for row in rows)


def of_uids(index: Index, sop_instance_uids: Sequence[str]) -> tuple[Instance, ...]:
    """The instances of these SOP Instance UIDs, in their order; unknown ones are left out."""
    found: dict[str, Instance] = {}
    with index.read() as connection:
        # SQLite takes 32,766 parameters in one statement.
        for start in range(0, len(sop_instance_uids), 10_000):
            chunk = sop_instance_uids[start : start + 10_000]
            statement = select(tables.instances).where(
                tables.instances.c.sop_instance_uid.in_(chunk)
            )
            for row in connection.execute(statement):
                found[row.sop_instance_uid] = _from_row(row)
    return tuple(found[uid] for uid in sop_instance_uids if uid in found)


class _UnusualError(Exception):
    """An instance that is known, or the first of its series, or our own: nothing is committed."""


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is executed for new instances of series that are known."""

    insert: Prepared
    update_series: Prepared
    update_study: Prepared


@lru_cache(maxsize=8)
def _usual(dialect: Dialect, columns: tuple[str, ...]) -> _Usual:
    inserting = inserting_or_ignoring(dialect.name, tables.instances)
    return _Usual(
        insert=Prepared(inserting, dialect, columns=columns),
        update_series=Prepared(updating_series(), dialect),
        update_study=Prepared(updating_study(), dialect),
    )


def _add_usual(index: Index, instances: Sequence[Instance]) -> bool:
    """Add where all are new, of known series, and news to their study; else False, and nothing is done."""
    try:
        series, studies = _count(instances)
        _demand(tally.not_own for tally in studies.values())
        rows = [_to_row(instances[n]) for n in _in_order(instances)]
        usual = _usual(index.sql, tuple(rows[0]))
        with index.begin_directly() as cursor:
            _demand(usual.insert.execute(cursor, row) for row in rows)
            for key in sorted(series):
                _demand([usual.update_series.execute(cursor, series[key].of_series)])
            for study in sorted(studies):
                _demand([usual.update_study.execute(cursor, studies[study].of_study)])
    except (_UnusualError, TypeError, ValueError):
        # A value that is none of its column's is explained on the long way.
        return False
    return True


def _demand(changed: Iterable[int]) -> None:
    if not all(changed):
        raise _UnusualError


def _add_any(index: Index, instances: Sequence[Instance]) -> list[AddOutcome]:
    outcomes = [AddOutcome.ADDED] * len(instances)
    with index.begin() as connection:
        for n in _in_order(instances):
            if not insert_or_ignore(connection, tables.instances, _to_row(instances[n])):
                outcomes[n] = _add_again(connection, instances[n])
        added = [
            one
            for one, outcome in zip(instances, outcomes, strict=True)
            if outcome is AddOutcome.ADDED
        ]
        series, studies = _count(added)
        for study_uid, series_uid in sorted(series):
            is_new = count_into_series(connection, series[study_uid, series_uid])
            studies[study_uid].new_series += is_new
        for study_uid in sorted(studies):
            count_into_study(connection, studies[study_uid])
    return outcomes


def _in_order(instances: Sequence[Instance]) -> list[int]:
    # And instances before series before studies: transactions that meet lock rows in the same order.
    return sorted(range(len(instances)), key=lambda n: instances[n].sop_instance_uid)


def _count(
    instances: Iterable[Instance],
) -> tuple[dict[tuple[str, str], Tally], dict[str, Tally]]:
    """By Study and Series Instance UID, and by Study Instance UID."""
    series: dict[tuple[str, str], Tally] = {}
    studies: dict[str, Tally] = {}
    for instance in instances:
        study_uid = instance.study_instance_uid
        key = study_uid, instance.series_instance_uid
        series.setdefault(key, Tally(first=instance)).count(instance)
        studies.setdefault(study_uid, Tally(first=instance)).count(instance)
    return series, studies


def _add_again(connection: Connection, instance: Instance) -> AddOutcome:
    """A SOP Instance UID that is known: the same content, or a conflict."""
    note_return(connection, instance.archive_key, instance.received_at)
    held = connection.execute(
        select(tables.instances.c.digest, tables.instances.c.study_instance_uid).where(
            tables.instances.c.sop_instance_uid == instance.sop_instance_uid
        )
    ).one()
    if held.digest == instance.digest:
        return AddOutcome.DUPLICATE
    row = {
        "sop_instance_uid": instance.sop_instance_uid,
        "digest": instance.digest,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "archive_key": instance.archive_key,
        "size": instance.size,
        "calling_ae": instance.calling_ae,
        "received_at": instance.received_at,
        "study_instance_uid": held.study_instance_uid,
    }
    if insert_or_ignore(connection, tables.conflicting_instances, row):
        insert_event(
            connection,
            Event(
                kind="instance-conflict",
                actor=instance.calling_ae,
                at=instance.received_at,
                study_instance_uid=instance.study_instance_uid,
                outcome="failure",
                detail={
                    "sop_instance_uid": instance.sop_instance_uid,
                    "held_digest": held.digest,
                    "received_digest": instance.digest,
                    "archive_key": instance.archive_key,
                },
            ),
        )
    return AddOutcome.CONFLICT


@lru_cache(maxsize=8)
def _insert(dialect: Dialect, columns: tuple[str, ...]) -> Prepared:
    return Prepared(inserting_or_ignoring(dialect.name, tables.instances), dialect, columns=columns)


def _to_row(instance: Instance) -> dict[str, Any]:
    return {
        "sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "series_instance_uid": instance.series_instance_uid,
        "study_instance_uid": instance.study_instance_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "archive_key": instance.archive_key,
        "size": instance.size,
        "digest": instance.digest,
        "calling_ae": instance.calling_ae,
        "called_ae": instance.called_ae,
        "received_at": instance.received_at,
        "own": instance.own,
        "header": dict(instance.header),
    }


def _from_row(row: Row[Any]) -> Instance:
    values = dict(row._mapping)
    values["header"] = to_header(values["header"])
    return Instance(**values)


def to_header(stored: dict[str, list[Any]]) -> Header:
    """JSON's lists -> the model's tuples."""
    return {keyword: tuple(values) for keyword, values in stored.items()}
