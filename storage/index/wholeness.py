"""What says whether a study is whole, kept in its row: ends of associations, looks, answers of archives, holds.

Each transition is one transaction and clears `look_at`: what is known has changed, the study is looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from sqlalchemy import select, update

from storage import tables
from storage.errors import NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.facts import keep_facts
from storage.index.study_rows import study_values, verdict_to_row
from storage.index.values import clean_text
from storage.model import Asked, Event, Series, Study, Verdict, utcnow

#: Longest reason for a hold that is kept.
_REASON_LENGTH = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A study that an archive is to be asked about."""

    study: Study
    destination: str


# -- the network ----------------------------------------------------------------------------------


def end_association(
    index: Index, *, lines: Iterable[Event], studies: Iterable[str], at: datetime, released: bool
) -> None:
    """Note that an association ended which brought instances of these studies, with its lines of the log.

    Parameters
    ----------
    released
        Whether it was released (PS3.8 7.2); else it was aborted, or the connection was lost.
    """
    table = tables.studies
    ended = {"released_at": at} if released else {"aborted_at": at}
    with index.begin() as connection:
        # Sorted: transactions that meet lock rows in the same order.
        for uid in sorted(studies):
            connection.execute(
                update(table)
                .where(table.c.study_instance_uid == uid)
                .values(**ended, associations=table.c.associations + 1, look_at=None)
            )
        for line in lines:
            insert_event(connection, line)


# -- looks ----------------------------------------------------------------------------------------


def longest_wait(index: Index, study_instance_uid: str, *, below_s: float) -> float:
    """Longest time between two instances of a study one after the other, s; those of `below_s` and more are pauses."""
    table, series = tables.instances, tables.series
    of_study = select(series.c.series_instance_uid).where(
        series.c.study_instance_uid == study_instance_uid, series.c.own.is_(False)
    )
    statement = select(table.c.received_at).where(
        table.c.series_instance_uid.in_(of_study),
        table.c.study_instance_uid == study_instance_uid,
        table.c.own.is_(False),
    )
    with index.read() as connection:
        times = sorted(connection.scalars(statement))
    waits = ((later - earlier).total_seconds() for earlier, later in pairwise(times))
    return max((wait for wait in waits if wait < below_s), default=0.0)


def keep_look(
    index: Index, study: Study, verdict: Verdict, *, pace_s: float, series: Sequence[Series]
) -> None:
    """Keep what a look at a study found, unless something came since it was read."""
    table = tables.studies
    unchanged = [
        getattr(table.c, name).is_not_distinct_from(getattr(study, name))
        for name in ("revision", "released_at", "aborted_at", "forced_at")
    ]
    asked = study.asked or Asked(of="")
    with index.begin() as connection:
        kept = connection.execute(
            update(table)
            .where(table.c.study_instance_uid == study.study_instance_uid, *unchanged)
            .where(
                table.c.asked_at.is_not_distinct_from(asked.at),
                table.c.ask_again_at.is_not_distinct_from(asked.again_at),
                table.c.held_at.is_(None),
            )
            .values(
                looked_revision=study.revision,
                pace_s=pace_s,
                verdict=verdict_to_row(verdict),
                look_at=verdict.look_again_at,
            )
        ).rowcount
        if kept:
            keep_facts(connection, series)


# -- the sender's archive -------------------------------------------------------------------------


def to_ask(
    index: Index, archives: Mapping[str, str], *, now: datetime, quiet_s: float
) -> tuple[Question, ...]:
    """Studies to ask an archive about: quiet for `quiet_s`, and not answered for since their last instance.

    Parameters
    ----------
    archives
        Calling AE title -> the destination that is asked about what it sends.
    """
    table, series = tables.studies, tables.series
    with index.read() as connection:
        rows = connection.execute(
            select(table)
            .where(table.c.revision > table.c.evaluated_revision)
            .where(table.c.held_at.is_(None))
        )
        found = [Study(**study_values(row)) for row in rows]
        questions = []
        for study in sorted(found, key=lambda study: study.last_received_at):
            if not _is_due(study, now, quiet_s):
                continue
            senders = connection.scalars(
                select(series.c.calling_ae)
                .where(series.c.study_instance_uid == study.study_instance_uid)
                .where(series.c.calling_ae.in_(archives), series.c.own.is_(False))
                .order_by(series.c.first_received_at, series.c.series_instance_uid)
                .limit(1)
            ).all()
            questions += [Question(study=study, destination=archives[ae]) for ae in senders]
    return tuple(questions)


def _is_due(study: Study, now: datetime, quiet_s: float) -> bool:
    if (now - study.last_received_at).total_seconds() < max(quiet_s, study.pace_s):
        return False
    asked = study.asked
    if asked is None:
        return True
    if asked.again_at is not None:
        return asked.again_at <= now
    return asked.at is None or asked.at < study.last_received_at


def record_answer(index: Index, study_instance_uid: str, answer: Asked) -> None:
    """Keep what an archive answered, or that it did not: `answer.at` is None then, and the last answer stays."""
    table = tables.studies
    values: dict[str, object] = {
        "asked_of": answer.of,
        "ask_again_at": answer.again_at,
        "ask_attempts": answer.attempts,
        "ask_failure": clean_text(answer.failure),
        "look_at": None,
    }
    if answer.at is not None:
        values |= {
            "asked_at": answer.at,
            "expected_series": answer.series,
            "expected_instances": answer.instances,
            "expected_by_series": dict(answer.by_series),
        }
    with index.begin() as connection:
        connection.execute(
            update(table).where(table.c.study_instance_uid == study_instance_uid).values(**values)
        )


# -- a person -------------------------------------------------------------------------------------


def hold(
    index: Index,
    study_instance_uid: str,
    *,
    actor: str,
    reason: str = "",
    now: datetime | None = None,
) -> None:
    """Have a study not evaluated until it is released. What is scheduled already runs.

    The reason is kept with the study and stays out of the log, which must name no patient.

    Raises
    ------
    NotFound
        When there is no such study.
    """
    now = now or utcnow()
    values = {"held_at": now, "held_by": actor, "held_reason": clean_text(reason)[:_REASON_LENGTH]}
    event = Event(kind="study-held", actor=actor, at=now)
    _say(index, study_instance_uid, event, values | {"forced_at": None})


def release(
    index: Index, study_instance_uid: str, *, actor: str, now: datetime | None = None
) -> None:
    """Have a study evaluated now as it is: it is held no more, and what it waits for counts as not coming.

    Raises
    ------
    NotFound
        When there is no such study.
    """
    now = now or utcnow()
    values: dict[str, object] = {"held_at": None, "held_by": "", "held_reason": ""}
    released = {"forced_at": now, "waits_until": now}
    event = Event(kind="study-released", actor=actor, at=now)
    _say(index, study_instance_uid, event, values | released)


def _say(index: Index, study_instance_uid: str, event: Event, values: Mapping[str, object]) -> None:
    table = tables.studies
    with index.begin() as connection:
        found = connection.execute(
            update(table)
            .where(table.c.study_instance_uid == study_instance_uid)
            .values(**values, look_at=None)
        ).rowcount
        if not found:
            raise NotFound(f"No study {study_instance_uid}.")
        insert_event(connection, replace(event, study_instance_uid=study_instance_uid))
