"""Watermarks of the disk: what is judged, and said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrations.commands import upgrade
from node import diskspace
from node.config import DiskSection
from node.diskspace import DiskWatch, Room, judge
from storage.index import events, open_index

MARKS = DiskSection(low_mb=2000, full_mb=500)


@pytest.mark.parametrize(
    ("free_mb", "before", "room"),
    [
        (2001, Room.ENOUGH, Room.ENOUGH),
        (1999, Room.ENOUGH, Room.LOW),
        (501, Room.ENOUGH, Room.LOW),
        (499, Room.ENOUGH, Room.FULL),
        # Upwards only by a margin.
        (2050, Room.LOW, Room.LOW),
        (2101, Room.LOW, Room.ENOUGH),
        (520, Room.FULL, Room.FULL),
        (530, Room.FULL, Room.LOW),
        (2050, Room.FULL, Room.LOW),
        (520, Room.LOW, Room.LOW),
    ],
)
def test_marks_are_passed_upwards_by_a_margin(free_mb: int, before: Room, room: Room) -> None:
    assert judge(free_mb * 1_000_000, MARKS, before) is room


def test_marks_of_nothing_refuse_nothing() -> None:
    assert judge(0, DiskSection(low_mb=0, full_mb=0), Room.ENOUGH) is Room.ENOUGH


def test_a_change_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskspace, "_HOLDS_S", 0.0)
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    upgrade(url)
    free: list[int | None] = [
        n and n * 1_000_000 for n in (3000, 1500, 1400, 1500, 400, 300, None, 3000)
    ]
    with open_index(url) as index:
        watch = DiskWatch(MARKS, lambda: free.pop(0), index, actor="node")
        rooms = [watch.room() for _ in range(8)]
        said = [event.kind for event in events.list_events(index)]
    assert rooms == ["enough", "low", "low", "low", "full", "full", "enough", "enough"]
    assert said == ["disk-low", "disk-full", "disk-enough"]
