"""Counting what a transaction brought into series and studies."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Update, bindparam, case, null, update

from storage import tables
from storage.index.values import TEXT_LENGTH, clean_text, insert_or_ignore
from storage.model import Header, Instance


@dataclass(slots=True)
class Tally:
    """What one transaction brought of one series or study."""

    first: Instance
    added: int = 0
    not_own: int = 0
    new_series: int = 0
    #: Of what is not our own: our results coming back keep no study waiting.
    last_received_at: datetime | None = None

    def count(self, instance: Instance) -> None:
        """One more."""
        self.added += 1
        if not instance.own:
            self.not_own += 1
            known = self.last_received_at or instance.received_at
            self.last_received_at = max(instance.received_at, known)

    @property
    def last(self) -> datetime:
        """When the series or study was last sent to."""
        return self.last_received_at or self.first.received_at

    @property
    def of_series(self) -> dict[str, Any]:
        """Parameters of `updating_series`."""
        return {
            "b_study": self.first.study_instance_uid,
            "b_series": self.first.series_instance_uid,
            "b_added": self.added,
            "b_last": self.last,
        }

    @property
    def of_study(self) -> dict[str, Any]:
        """Parameters of `updating_study`; the last two are not `updating_study_own`'s."""
        return {
            "b_study": self.first.study_instance_uid,
            "b_added": self.added,
            "b_new_series": self.new_series,
            "b_not_own": self.not_own,
            "b_last": self.last,
        }


def count_into_series(connection: Connection, tally: Tally) -> bool:
    """Whether the series is new to its study."""
    first = tally.first
    counted = tally.of_series
    if connection.execute(updating_series(), counted).rowcount:
        return False
    row = {
        "study_instance_uid": first.study_instance_uid,
        "series_instance_uid": first.series_instance_uid,
        "modality": header_text(first.header, "Modality"),
        "calling_ae": first.calling_ae,
        "own": first.own,
        "instance_count": tally.added,
        "first_received_at": first.received_at,
        "last_received_at": tally.last,
        "header": dict(first.header),
    }
    if insert_or_ignore(connection, tables.series, row):
        return True
    # Another transaction began the series between the two statements.
    connection.execute(updating_series(), counted)
    return False


def count_into_study(connection: Connection, tally: Tally) -> None:
    """Raise the study's revision by what is not our own."""
    first = tally.first
    counted = tally.of_study
    statement = updating_study()
    if not tally.not_own:
        statement = updating_study_own()
        del counted["b_not_own"], counted["b_last"]
    if connection.execute(statement, counted).rowcount:
        return
    row = {
        "study_instance_uid": first.study_instance_uid,
        "patient_id": header_text(first.header, "PatientID"),
        "accession_number": header_text(first.header, "AccessionNumber"),
        "study_date": header_text(first.header, "StudyDate"),
        "study_description": header_text(first.header, "StudyDescription"),
        "revision": tally.not_own,
        "evaluated_revision": 0,
        "series_count": tally.new_series,
        "instance_count": tally.added,
        "first_received_at": first.received_at,
        "last_received_at": tally.last,
    }
    if not insert_or_ignore(connection, tables.studies, row):
        connection.execute(statement, counted)


# -- statements, built once -----------------------------------------------------------------------


def _later(column: Column[Any]) -> Any:
    """The later of the column and what came; the clocks of two nodes differ."""
    received = bindparam("b_last", type_=column.type)
    return case((column < received, received), else_=column)


@functools.cache
def updating_series() -> Update:
    """Counts what came into a series: `Tally.of_series`."""
    table = tables.series
    return (
        update(table)
        .where(table.c.study_instance_uid == bindparam("b_study"))
        .where(table.c.series_instance_uid == bindparam("b_series"))
        .values(
            instance_count=table.c.instance_count + bindparam("b_added"),
            last_received_at=_later(table.c.last_received_at),
        )
    )


@functools.cache
def updating_study() -> Update:
    """Counts what came into a study, and what of it is news: `Tally.of_study`."""
    table = tables.studies
    return updating_study_own().values(
        revision=table.c.revision + bindparam("b_not_own"),
        look_at=null(),
        last_received_at=_later(table.c.last_received_at),
    )


@functools.cache
def updating_study_own() -> Update:
    """The same of what is all our own, and no news."""
    table = tables.studies
    return (
        update(table)
        .where(table.c.study_instance_uid == bindparam("b_study"))
        .values(
            series_count=table.c.series_count + bindparam("b_new_series"),
            instance_count=table.c.instance_count + bindparam("b_added"),
        )
    )


def header_text(header: Header, keyword: str) -> str:
    """First value of an attribute as text, as columns hold it; empty when it is missing."""
    values = header.get(keyword) or ("",)
    return "" if values[0] is None else clean_text(str(values[0]))[:TEXT_LENGTH]
