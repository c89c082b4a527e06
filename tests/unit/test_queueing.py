"""The queue: who waits how long, and that a simulation agrees with what one can count by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.queueing import Job, simulate, summarise


def jobs(*made: tuple[float, float] | tuple[float, float, int]) -> list[Job]:
    return [Job(at=one[0], seconds=one[1], priority=one[2] if len(one) > 2 else 50) for one in made]


def test_one_worker_takes_one_after_the_other() -> None:
    assert simulate(jobs((0, 10), (1, 10), (30, 10)), workers=1) == [0, 9, 0]


def test_two_workers_take_two() -> None:
    assert simulate(jobs((0, 10), (1, 10), (2, 10)), workers=2) == [0, 0, 8]


def test_the_urgent_overtakes_but_stops_nobody() -> None:
    held = jobs((0, 10), (1, 10, 10), (2, 10, 90))
    assert simulate(held, workers=1) == [0, 19, 8]


def test_the_order_of_the_list_is_no_order_of_time() -> None:
    assert simulate(jobs((5, 1), (0, 10)), workers=1) == [5, 0]


TIMES = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(0, 3)), max_size=30)


@given(TIMES, st.integers(1, 4))
def test_no_worker_does_two_things_and_none_rests_beside_a_queue(
    made: list[tuple[int, int, int]], workers: int
) -> None:
    held = jobs(*made)
    delays = simulate(held, workers=workers)
    assert all(delay >= 0 for delay in delays)
    spans = [(j.at + d, j.at + d + j.seconds) for j, d in zip(held, delays, strict=True)]
    for start, _ in spans:
        assert sum(a <= start < b for a, b in spans) <= workers
    for job, delay in zip(held, delays, strict=True):
        if delay:
            # Just before it began all workers were busy.
            before = job.at + delay - 0.5
            assert sum(a <= before < b for a, b in spans) == workers


def test_a_summary_is_of_what_was_waited() -> None:
    told = summarise([float(n) for n in range(100)])
    assert told is not None
    assert (told.runs, told.median_s, told.p95_s, told.most_s) == (100, 50, 95, 99)
    assert summarise([]) is None
