"""Whom to ask about which study, and when again: a real index, a clock that tests set, a peer that answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from peer import Pacs
from rows import STUDY, make_instance

from node import asking
from node.config import Config
from storage.index import Index, destinations, instances, studies, wholeness
from storage.model import Asked, Destination, utcnow

CONFIG = Config.model_validate(
    {"routing": {"ask": {"CT1": "PACS"}, "ask_timeout_s": 2.0, "count_quiet_s": 2.0}}
)
OTHER = "1.2.9"


def receive(index: Index, n: int, *, study: str = STUDY, ae: str = "CT1") -> datetime:
    """One instance, now; when it came."""
    at = utcnow()
    instances.add(index, replace(make_instance(n, study=study, at=at), calling_ae=ae))
    return at


def due(index: Index, at: datetime, seconds: float) -> list[str]:
    found = asking.due(index, CONFIG, now=at + timedelta(seconds=seconds))
    assert set(found) <= {"PACS"}
    return [one.study.study_instance_uid for one in found.get("PACS", ())]


def asked(index: Index, study: str = STUDY) -> Asked:
    answer = studies.get(index, study).asked
    assert answer is not None
    return answer


def ask(index: Index, at: datetime, seconds: float) -> None:
    now = at + timedelta(seconds=seconds)
    asking.ask(index, CONFIG, asking.due(index, CONFIG, now=now)["PACS"])


def test_a_study_is_asked_about_once_it_is_quiet_and_again_after_the_next_instance(
    index: Index, pacs: Pacs
) -> None:
    destinations.add(index, pacs.destination, actor="test")
    at = receive(index, 1)
    assert due(index, at, 1.9) == []
    assert due(index, at, 2) == [STUDY]
    pacs.holds[STUDY] = {f"{STUDY}.2": ("CT", 1)}
    ask(index, at, 2)
    assert (asked(index).instances, asked(index).by_series) == (1, {f"{STUDY}.2": 1})
    assert due(index, at, 9999) == []
    at = receive(index, 2)
    assert due(index, at, 2) == [STUDY]


def test_who_is_not_named_is_not_asked(index: Index) -> None:
    at = receive(index, 1, ae="CT9")
    assert due(index, at, 10) == []
    assert asking.due(index, Config(), now=at + timedelta(seconds=10)) == {}


def test_what_is_held_or_evaluated_is_not_asked_about(index: Index) -> None:
    at = receive(index, 1)
    wholeness.hold(index, STUDY, actor="anna")
    assert due(index, at, 10) == []
    wholeness.release(index, STUDY, actor="anna", now=at)
    studies.record_evaluation(
        index,
        study_instance_uid=STUDY,
        revision=1,
        decisions=(),
        workitems=(),
        now=at,
        forced_at=at,
    )
    assert due(index, at, 10) == []


def test_a_dead_archive_is_asked_less_and_less_often_and_once_for_all_studies(
    index: Index, pacs: Pacs
) -> None:
    destinations.add(index, pacs.destination, actor="test")
    pacs.stop()
    receive(index, 1, study=OTHER)
    at = receive(index, 1)
    waits = []
    for _ in range(3):
        later = max(at + timedelta(seconds=2), asked(index).again_at or at) if waits else at
        seconds = (later - at).total_seconds() + 2
        assert due(index, at, seconds) == [OTHER, STUDY]
        before = utcnow()
        ask(index, at, seconds)
        again = asked(index).again_at
        assert again is not None
        assert again == pytest.approx(asked(index, OTHER).again_at, abs=timedelta(seconds=1))
        waits.append((again - before).total_seconds())
        assert due(index, at, (again - at).total_seconds() - 1) == []
    assert waits == pytest.approx([5, 10, 20], abs=2)
    assert asked(index).attempts == 3
    assert "cannot be reached" in asked(index).failure
    # It comes back.
    pacs.start()
    pacs.holds = {uid: {f"{uid}.2": ("CT", 1)} for uid in (STUDY, OTHER)}
    ask(index, at, 999)
    for study in (STUDY, OTHER):
        assert (asked(index, study).failure, asked(index, study).again_at) == ("", None)
        assert asked(index, study).instances == 1


def test_an_archive_that_has_less_is_asked_again(index: Index, pacs: Pacs) -> None:
    destinations.add(index, pacs.destination, actor="test")
    receive(index, 1)
    at = receive(index, 2)
    pacs.holds[STUDY] = {f"{STUDY}.2": ("CT", 1)}
    ask(index, at, 2)
    assert (asked(index).instances, asked(index).attempts) == (1, 1)
    assert due(index, at, 4) == []
    assert due(index, at, 9) == [STUDY]


def test_a_destination_that_is_not_there_is_a_failure_that_is_kept(index: Index) -> None:
    at = receive(index, 1)
    ask(index, at, 2)
    assert asked(index) == Asked(
        of="PACS", attempts=1, failure="No destination PACS.", again_at=asked(index).again_at
    )
    destinations.add(
        index, Destination(name="PACS", host="h", port=1, called_ae="PACS"), actor="test"
    )
    # An answer of old stays when the next question fails.
    answer = Asked(of="PACS", at=datetime(2026, 1, 1, tzinfo=UTC), instances=7, by_series={"1": 7})
    wholeness.record_answer(index, STUDY, answer)
    wholeness.record_answer(index, STUDY, Asked(of="PACS", attempts=1, failure="Dead."))
    assert (asked(index).instances, asked(index).failure) == (7, "Dead.")
