"""Fairness as a property: the order of turns is that of priority plus age, and nothing starves."""

from __future__ import annotations

import heapq
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from rows import NOON, later

from storage.index.workitem_rows import turn_of
from storage.model import AGE_S

PRIORITIES = st.integers(-100, 300)
SECONDS = st.integers(0, 10**6)


@given(first=st.tuples(PRIORITIES, SECONDS), second=st.tuples(PRIORITIES, SECONDS), at=SECONDS)
def test_the_turn_is_priority_and_age_at_any_moment(
    first: tuple[int, int], second: tuple[int, int], at: int
) -> None:
    def effective(priority: int, since: int) -> float:
        return priority * AGE_S + (at - since)

    ahead = turn_of(first[0], later(first[1])) < turn_of(second[0], later(second[1]))
    assert ahead == (effective(*first) > effective(*second))


@given(
    routine=st.integers(0, 100),
    urgent=st.integers(0, 200),
    run_s=st.integers(60, 7200),
    per_run=st.integers(1, 3),
    backlog=st.integers(0, 20),
)
def test_whatever_comes_meanwhile_a_workitem_starts_within_a_bound(
    routine: int, urgent: int, run_s: int, per_run: int, backlog: int
) -> None:
    """It waits for what was there, for what came until it had waited off the difference, and for the run under way."""
    mine = (turn_of(routine, NOON), "mine")
    queue = [
        mine,
        *((turn_of(urgent, NOON - timedelta(days=1)), f"old {n}") for n in range(backlog)),
    ]
    heapq.heapify(queue)
    head_start_s = max(0, urgent - routine) * AGE_S
    came_before = (head_start_s // run_s + 1) * per_run
    bound = (backlog + came_before + 1) * run_s
    at = 0
    while True:
        for n in range(per_run):
            heapq.heappush(queue, (turn_of(urgent, later(at)), f"{at} {n}"))
        if heapq.heappop(queue) == mine:
            break
        at += run_s
        assert at <= bound
