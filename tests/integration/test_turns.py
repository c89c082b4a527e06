"""Whose turn it is, on both databases: age, windows, limits, holds, and what people change."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
from rows import NOON, STUDY, later, make_completion, make_workitem, run_at_once, schedule

from storage.errors import ChangeRefused, NotFound
from storage.index import Index, events, studies, turns, workitems
from storage.model import AGE_S, Event, Workitem, WorkitemState

HOUR = 3600.0


def claim(index: Index, at: float = 1, **kinds: object) -> str | None:
    """UID of what is taken so many seconds after noon."""
    found = workitems.claim(index, owner="node-1", now=later(at), lease_s=60, **kinds)  # type: ignore[arg-type]
    return found and found.workitem_uid


def of_pipeline(n: int, pipeline: str) -> Workitem:
    return replace(make_workitem(n), pipeline=pipeline)


# -- priority and age -----------------------------------------------------------------------------


def test_a_point_is_worth_ten_minutes(index: Index) -> None:
    old = make_workitem(1, priority=50)
    schedule(
        index,
        old,
        make_workitem(2, priority=60, at=later(10 * AGE_S - 1)),
        make_workitem(3, priority=60, at=later(10 * AGE_S + 1)),
    )
    assert [claim(index, 12 * AGE_S) for _ in range(3)] == ["1.9.2", "1.9.1", "1.9.3"]


def test_waiting_counts_from_when_it_may_start(index: Index) -> None:
    night = replace(make_workitem(1), not_before=later(10 * HOUR), window="20:00-06:00")
    schedule(index, night, make_workitem(2, priority=51, at=later(10 * HOUR)))
    assert [claim(index, 11 * HOUR) for _ in range(2)] == ["1.9.2", "1.9.1"]


def test_nothing_starves(index: Index) -> None:
    """A STAT comes every hour, a run takes an hour: a routine workitem waits off the difference and no longer."""
    schedule(index, make_workitem(0, priority=50))
    for hour in range(20):
        schedule(index, make_workitem(hour + 1, priority=150, at=later(hour * HOUR)))
        taken = claim(index, hour * HOUR)
        assert taken is not None
        if taken == "1.9.0":
            break
        assert workitems.complete(index, make_completion(workitems.get(index, taken)))
    assert hour == math.ceil((150 - 50) * AGE_S / HOUR)


# -- windows and limits ---------------------------------------------------------------------------


def test_a_closed_window_keeps_what_is_in_it(index: Index) -> None:
    night = replace(make_workitem(1, priority=90), window="20:00-06:00")
    schedule(index, night, make_workitem(2))
    assert turns.due_windows(index, later(1)) == ("20:00-06:00",)
    assert claim(index, closed=("20:00-06:00",)) == "1.9.2"
    assert claim(index, closed=("20:00-06:00",)) is None
    assert turns.postpone(index, window="20:00-06:00", until=later(HOUR)) == 1
    assert turns.due_windows(index, later(1)) == ()
    assert turns.next_start(index, later(1)) == later(HOUR)
    assert workitems.get(index, "1.9.1").not_before == later(HOUR)
    workitems.complete(index, make_completion(workitems.get(index, "1.9.2")))
    assert claim(index, HOUR - 1) is None
    assert claim(index, HOUR) == "1.9.1"
    assert turns.next_start(index, later(1)) is None


def test_no_more_of_a_pipeline_than_its_limit(index: Index) -> None:
    schedule(
        index,
        of_pipeline(1, "slow"),
        of_pipeline(2, "slow"),
        replace(of_pipeline(3, "quick"), priority=10),
    )
    limits = {"slow": 1}
    assert [claim(index, limits=limits) for _ in range(3)] == ["1.9.1", "1.9.3", None]
    workitems.complete(index, make_completion(workitems.get(index, "1.9.1")))
    assert claim(index, limits=limits) == "1.9.2"
    schedule(index, of_pipeline(4, "paused"))
    assert claim(index, limits={"paused": 0}) is None


def test_an_abandoned_run_is_taken_over_at_its_limit(index: Index) -> None:
    schedule(index, of_pipeline(1, "slow"), of_pipeline(2, "slow"))
    assert claim(index, limits={"slow": 1}) == "1.9.1"
    assert claim(index, 100, limits={"slow": 1}) == "1.9.1"


def test_claimers_at_once_respect_a_limit(index: Index) -> None:
    schedule(index, *(of_pipeline(n, "slow") for n in range(20)))

    def claim_all(owner: str) -> int:
        got = 0
        while workitems.claim(index, owner=owner, now=later(1), lease_s=60, limits={"slow": 3}):
            got += 1
        return got

    assert sum(run_at_once([partial(claim_all, f"node-{n}") for n in range(8)])) == 3


# -- what people change ---------------------------------------------------------------------------


def raised(index: Index, n: int, to: int | None = None) -> Workitem:
    return turns.set_priority(index, f"1.9.{n}", to=to, actor="cli:root", now=later(5))


def test_a_raised_workitem_keeps_what_it_waited(index: Index) -> None:
    schedule(index, make_workitem(1), make_workitem(2, priority=60), make_workitem(3, priority=70))
    changed = raised(index, 1, 60)
    assert changed.priority == 60
    assert changed.priority_reasons[-1] == "Set from 50 to 60 by cli:root."
    assert [claim(index) for _ in range(3)] == ["1.9.3", "1.9.1", "1.9.2"]
    (event,) = events.list_events(index, kind="workitem-prioritised")
    assert event == Event(
        kind="workitem-prioritised",
        actor="cli:root",
        at=later(5),
        study_instance_uid=STUDY,
        workitem_uid="1.9.1",
        detail={"from": 50, "to": 60},
        event_id=event.event_id,
    )


def test_first_is_before_all_that_wait(index: Index) -> None:
    schedule(
        index,
        make_workitem(1, priority=150),
        make_workitem(2, priority=10, at=later(HOUR)),
        make_workitem(3, priority=149, at=later(-3 * HOUR)),
    )
    assert raised(index, 2).priority > 150
    # It is there already, and stays as it is.
    before = raised(index, 2).priority
    assert raised(index, 2).priority == before
    assert [claim(index, 2 * HOUR) for _ in range(3)] == ["1.9.2", "1.9.3", "1.9.1"]


def test_a_held_workitem_waits_for_its_release(index: Index) -> None:
    schedule(index, make_workitem(1, priority=90), make_workitem(2))
    held = turns.hold(index, "1.9.1", reason="recalibrated", actor="cli:root", now=later(5))
    assert (held.state, held.held_at, held.hold_reason) == (
        WorkitemState.SCHEDULED,
        later(5),
        "recalibrated",
    )
    assert claim(index, 6) == "1.9.2"
    assert claim(index, 1e6) == "1.9.2"  # abandoned; the held one still waits
    with pytest.raises(ChangeRefused, match="held already"):
        turns.hold(index, "1.9.1", reason="", actor="cli:root", now=later(6))
    freed = turns.let_go(index, "1.9.1", actor="cli:root", now=later(7))
    assert (freed.held_at, freed.hold_reason) == (None, None)
    assert claim(index, 8) == "1.9.1"
    kinds = [event.kind for event in events.list_events(index, workitem="1.9.1")]
    assert kinds == ["workitem-held", "workitem-let-go"]


def test_time_that_it_was_held_is_no_waiting(index: Index) -> None:
    schedule(index, make_workitem(1), make_workitem(2, priority=51, at=later(20 * HOUR)))
    turns.hold(index, "1.9.1", reason="", actor="test", now=later(60))
    turns.let_go(index, "1.9.1", actor="test", now=later(20 * HOUR))
    assert claim(index, 21 * HOUR) == "1.9.2"


def test_release_now_opens_a_window(index: Index) -> None:
    night = replace(make_workitem(1), not_before=later(HOUR), window="20:00-06:00")
    schedule(index, night)
    with pytest.raises(ChangeRefused, match="not held"):
        turns.let_go(index, "1.9.1", actor="test", now=later(1))
    freed = turns.let_go(index, "1.9.1", at_once=True, actor="test", now=later(1))
    assert (freed.window, freed.not_before) == (None, None)
    assert claim(index, 2, closed=("20:00-06:00",)) == "1.9.1"


@pytest.mark.parametrize(
    "change",
    [
        partial(turns.set_priority, to=80),
        partial(turns.hold, reason=""),
        turns.let_go,
    ],
)
def test_only_what_is_scheduled_can_be_changed(index: Index, change: partial[Workitem]) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    with pytest.raises(ChangeRefused, match="IN PROGRESS"):
        change(index, "1.9.1", actor="test", now=NOON)
    with pytest.raises(NotFound):
        change(index, "1.9.2", actor="test", now=NOON)
    assert events.list_events(index, workitem="1.9.1") == ()


def test_a_cancelled_hold_is_gone_and_a_retry_waits_from_then(index: Index) -> None:
    schedule(index, make_workitem(1), make_workitem(2, at=later(10 * HOUR)))
    turns.hold(index, "1.9.1", reason="x", actor="test", now=later(5))
    canceled = workitems.cancel(index, "1.9.1", actor="test", now=later(6))
    assert (canceled.held_at, canceled.hold_reason) == (None, None)
    workitems.retry(index, "1.9.1", actor="test", now=later(11 * HOUR))
    assert claim(index, 12 * HOUR) == "1.9.2"


# -- the queue ------------------------------------------------------------------------------------


def test_the_queue_is_in_the_order_of_turns(index: Index) -> None:
    schedule(index, make_workitem(1, priority=10), make_workitem(2), make_workitem(3, priority=70))
    assert claim(index) == "1.9.3"
    turns.hold(index, "1.9.2", reason="", actor="test", now=later(5))
    queue = turns.queue(index)
    assert [(one.workitem_uid, one.held) for one in queue] == [
        ("1.9.3", False),
        ("1.9.2", True),
        ("1.9.1", False),
    ]
    listed = workitems.list_workitems(index, state=WorkitemState.SCHEDULED, in_turn=True)
    assert [one.workitem_uid for one in listed] == ["1.9.2", "1.9.1"]


def test_run_times_are_the_median_of_what_was_measured(index: Index) -> None:
    schedule(index, *(make_workitem(n) for n in range(1, 4)))
    for n, infer in ((1, 10.0), (2, 30.0), (3, 500.0)):
        assert claim(index) == f"1.9.{n}"
        done = replace(make_completion(make_workitem(n)), timings={"load": 1.0, "infer": infer})
        assert workitems.complete(index, done)
    assert turns.run_times(index, ["ct_skeleton", "never"]) == {"ct_skeleton": 31.0}


def test_workers_are_those_of_nodes_that_run(index: Index) -> None:
    def note(kind: str, actor: str, at: float, **detail: int) -> None:
        events.add(index, Event(kind=kind, actor=actor, at=later(at), detail=detail))

    assert turns.workers(index) == 0
    note("node-started", "a", 1, workers=2)
    note("node-started", "b", 2, workers=4)
    note("node-stopped", "b", 3)
    note("node-started", "a", 4, workers=3)
    assert turns.workers(index) == 3


# -- pages ----------------------------------------------------------------------------------------


def test_lists_are_read_page_by_page(index: Index) -> None:
    schedule(index, *(make_workitem(n, priority=n % 3) for n in range(7)))
    for n in range(7):
        schedule(index, study=f"1.5.{n}")

    def pages(read: partial[tuple[Workitem, ...]], key: str, start: object = None) -> list[object]:
        found: list[object] = []
        last = start
        while page := read(after=last):
            assert len(page) <= 3
            last = getattr(page[-1], key)
            found += [getattr(one, key) for one in page]
        return found

    for in_turn in (False, True):
        whole = workitems.list_workitems(index, in_turn=in_turn)
        read = partial(workitems.list_workitems, index, in_turn=in_turn, limit=3)
        assert pages(read, "workitem_uid") == [one.workitem_uid for one in whole]
    every = [one.study_instance_uid for one in studies.list_studies(index)]
    listed: partial[tuple[Workitem, ...]] = partial(studies.list_studies, index, limit=3)  # type: ignore[arg-type]
    assert pages(listed, "study_instance_uid") == every

    lines = events.list_events(index)
    last, back = None, list[Event]()
    while page := events.list_events(index, before=last, limit=3):
        last = page[0].event_id
        back = [*page, *back]
    assert tuple(back) == lines


def test_uids_are_found_by_their_ends(index: Index) -> None:
    schedule(index, make_workitem(12), make_workitem(112))
    assert workitems.uids_like(index, ".9.12") == ("1.9.12",)
    assert workitems.uids_like(index, "12") == ("1.9.112", "1.9.12")
    assert workitems.uids_like(index, "1.9") == ("1.9.112", "1.9.12")
    assert workitems.uids_like(index, "%") == workitems.uids_like(index, "") == ()
    assert studies.uids_like(index, STUDY[-6:]) == (STUDY,)


def test_a_later_page_of_nothing_is_nothing(index: Index) -> None:
    assert workitems.list_workitems(index, after="1.2.3") == ()
