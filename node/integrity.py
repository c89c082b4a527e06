"""Whether the archive holds what the index says, and nothing else.

    rows -> files    each row's file is there, and its bytes give the digest that was taken at the door
    files -> rows    each file is named by a row

Both are walked at a bounded rate, so that receiving keeps the disk. What is wrong with a file is marked in the index
and in the audit log; nothing in the archive is touched (`node.repair` does that).
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from pydicom.errors import InvalidDicomError

from node.part10 import FileHead, read_head
from storage.archive import Archive, is_key, make_key, new_digest
from storage.errors import ArchiveError
from storage.index import Index, events, files
from storage.index.files import Place
from storage.model import Event, FileMark, FileOrigin, FileState, HeaderValue, KeptFile, utcnow

#: A file younger than this may be of an instance whose row is being written: a write waits 30 s for a lock at most.
SETTLED_S = 3600.0
_CHUNK = 1 << 20


class FlawKind(StrEnum):
    """What can be wrong."""

    MISSING = "missing"
    DAMAGED = "damaged"
    #: No row names the file, and it is whole.
    ORPHAN = "orphan"
    #: No row names the file, and it is not what its name says.
    ORPHAN_DAMAGED = "orphan-damaged"
    #: The retention policy has decided to remove it, and was interrupted.
    LEFT_OVER = "left-over"
    #: No name of ours.
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """One file that is not as it should be."""

    kind: FlawKind
    #: Its name in the archive.
    archive_key: str
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    #: Which rows name it; None where none does.
    origin: FileOrigin | None = None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a walk found."""

    #: Files whose digest was taken, and their bytes.
    checked: int = 0
    bytes: int = 0
    #: Files that were expected to be gone.
    expired: int = 0
    flaws: tuple[Flaw, ...] = ()
    #: How far the walk over rows came; None: to the end.
    until: Place | None = None

    def counts(self) -> dict[str, int]:
        """Flaws by kind."""
        return dict(Counter(str(flaw.kind) for flaw in self.flaws))


@dataclass(slots=True)
class Pace:
    """Bytes are read no faster than this; ends early when `stopping` is set."""

    #: Bytes a second; 0: as fast as the disk gives them.
    rate: float = 0.0
    stopping: threading.Event = field(default_factory=threading.Event)
    _since: float = field(default_factory=time.monotonic)
    _done: int = 0

    def took(self, count: int) -> None:
        """So many bytes were read: wait until that is no more than the rate allows."""
        self._done += count
        if self.rate:
            ahead = self._done / self.rate - (time.monotonic() - self._since)
            if ahead > 0:
                self.stopping.wait(ahead)


@dataclass(slots=True, kw_only=True)
class Scope:
    """Which rows are walked, how many, and from where."""

    study: str | None = None
    since: datetime | None = None
    after: Place | None = None
    #: Most rows; None: all.
    limit: int | None = None


