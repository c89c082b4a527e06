"""How long runs wait for a worker: a simulation of the queue. Pure.

Workers take the most urgent run that has come, of equals the one that came first, and finish it (as
`storage.index.workitems.claim`).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run that comes at a time and takes a while, both in seconds."""

    at: float
    seconds: float
    priority: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """How long runs waited, seconds."""

    runs: int
    median_s: float
    #: Nineteen of twenty waited no longer.
    p95_s: float
    most_s: float


def simulate(jobs: Sequence[Job], *, workers: int) -> list[float]:
    """Seconds that each job waits for one of `workers`, in the order given."""
    delays = [0.0] * len(jobs)
    arriving = sorted(range(len(jobs)), key=lambda n: jobs[n].at)
    free = [float("-inf")] * workers
    waiting: list[tuple[int, float, int]] = []
    next_up = 0
    while next_up < len(arriving) or waiting:
        at = free[0]
        if not waiting:
            at = max(at, jobs[arriving[next_up]].at)
        while next_up < len(arriving) and jobs[arriving[next_up]].at <= at:
            n = arriving[next_up]
            heapq.heappush(waiting, (-jobs[n].priority, jobs[n].at, n))
            next_up += 1
        _, came, n = heapq.heappop(waiting)
        start = max(at, came)
        delays[n] = start - came
        heapq.heapreplace(free, start + jobs[n].seconds)
    return delays


def summarise(delays: Sequence[float]) -> Delay | None:
    """Median, 95th percentile (nearest rank) and maximum; None where nothing waited."""
    if not delays:
        return None
    ordered = sorted(delays)

    def rank(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Delay(runs=len(ordered), median_s=rank(0.5), p95_s=rank(0.95), most_s=ordered[-1])
