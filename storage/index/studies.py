"""Studies: what came, what is news, and what each evaluation decided."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, or_, select, tuple_, update

from storage import tables
from storage.errors import NotFound
from storage.index.engine import Index
from storage.index.events import insert_event
from storage.index.facts import keep_facts, read_series
from storage.index.revisions import planned_by, schedule
from storage.index.study_rows import study_values, verdict_to_row
from storage.index.values import select_like
from storage.model import (
    ClauseVerdict,
    Decision,
    DecisionCode,
    Event,
    HeaderValue,
    Series,
    Study,
    Verdict,
    Workitem,
    utcnow,
)


def list_studies(
    index: Index, *, limit: int = 100, since: datetime | None = None, after: str | None = None
) -> tuple[Study, ...]:
    """Studies that got something last (`since` or later), the latest first.

    Parameters
    ----------
    after
        The UID of the last of the page before.
    """
    table = tables.studies
    order = (table.c.last_received_at, table.c.study_instance_uid)
    statement = select(table).order_by(order[0].desc(), order[1].desc()).limit(limit)
    if after is not None:
        last = select(*order).where(table.c.study_instance_uid == after).subquery()
        statement = statement.join(last, tuple_(*order) < tuple_(*last.c))
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


def uids_like(index: Index, part: str, *, limit: int = 20) -> tuple[str, ...]:
    """UIDs that begin or end with this, so that people need not type the whole."""
    with index.read() as connection:
        return select_like(connection, tables.studies.c.study_instance_uid, part, limit)


def to_evaluate(index: Index) -> tuple[Study, ...]:
    """Studies whose revision is not evaluated yet or that wait for an input, those quiet longest first.

    Those that a person holds are left out.
    """
    table = tables.studies
    has_news = table.c.revision > table.c.evaluated_revision
    waits = table.c.waits_until.is_not(None)
    # One question each: of the two together SQLite makes a scan of all studies, and it is asked every second.
    with index.read() as connection:
        found = {
            row.study_instance_uid: _from_row(row)
            for condition in (has_news, waits)
            for row in connection.execute(
                select(table).where(condition).where(table.c.held_at.is_(None))
            )
        }
    return tuple(sorted(found.values(), key=lambda study: study.last_received_at))


def evaluate_again(
    index: Index, study_instance_uid: str, *, actor: str, now: datetime | None = None
) -> None:
    """Have a study evaluated although nothing came: rules have changed. What ran already does not run again.

    Raises
    ------
    NotFound
        When there is no such study.
    """
    now = now or utcnow()
    study = tables.studies
    with index.begin() as connection:
        found = connection.execute(
            update(study)
            .where(study.c.study_instance_uid == study_instance_uid)
            .values(waits_until=now)
        ).rowcount
        if not found:
            raise NotFound(f"No study {study_instance_uid}.")
        event = Event(
            kind="study-evaluation-asked",
            actor=actor,
            at=now,
            study_instance_uid=study_instance_uid,
        )
        insert_event(connection, event)


def series_of(index: Index, study_instance_uid: str) -> tuple[Series, ...]:
    """The series of a study with the facts rules may name (`storage.index.facts`), in the order they began."""
    table = tables.series
    statement = (
        select(table)
        .where(table.c.study_instance_uid == study_instance_uid)
        .order_by(table.c.first_received_at, table.c.series_instance_uid)
    )
    with index.read() as connection:
        rows = connection.execute(statement).all()
        return tuple(read_series(connection, row) for row in rows)


def record_evaluation(  # noqa: PLR0913 - one transition
    index: Index,
    *,
    study_instance_uid: str,
    revision: int,
    decisions: Sequence[Decision],
    workitems: Sequence[Workitem],
    now: datetime,
    waits_until: datetime | None = None,
    series: Sequence[Series] = (),
    verdict: Verdict | None = None,
    forced_at: datetime | None = None,
    once: Collection[str] = (),
) -> None:
    """Keep what an evaluation decided, and schedule its workitems.

    Counts once: nothing happens when this revision, or a later one, is evaluated already, unless it was left waiting
    until now; then these decisions replace those. What it planned before and does not any more is cancelled, and what
    that made is replaced by what comes (`storage.index.revisions`). A workitem whose UID is known is left as it is.

    Parameters
    ----------
    revision
        The revision that was looked at; what came after it stays news.
    waits_until
        When the study shall be evaluated again although nothing came; None when it waits for nothing.
    series
        What was looked at: their facts are kept with them, so that nobody derives them again.
    verdict
        Whether it was whole; None leaves what was found before.
    forced_at
        As the study had it when it was read: of one that was released, or held, since then nothing is recorded.
    once
        Names of rules that run on one series of a study alone: what they plan replaces what they planned on others.

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
            .where(
                or_(
                    study.c.evaluated_revision < revision,
                    and_(study.c.evaluated_revision == revision, study.c.waits_until <= now),
                )
            )
            .where(study.c.held_at.is_(None), study.c.forced_at.is_not_distinct_from(forced_at))
            .values(
                evaluated_revision=revision,
                waits_until=waits_until,
                look_at=None,
                forced_at=None,
                **({} if verdict is None else {"verdict": verdict_to_row(verdict)}),
            )
        ).rowcount
        if not advanced:
            _require(connection, study_instance_uid)
            return
        table = tables.decisions
        keep_facts(connection, series)
        before = planned_by(connection, study_instance_uid, once)
        outdone: dict[str, set[str]] = {}
        for one in decisions:
            if one.workitem_uid is not None:
                outdone.setdefault(one.workitem_uid, set()).update(before.get(one.rule, ()))
        scheduled = schedule(connection, workitems, now, outdone=outdone)
        # Not earlier: what they planned is asked for.
        connection.execute(
            delete(table)
            .where(table.c.study_instance_uid == study_instance_uid)
            .where(table.c.revision == revision)
        )
        if decisions:
            connection.execute(
                insert(table),
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
                detail=_said_of(decisions, revision, scheduled, waits_until),
            ),
        )


def _said_of(
    decisions: Sequence[Decision], revision: int, scheduled: int, waits_until: datetime | None
) -> dict[str, HeaderValue]:
    """The line of the log about an evaluation."""
    detail: dict[str, HeaderValue] = {
        "revision": revision,
        "decisions": len(decisions),
        "matched": sum(decision.matched for decision in decisions),
        "scheduled": scheduled,
    }
    if waits_until is not None:
        detail["waits_until"] = waits_until.isoformat()
    if held := sorted({one.rule for one in decisions if one.code == DecisionCode.HELD}):
        detail["held"] = ", ".join(held)
    return detail


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
    return Study(**study_values(row))


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
