"""When each workitem of the queue will start, from measured run times. Pure.

The queue is played forward: whenever a worker is free it takes the first that may start (its time has come, its window
is open, its pipeline is below its limit), as `storage.index.turns.next_in_turn` does. New studies are not foreseen.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from statistics import fmean

from node.windows import parse_window
from storage.index.turns import Queued
from storage.model import WorkitemState


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What the queue is worked off with."""

    #: Runs at once.
    workers: int
    #: Pipeline -> the most of its runs at once.
    limits: Mapping[str, int]
    #: Pipeline -> seconds of a run, measured.
    run_s: Mapping[str, float]
    zone: tzinfo


@dataclass(slots=True)
class _Play:
    """The state of the game: what runs until when, and what waits, in the queue's order."""

    capacity: Capacity
    at: datetime
    waiting: list[Queued]
    #: When each run ends, and of which pipeline it is; a heap.
    running: list[tuple[datetime, str]] = field(default_factory=list)

    def begin(self, one: Queued, since: datetime) -> bool:
        """Let it run from then on; False when nobody knows how long."""
        run_s = self.capacity.run_s
        took = run_s.get(one.pipeline, fmean(run_s.values()) if run_s else None)
        if took is not None:
            ends = max(self.at, since + timedelta(seconds=took))
            heapq.heappush(self.running, (ends, one.pipeline))
        return took is not None

    def take(self) -> Queued | None:
        """The first that may start now, taken from what waits; else time goes on to when one may, or None for ever."""
        while self.waiting:
            later = [self.running[0][0]] if self.running else []
            if len(self.running) < self.capacity.workers:
                for one, start in self._able():
                    if start <= self.at:
                        self.waiting.remove(one)
                        return one
                    later.append(start)
            if not later:
                return None  # a limit of 0
            self.at = min(later)
            while self.running and self.running[0][0] <= self.at:
                heapq.heappop(self.running)
        return None

    def _able(self) -> Iterator[tuple[Queued, datetime]]:
        """What its pipeline's limit lets start, and when it may."""
        busy = Counter(pipeline for _, pipeline in self.running)
        opens: dict[str, datetime] = {}
        for one in self.waiting:
            most = self.capacity.limits.get(one.pipeline)
            if most is not None and busy[one.pipeline] >= most:
                continue
            start = max(self.at, one.not_before or self.at)
            if one.window is not None:
                if one.window not in opens or start > self.at:
                    opens[one.window] = parse_window(one.window).opens_at(start, self.capacity.zone)
                start = max(start, opens[one.window])
            yield one, start


def forecast(queue: Sequence[Queued], capacity: Capacity, *, now: datetime) -> dict[str, datetime]:
    """Workitem UID -> when it will start; those that are held, or of which nothing can be said, are left out.

    A pipeline that never ran is taken to need as long as the others of the queue do on average; where none ever ran,
    nothing is said of what must wait for a worker.
    """
    starts: dict[str, datetime] = {}
    waiting = [one for one in queue if one.state is WorkitemState.SCHEDULED and not one.held]
    play = _Play(capacity=capacity, at=now, waiting=waiting)
    under_way = [one for one in queue if one.state is WorkitemState.IN_PROGRESS]
    known = all([play.begin(one, one.started_at or now) for one in under_way])
    while known and capacity.workers and (taken := play.take()) is not None:
        starts[taken.workitem_uid] = play.at
        known = play.begin(taken, play.at)
    return starts
