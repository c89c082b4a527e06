"""When a rule's workitems may start: `mon-fri 20:00-06:00, sat-sun 00:00-24:00, stat`. Pure.

    20:00-06:00            every day from 20:00 to 06:00 of the next; the end is no part of it
    mon-fri 20:00-06:00    on these days, or nights that begin on them; also `sat 08:00-12:00`
    stat                   besides, a study whose header says STAT starts at any time

Times are those on the wall of the node's time zone. When clocks change the wall counts: a time that is skipped is taken
for the first moment after it, an hour that comes twice is in a window twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from node.errors import RuleError

#: As `datetime.weekday` counts.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
STAT = "stat"

_DAY_MIN = 24 * 60
_DAY = "|".join(DAYS)
_SPAN = re.compile(
    rf"(?:(?P<first>{_DAY})(?:-(?P<last>{_DAY}))? +)?"
    r"(?P<start>\d{1,2}:\d\d) *- *(?P<end>\d{1,2}:\d\d)"
)
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From `start` to `end`, minutes of the day; it ends on the next day when `end` is not after `start`."""

    days: frozenset[int]
    start: int
    end: int

    def covers(self, local: datetime) -> bool:
        """Whether it is open at a time on the wall."""
        minute, today = local.hour * 60 + local.minute, local.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        began_yesterday = (today - 1) % 7 in self.days and minute < self.end
        return (today in self.days and minute >= self.start) or began_yesterday


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Open while one of its spans is; without spans, always."""

    spans: tuple[Span, ...]
    #: A STAT study need not wait for it.
    stat: bool

    def is_open(self, now: datetime, zone: tzinfo) -> bool:
        """Whether a workitem may start at an aware time."""
        local = now.astimezone(zone)
        return not self.spans or any(span.covers(local) for span in self.spans)

    def opens_at(self, now: datetime, zone: tzinfo) -> datetime:
        """The first moment from `now` on at which it is open, UTC."""
        if self.is_open(now, zone):
            return now.astimezone(UTC)
        today = now.astimezone(zone).date()
        # Yesterday's date too: clocks may be set back over midnight. A span opens within a week.
        days = (today + timedelta(days=n) for n in range(-1, 9))
        starts = (moment for day in days for s in self.spans for moment in _starts(s, day, zone))
        return min(start for start in starts if start > now and self.is_open(start, zone))


def parse_window(text: str) -> Window:
    """Read a window; the empty text is open always.

    Raises
    ------
    RuleError
        Naming the part that cannot be read, and how it is written.
    """
    spans: list[Span] = []
    stat = False
    for part in filter(None, (one.strip().lower() for one in text.split(","))):
        if part == STAT:
            stat = True
        else:
            spans.append(_parse_span(part))
    if text.strip() and not spans:
        raise RuleError(f"{text!r} names no time; a window is as `20:00-06:00, {STAT}`.")
    return Window(spans=tuple(spans), stat=stat)


def _parse_span(text: str) -> Span:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise RuleError(
            f"{text!r} is no time window; write 20:00-06:00, mon-fri 20:00-06:00, sat 08:00-12:00 or {STAT}, "
            "several separated by commas."
        )
    start, end = _minutes(found["start"]), _minutes(found["end"])
    if start in (end, _DAY_MIN):
        raise RuleError(f"{text!r} ends where it begins; all day is 00:00-24:00.")
    days = range(7)
    if found["first"]:
        first = DAYS.index(found["first"])
        days = range(first, first + (DAYS.index(found["last"] or found["first"]) - first) % 7 + 1)
    return Span(days=frozenset(day % 7 for day in days), start=start, end=end)


def _minutes(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MIN:
        raise RuleError(f"{text!r} is no time of day; 00:00 to 24:00.")
    return hours * 60 + minutes


def _starts(span: Span, day: date, zone: tzinfo) -> list[datetime]:
    """When a span may begin on a day, UTC: the start on the wall, and each minute between its two readings.

    There are two where the clocks change over it (PEP 495): set forward, it begins when they jump, which lies between
    the readings; set back, at both.
    """
    if day.weekday() not in span.days:
        return []
    wall = datetime.combine(day, time(span.start // 60, span.start % 60), tzinfo=zone)
    first, last = sorted(wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    minutes = int((last - first) / _MINUTE)
    return [first + n * _MINUTE for n in range(minutes + 1)]