def verify_rows(  # noqa: PLR0913 - a walk, and who hears of it
    archive: Archive,
    index: Index,
    *,
    scope: Scope,
    pace: Pace,
    actor: str,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Verification:
    """Take the digest of each row's file; mark those that are missing or damaged, unmark those that are whole again."""
    checked = read = expired = 0
    flaws: list[Flaw] = []
    until: Place | None = None
    for place, batch in files.walk(index, after=scope.after, study=scope.study, since=scope.since):
        for file in batch:
            if pace.stopping.is_set():
                return Verification(
                    checked=checked, bytes=read, expired=expired, flaws=tuple(flaws), until=until
                )
            until = Place(origin=file.origin, sop_instance_uid=file.sop_instance_uid)
            on_progress(1)
            if file.state is FileState.EXPIRED:
                expired += 1
                continue
            count, flaw = _look(archive, file, pace)
            checked, read = checked + 1, read + count
            if flaw is not None:
                flaws.append(flaw)
            _mark(index, file, flaw, actor=actor)
        until = place
        if scope.limit is not None and checked + expired >= scope.limit:
            break
    else:
        until = None
    return Verification(
        checked=checked, bytes=read, expired=expired, flaws=tuple(flaws), until=until
    )


def _look(archive: Archive, file: KeptFile, pace: Pace) -> tuple[int, Flaw | None]:
    """Bytes read, and what is wrong."""
    kind, reason, read = FlawKind.DAMAGED, "", 0
    try:
        digest, read = take_digest(archive, file.archive_key, pace)
        if digest != file.digest:
            reason = "Its bytes are not those that were received: its digest is another."
    except (InvalidDicomError, ArchiveError, OSError) as error:
        if archive.exists(file.archive_key):
            reason = f"It cannot be read: {error}"
        else:
            # Damaged and then put aside, it is damaged still.
            was_damaged = file.state is FileState.DAMAGED
            kind = FlawKind.DAMAGED if was_damaged else FlawKind.MISSING
            reason = "The archive has no such file."
    if not reason:
        return read, None
    return read, Flaw(
        kind=kind,
        archive_key=file.archive_key,
        sop_instance_uid=file.sop_instance_uid,
        study_instance_uid=file.study_instance_uid,
        origin=file.origin,
        reason=reason,
    )


def take_digest(archive: Archive, key: str, pace: Pace) -> tuple[str, int]:
    """Digest of the encoded data set of a file, and the file's bytes."""
    digest = new_digest()
    with archive.open(key) as file:
        read = read_head(file).length
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            read += len(chunk)
            pace.took(len(chunk))
    return digest.hexdigest(), read


def is_whole(archive: Archive, key: str, digest: str) -> bool:
    """Whether the file of `key` is there and has this digest."""
    try:
        return take_digest(archive, key, Pace())[0] == digest
    except (InvalidDicomError, ArchiveError, OSError):
        return False


def _mark(index: Index, file: KeptFile, flaw: Flaw | None, *, actor: str) -> None:
    now = utcnow()
    if flaw is not None:
        # It may have expired, or been put aside by a repair, while it was read: `files.mark` looks.
        state = FileState.MISSING if flaw.kind is FlawKind.MISSING else FileState.DAMAGED
        files.mark(
            index,
            FileMark(
                archive_key=file.archive_key,
                sop_instance_uid=file.sop_instance_uid,
                study_instance_uid=file.study_instance_uid,
                state=state,
                at=now,
                reason=flaw.reason,
            ),
            actor=actor,
        )
    elif file.state in (FileState.MISSING, FileState.DAMAGED):
        files.clear(index, file, actor=actor, at=now)


# -- files without a row --------------------------------------------------------------------------


def verify_files(  # noqa: PLR0913 - a walk, and who hears of it
    archive: Archive,
    index: Index,
    *,
    folders: Sequence[str],
    pace: Pace,
    settled_s: float = SETTLED_S,
    on_progress: Callable[[int], None] = lambda count: None,
) -> tuple[Flaw, ...]:
    """Files that no row names, and those the retention policy has left over.

    Parameters
    ----------
    folders
        Which of `archive.folders()`.
    settled_s
        Younger files are left alone: their row may be on its way.
    """
    return tuple(
        flaw
        for folder in folders
        if not pace.stopping.is_set()
        for flaw in _look_at_folder(archive, index, folder, pace, settled_s, on_progress)
    )


def _look_at_folder(  # noqa: PLR0913, PLR0917 - one step of the walk
    archive: Archive,
    index: Index,
    folder: str,
    pace: Pace,
    settled_s: float,
    on_progress: Callable[[int], None],
) -> Iterator[Flaw]:
    heads: dict[str, FileHead | None] = {}
    for name, age_s in archive.list_folder(folder):
        if not is_key(name):
            yield Flaw(kind=FlawKind.FOREIGN, archive_key=name, reason="It is no file of ours.")
        elif age_s >= settled_s:
            heads[name] = _read_head(archive, name)
            pace.took(4096)
    uids = [head.sop_instance_uid for head in heads.values() if head is not None]
    named: dict[str, KeptFile] = {}
    for start in range(0, len(uids), 1000):
        named |= files.known(index, uids[start : start + 1000])
    for key, head in heads.items():
        row = named.get(key)
        if row is None:
            flaw = _orphan(archive, key, head, pace)
            if flaw is not None:
                yield flaw
        elif row.state is FileState.EXPIRED:
            reason = "It has expired; its removal was interrupted."
            yield Flaw(
                kind=FlawKind.LEFT_OVER,
                archive_key=key,
                sop_instance_uid=row.sop_instance_uid,
                study_instance_uid=row.study_instance_uid,
                origin=row.origin,
                reason=reason,
            )
    on_progress(1)


def _orphan(archive: Archive, key: str, head: FileHead | None, pace: Pace) -> Flaw | None:
    uid = head.sop_instance_uid if head else ""
    try:
        digest = take_digest(archive, key, pace)[0] if head else ""
    except (InvalidDicomError, ArchiveError, OSError):
        digest = ""
    if not archive.exists(key):
        return None  # it was removed, or put aside, meanwhile
    # The name is made of UID and digest: a file needs no row to be proven.
    whole = make_key(uid, digest) == key
    return Flaw(
        kind=FlawKind.ORPHAN if whole else FlawKind.ORPHAN_DAMAGED,
        archive_key=key,
        sop_instance_uid=uid,
        reason="No row names it."
        if whole
        else "No row names it, and its bytes are not what its name says.",
    )


def _read_head(archive: Archive, key: str) -> FileHead | None:
    try:
        with archive.open(key) as file:
            return read_head(file)
    except (InvalidDicomError, ArchiveError, OSError):
        return None


# -- a share each night ---------------------------------------------------------------------------

VERIFIED = "archive-verified"


def verify_share(
    archive: Archive, index: Index, *, nights: int, pace: Pace, actor: str
) -> Verification:
    """Verify a share, from where the last one ended, so that `nights` of them are the whole archive; audited."""
    after, first = _last_place(index)
    scope = Scope(after=after, limit=max(1, math.ceil(files.count(index) / nights)))
    found = verify_rows(archive, index, scope=scope, pace=pace, actor=actor)
    folders = archive.folders()
    share = math.ceil(len(folders) / nights)
    chosen = [folders[(first + n) % len(folders)] for n in range(share)]
    orphans = verify_files(archive, index, folders=chosen, pace=pace)
    found = replace(found, flaws=(*found.flaws, *orphans))
    note(index, found, actor=actor, next_folder=(first + share) % len(folders))
    return found


def _last_place(index: Index) -> tuple[Place | None, int]:
    """Where the last share ended: the row, and the folder that is next."""
    for event in reversed(events.list_events(index, kind=VERIFIED, limit=100)):
        if "next_folder" in event.detail:
            origin, uid = event.detail.get("until_origin"), event.detail.get("until")
            place = (
                Place(origin=FileOrigin(str(origin)), sop_instance_uid=str(uid)) if uid else None
            )
            return place, int(event.detail["next_folder"] or 0)
    return None, 0


def note(index: Index, found: Verification, *, actor: str, next_folder: int | None = None) -> None:
    """The line of the audit log about a walk."""
    detail: dict[str, HeaderValue] = {
        "checked": found.checked,
        "bytes": found.bytes,
        "expired": found.expired,
        **found.counts(),
    }
    if next_folder is not None:
        detail["next_folder"] = next_folder
        if found.until is not None:
            detail |= {
                "until_origin": found.until.origin.value,
                "until": found.until.sop_instance_uid,
            }
    events.add(
        index,
        Event(
            kind=VERIFIED,
            actor=actor,
            at=utcnow(),
            outcome="failure" if found.flaws else "success",
            detail=detail,
        ),
    )
