"""A clock that is set back by hours, on both databases: nothing waits for it to come again to where it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rows import STUDY, complete, make_instance, make_workitem, schedule

from node.clockwatch import SLACK, ClockWatch
from storage.index import Index, deliveries, events, instances, studies, workitems
from storage.model import DeliveryState, Event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOURS = timedelta(hours=5)


class Clocks:
    """Time of day, and seconds that nobody sets."""

    def __init__(self) -> None:
        self.day, self.seconds = NOON, 100.0

    def now(self) -> datetime:
        return self.day

    def elapsed(self) -> float:
        return self.seconds

    def run(self, seconds: float) -> None:
        self.day += timedelta(seconds=seconds)
        self.seconds += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def watch(index: Index, clocks: Clocks) -> ClockWatch:
    return ClockWatch(index, actor="node", now=clocks.now, elapsed=clocks.elapsed)


def lines(index: Index) -> list[Event]:
    return list(events.list_events(index, kind="clock-set-back"))


def test_what_is_planned_goes_back_with_the_clock(index: Index, clocks: Clocks) -> None:
    instances.add(index, make_instance(1, at=NOON))
    schedule(index, make_workitem(1, at=NOON))
    claimed = workitems.claim(index, owner="dead", now=NOON, lease_s=60)
    assert claimed is not None
    watching = watch(index, clocks)
    watching.begin()
    clocks.run(1)
    clocks.day -= HOURS
    assert (
        workitems.claim(index, owner="node", now=clocks.day + timedelta(hours=1), lease_s=60)
        is None
    )
    watching.look()
    assert studies.get(index, STUDY).last_received_at < NOON - timedelta(hours=4)
    assert workitems.claim(index, owner="node", now=clocks.day, lease_s=60) is None
    clocks.run(61)
    again = workitems.claim(index, owner="node", now=clocks.day, lease_s=60)
    assert again is not None
    (line,) = lines(index)
    assert (line.at, line.detail["seconds"]) == (NOON + timedelta(seconds=1) - HOURS, 5 * 3600)
    watching.look()
    assert len(lines(index)) == 1


def test_a_delivery_is_due_again_after_its_own_wait(index: Index, clocks: Clocks) -> None:
    workitem = make_workitem(1, at=NOON)
    schedule(index, workitem)
    complete(index, workitem)
    (delivery, *_) = deliveries.list_deliveries(index)
    deliveries.settle(
        index,
        delivery_id=delivery.delivery_id,
        state=DeliveryState.PENDING,
        status=None,
        message="no answer",
        next_attempt_at=NOON + timedelta(seconds=90),
        now=NOON,
    )
    watching = watch(index, clocks)
    clocks.day -= HOURS
    watching.look()
    again = deliveries.get(index, delivery.delivery_id)
    assert again.next_attempt_at == clocks.day + timedelta(seconds=90)


def test_a_clock_set_back_while_no_node_ran_is_noticed_at_the_start(
    index: Index, clocks: Clocks
) -> None:
    instances.add(index, make_instance(1, at=NOON))
    events.add(index, Event(kind="node-stopped", actor="node", at=NOON))
    clocks.day -= HOURS
    watch(index, clocks).begin()
    assert studies.get(index, STUDY).last_received_at == clocks.day
    assert [line.detail["rows"] for line in lines(index)] == [1]
    # Once: the log ends with a line of the new time.
    watch(index, clocks).begin()
    assert len(lines(index)) == 1


@pytest.mark.parametrize("by", [-HOURS, timedelta(), SLACK])
def test_a_clock_that_is_set_forward_or_hardly_changes_nothing(
    index: Index, clocks: Clocks, by: timedelta
) -> None:
    instances.add(index, make_instance(1, at=NOON))
    watching = watch(index, clocks)
    watching.begin()
    clocks.run(10)
    clocks.day -= by
    watching.look()
    assert lines(index) == []
    assert studies.get(index, STUDY).last_received_at == NOON
