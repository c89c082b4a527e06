"""When what waits will start, played forward from measured run times."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from rows import NOON, later

from node.forecast import Capacity, forecast
from storage.index.turns import Queued
from storage.model import WorkitemState

CAPACITY = Capacity(workers=1, limits={}, run_s={"quick": 60.0, "slow": 600.0}, zone=UTC)


def waits(uid: str, pipeline: str = "quick", **kinds: object) -> Queued:
    plain = Queued(
        workitem_uid=uid,
        pipeline=pipeline,
        state=WorkitemState.SCHEDULED,
        not_before=None,
        window=None,
        held=False,
        started_at=None,
    )
    return replace(plain, **kinds)  # type: ignore[arg-type]


def runs(uid: str, pipeline: str, since: datetime) -> Queued:
    return waits(uid, pipeline, state=WorkitemState.IN_PROGRESS, started_at=since)


def seconds(starts: dict[str, datetime]) -> dict[str, float]:
    return {uid: (at - NOON).total_seconds() for uid, at in starts.items()}


def test_one_after_the_other() -> None:
    queue = [runs("r", "slow", later(-400)), waits("a"), waits("b", "slow"), waits("c")]
    assert seconds(forecast(queue, CAPACITY, now=NOON)) == {"a": 200, "b": 260, "c": 860}


def test_a_run_that_takes_longer_than_usual_ends_at_any_moment() -> None:
    queue = [runs("r", "quick", later(-400)), waits("a")]
    assert seconds(forecast(queue, CAPACITY, now=NOON)) == {"a": 0}


def test_several_workers_and_a_limit() -> None:
    capacity = replace(CAPACITY, workers=2, limits={"slow": 1})
    queue = [waits("a", "slow"), waits("b", "slow"), waits("c"), waits("d")]
    assert seconds(forecast(queue, capacity, now=NOON)) == {"a": 0, "c": 0, "d": 60, "b": 600}


def test_what_may_not_start_yet_is_overtaken() -> None:
    queue = [
        waits("retried", not_before=later(90)),
        waits("night", window="20:00-06:00"),
        waits("held", held=True),
        waits("a"),
        waits("b"),
    ]
    assert seconds(forecast(queue, CAPACITY, now=NOON)) == {
        "a": 0,
        "b": 60,
        "retried": 120,
        "night": 8 * 3600,
    }


def test_a_night_may_be_too_short() -> None:
    queue = [waits(f"{n}", "slow", window="12:00-12:15") for n in range(3)]
    day = timedelta(days=1).total_seconds()
    assert seconds(forecast(queue, CAPACITY, now=NOON)) == {"0": 0, "1": 600, "2": day}


def test_an_unmeasured_pipeline_takes_as_long_as_the_others() -> None:
    assert seconds(forecast([waits("a", "new"), waits("b")], CAPACITY, now=NOON)) == {
        "a": 0,
        "b": 330,
    }


def test_nothing_is_said_where_nothing_is_known() -> None:
    unmeasured = replace(CAPACITY, run_s={})
    assert list(forecast([waits("a"), waits("b")], unmeasured, now=NOON)) == ["a"]
    assert forecast([runs("r", "quick", NOON), waits("a")], unmeasured, now=NOON) == {}
    assert forecast([waits("a")], replace(CAPACITY, workers=0), now=NOON) == {}
    assert forecast([waits("a")], replace(CAPACITY, limits={"quick": 0}), now=NOON) == {}
