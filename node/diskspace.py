"""How much room the disk has, and what is refused before it is full.

Full disks lose no instance here (0xA700 is answered), but a sender that is told so in time goes elsewhere: below the
first mark no association is accepted, below the second an instance is refused even on one that is open. What
is left then is for the index, for results, and for an administrator.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import structlog

from node.config import DiskSection
from storage.archive import Archive
from storage.errors import ArchiveError, StorageError
from storage.index import Index, events
from storage.model import Event, utcnow

#: Seconds for which an answer of the file system holds.
_HOLDS_S = 0.5
#: Room that must be there beyond a mark before it counts as passed upwards: no flutter, no log full of it.
_MARGIN = 1.05

log = structlog.get_logger(__name__)


class Room(StrEnum):
    """What may be accepted."""

    ENOUGH = "enough"
    #: No new associations.
    LOW = "low"
    #: No instances.
    FULL = "full"


def free_bytes(archive: Archive, data: Path) -> int | None:
    """Bytes free where the archive lies, or where the index does, whichever has less; None where nobody can say."""
    known = [archive.free_bytes(), shutil.disk_usage(data).free if data.is_dir() else None]
    return min((free for free in known if free is not None), default=None)


def judge(free: int, marks: DiskSection, before: Room) -> Room:
    """How much room so many free bytes are; it gets better only by a margin."""
    for room, mark_mb in ((Room.FULL, marks.full_mb), (Room.LOW, marks.low_mb)):
        was_worse = before is Room.FULL or before is room
        if free < mark_mb * 1e6 * (_MARGIN if was_worse else 1.0):
            return room
    return Room.ENOUGH


class DiskWatch:
    """Asks the file system at most twice a second, and says once when the answer is another.

    Parameters
    ----------
    free_bytes
        Bytes free, or None where nobody can say: then there is always enough.
    """

    def __init__(
        self, marks: DiskSection, free_bytes: Callable[[], int | None], index: Index, *, actor: str
    ) -> None:
        self._marks = marks
        self._free_bytes = free_bytes
        self._index = index
        self._actor = actor
        self._lock = threading.Lock()
        self._room = Room.ENOUGH
        self._asked_at = float("-inf")

    def room(self) -> Room:
        """What may be accepted now."""
        with self._lock:
            now = time.monotonic()
            if now - self._asked_at < _HOLDS_S:
                return self._room
            self._asked_at = now
            try:
                free = self._free_bytes()
            except (ArchiveError, OSError) as error:
                log.warning("free_space_unknown", reason=str(error))
                return self._room
            before, self._room = self._room, Room.ENOUGH
            if free is not None:
                self._room = judge(free, self._marks, before)
            room = self._room
        if room is not before:
            self._say(room, free or 0)
        return room

    def _say(self, room: Room, free: int) -> None:
        free_mb = free // 1_000_000
        say = log.info if room is Room.ENOUGH else log.error
        say(f"disk_{room}", free_mb=free_mb)
        event = Event(
            kind=f"disk-{room}",
            actor=self._actor,
            at=utcnow(),
            outcome="success" if room is Room.ENOUGH else "failure",
            detail={"free_mb": free_mb},
        )
        try:
            events.add(self._index, event)
        except StorageError as error:
            # A full disk may be why.
            log.warning("event_not_written", kind=event.kind, reason=str(error))
