"""A clock that is set back by hours holds up nothing: what is planned is moved with it.

Set forward, what is due is due earlier, claims run out and are renewed; every step counts once, so no harm is done. Set
back, a study would be quiet, a delivery due, a dead node's claim anyone's only when the clock is again where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from storage.index import Index, clock
from storage.model import utcnow

#: Less is what time servers do every day, and what two nodes on one index differ by.
SLACK = timedelta(seconds=30)

log = structlog.get_logger(__name__)


class ClockWatch:
    """Compares the time of day with a clock that nobody sets.

    Parameters
    ----------
    now, elapsed
        Time of day; seconds since some moment, which only grow.
    """

    def __init__(
        self,
        index: Index,
        *,
        actor: str,
        now: Callable[[], datetime] = utcnow,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._actor = actor
        self._now = now
        self._elapsed = elapsed
        self._seen = now(), elapsed()

    def begin(self) -> None:
        """Look whether it was set back while no node ran: the audit log is of later than now."""
        self._seen = now, _ = self._now(), self._elapsed()
        written = clock.last_written(self._index)
        if written is not None:
            self._judge(written, now)

    def look(self) -> None:
        """Look whether it was set back since the last look."""
        at, since = self._seen
        now, elapsed = self._now(), self._elapsed()
        # What fails is tried again by the next look.
        self._judge(at + timedelta(seconds=elapsed - since), now)
        self._seen = now, elapsed

    def _judge(self, expected: datetime, now: datetime) -> None:
        by = expected - now
        if by > SLACK:
            moved = clock.set_back(self._index, by=by, now=now, actor=self._actor)
            log.warning("clock_set_back", seconds=round(by.total_seconds()), rows=moved)
