"""Windows of rules: what is written, when they are open, and where clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import RuleError
from node.windows import DAYS, parse_window

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


@pytest.mark.parametrize(
    ("window", "when", "is_open"),
    [
        ("", "2026-03-04T12:00", True),
        ("20:00-06:00", "2026-03-04T19:59", False),
        ("20:00-06:00", "2026-03-04T20:00", True),
        ("20:00-06:00", "2026-03-05T05:59", True),
        ("20:00-06:00", "2026-03-05T06:00", False),
        # Friday's night ends on Saturday; Saturday's does not begin.
        ("mon-fri 20:00-06:00", "2026-03-07T05:00", True),
        ("mon-fri 20:00-06:00", "2026-03-07T21:00", False),
        ("mon-fri 20:00-06:00", "2026-03-09T05:00", False),
        ("sat-mon 00:00-24:00", "2026-03-08T12:00", True),
        ("sat-mon 00:00-24:00", "2026-03-10T00:00", False),
        ("12:00-13:00, SUN 08:00-10:00", "2026-03-08T09:00", True),
        ("20:00-24:00", "2026-03-08T23:59", True),
        ("20:00-24:00", "2026-03-09T00:00", False),
    ],
)
def test_open_or_closed(window: str, when: str, is_open: bool) -> None:
    assert parse_window(window).is_open(at(when), BERLIN) is is_open


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-03-04T12:00", "2026-03-04T20:00"),
        ("2026-03-06T06:00", "2026-03-06T20:00"),
        ("2026-03-07T06:00", "2026-03-09T20:00"),
    ],
)
def test_when_it_opens(now: str, opens: str) -> None:
    found = parse_window("mon-fri 20:00-06:00").opens_at(at(now), BERLIN)
    assert found == at(opens)
    assert found.tzinfo is UTC


def test_a_start_that_clocks_skip_is_the_moment_they_jump() -> None:
    # 2026-03-29: 02:00 is followed by 03:00.
    found = parse_window("02:30-05:00").opens_at(at("2026-03-29T00:00"), BERLIN)
    assert found == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    # 2026-10-25: 03:00 is followed by 02:00 again.
    window = parse_window("02:30-05:00")
    first = window.opens_at(at("2026-10-25T00:00"), BERLIN)
    assert first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert not window.is_open(between, BERLIN)
    assert window.opens_at(between, BERLIN) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_the_night_of_a_clock_change_is_as_long_as_the_wall_says() -> None:
    window = parse_window("20:00-06:00")
    start = at("2026-03-28T20:00").astimezone(UTC)
    minutes = sum(window.is_open(start + timedelta(minutes=n), BERLIN) for n in range(20 * 60))
    assert minutes == 9 * 60


def test_stat_is_said_besides_times() -> None:
    assert parse_window("20:00-06:00, STAT").stat
    assert not parse_window("20:00-06:00").stat


@pytest.mark.parametrize(
    "text",
    [
        "night",
        "20-06",
        "25:00-06:00",
        "20:60-21:00",
        "08:00-08:00",
        "24:00-06:00",
        "stat",
        "20:00-",
    ],
)
def test_what_is_no_window_is_told(text: str) -> None:
    with pytest.raises(RuleError, match=r"\d\d:\d\d"):
        parse_window(text)


_MINUTES = st.integers(0, 24 * 60 - 1)


@st.composite
def _windows(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        start = draw(_MINUTES)
        end = draw(_MINUTES.filter(lambda end: end != start))  # noqa: B023 - drawn at once
        days = draw(st.sampled_from(["", *(f"{day} " for day in DAYS), "sat-tue "]))
        parts.append(f"{days}{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}")
    return ", ".join(parts)


@settings(max_examples=60, deadline=None)
@given(
    text=_windows(),
    # Days around a change of clocks; Lord Howe's is of half an hour.
    where=st.sampled_from(
        [
            ("Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC)),
            ("Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)),
            ("America/New_York", datetime(2026, 3, 7, tzinfo=UTC)),
            ("Australia/Lord_Howe", datetime(2026, 4, 3, tzinfo=UTC)),
            ("UTC", datetime(2026, 6, 1, tzinfo=UTC)),
        ]
    ),
    minute=st.integers(0, 3 * 24 * 60),
)
def test_it_opens_at_the_first_open_moment(
    text: str, where: tuple[str, datetime], minute: int
) -> None:
    window, zone = parse_window(text), ZoneInfo(where[0])
    now = where[1] + timedelta(minutes=minute)
    opens = window.opens_at(now, zone)
    expected = now
    while not window.is_open(expected, zone):
        expected += timedelta(minutes=1)
    assert opens == expected
