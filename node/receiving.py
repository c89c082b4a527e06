"""One instance's way in: file, header, row, then the answer. The durable path, in one place.

`0x0000` is answered after the file is whole and synced and its row is committed, and for no other reason: an instance
the sender was told we have is never lost. A failure of ours is answered as out of resources, so that it comes again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog

from node.elements import BeyondError
from node.errors import ReceiveError
from node.header import DOES_NOT_MATCH, UID_INVALID, ParsedHeader, read_header
from node.integrity import is_whole
from node.ownership import is_own
from node.part10 import encode_file_meta
from storage.archive import Archive, Draft, explained
from storage.errors import ArchiveError, ArchiveFull, StorageError
from storage.index import Index, instances
from storage.model import AddOutcome, Instance, utcnow

SUCCESS = 0x0000
#: PS3.4 Table B.2-1: Refused: Out of Resources. A sender may try again.
OUT_OF_RESOURCES = 0xA700

_UUID_ROOT = "2.25"
#: What is written into the file before its data set is there to compare.
_UID = re.compile(r"[0-9.]{1,64}")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a C-STORE request says of the data set that follows it."""

    #: Affected SOP Class UID and Affected SOP Instance UID of the request (PS3.7 9.1.1.1).
    sop_class_uid: str
    sop_instance_uid: str
    #: What the presentation context agreed on.
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of it."""

    #: DIMSE status to answer.
    status: int
    #: None when it was refused before its header was understood.
    study_instance_uid: str | None = None
    #: None when it was refused.
    outcome: AddOutcome | None = None


class Incoming:
    """One instance while it comes in: what comes is written to the disk, and what it was is judged at the end.

    Ends with `finish` or `abandon`. Raises nothing a sender or a disk can cause.

    Parameters
    ----------
    uid_root
        Root of the UIDs this node makes: when it is the hospital's own, an instance below it is one of ours.
    """

    def __init__(
        self, received: Received, archive: Archive, index: Index, *, uid_root: str = _UUID_ROOT
    ) -> None:
        self._received = received
        self._archive = archive
        self._index = index
        self._uid_root = uid_root
        #: Why it is not kept; what still comes of it is not written.
        self._failure: ReceiveError | StorageError = ArchiveError("It did not come.")
        self._draft: Draft | None = None
        try:
            self._draft = archive.draft(_file_meta(received))
        except (ReceiveError, StorageError) as error:
            self._failure = error

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """The next bytes of the encoded data set."""
        if self._draft is None:
            return
        try:
            with explained("write"):
                self._draft.write(parts)
        except StorageError as error:
            self._failure = error
            self.abandon()

    def abandon(self) -> None:
        """Nothing more will come."""
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    def finish(self) -> Receipt:
        """Keep it, durably, and say which status to answer."""
        study: str | None = None
        try:
            if self._draft is None:
                raise self._failure
            parsed = self._read(self._draft)
            study = parsed.study_instance_uid
            outcome = self._keep(self._draft, parsed)
        except ReceiveError as error:
            self._log().warning(
                "instance_refused", status=f"0x{error.status:04X}", reason=str(error)
            )
            return Receipt(status=error.status)
        except StorageError as error:
            event = "archive_full" if isinstance(error, ArchiveFull) else "instance_not_kept"
            self._log().error(event, status=f"0x{OUT_OF_RESOURCES:04X}", reason=str(error))
            return Receipt(status=OUT_OF_RESOURCES, study_instance_uid=study)
        finally:
            self.abandon()
        if outcome is AddOutcome.CONFLICT:
            self._log().warning("instance_conflict", sop_instance_uid=parsed.sop_instance_uid)
        return Receipt(status=SUCCESS, study_instance_uid=study, outcome=outcome)

    def _read(self, draft: Draft) -> ParsedHeader:
        syntax, start = self._received.transfer_syntax_uid, draft.start
        try:
            parsed = read_header(syntax, draft.beginning, start=start, size=draft.size)
        except BeyondError:
            with explained("read"), draft.reading() as content:
                parsed = read_header(syntax, content, start=start)
        _check_match(self._received, parsed)
        return parsed

    def _keep(self, draft: Draft, parsed: ParsedHeader) -> AddOutcome:
        """File whole and synced, then row committed.

        Of an instance that is known the file is looked at: one that is damaged, or expired a moment ago, is replaced.
        """
        received = self._received
        uid, digest = parsed.sop_instance_uid, draft.digest
        key = self._archive.keep(draft, uid)
        outcome = instances.add(
            self._index,
            Instance(
                sop_instance_uid=uid,
                sop_class_uid=parsed.sop_class_uid,
                series_instance_uid=parsed.series_instance_uid,
                study_instance_uid=parsed.study_instance_uid,
                transfer_syntax_uid=received.transfer_syntax_uid,
                archive_key=key,
                # This content may be held already, with another sender in its meta information.
                size=draft.size if draft.is_kept else self._archive.size(key),
                digest=digest,
                calling_ae=received.calling_ae,
                called_ae=received.called_ae,
                received_at=utcnow(),
                header=parsed.header,
                own=is_own(parsed, self._index, self._uid_root),
            ),
        )
        if outcome is AddOutcome.DUPLICATE and not is_whole(self._archive, key, digest):
            with suppress(ArchiveError):  # there may be none
                self._archive.set_aside(key)
            self._archive.keep(draft, uid)
        return outcome

    def _log(self) -> structlog.stdlib.BoundLogger:
        return cast(
            structlog.stdlib.BoundLogger,
            _log.bind(
                calling_ae=self._received.calling_ae,
                sop_class_uid=self._received.sop_class_uid,
                transfer_syntax_uid=self._received.transfer_syntax_uid,
            ),
        )


def receive(
    received: Received,
    data: bytes,
    archive: Archive,
    index: Index,
    *,
    uid_root: str = _UUID_ROOT,
) -> Receipt:
    """Keep one instance whose encoded data set is in memory: see `Incoming`."""
    incoming = Incoming(received, archive, index, uid_root=uid_root)
    incoming.write((data,))
    return incoming.finish()


def _file_meta(received: Received) -> bytes:
    for uid in (received.sop_class_uid, received.sop_instance_uid):
        if not _UID.fullmatch(uid):
            raise ReceiveError(
                UID_INVALID, "The request names no UIDs (PS3.5 9.1): digits and dots, 64 at most."
            )
    return encode_file_meta(
        sop_class_uid=received.sop_class_uid,
        sop_instance_uid=received.sop_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        source_ae=received.calling_ae,
    )


def _check_match(received: Received, parsed: ParsedHeader) -> None:
    """PS3.4 B.2.3: the data set is of the SOP Class, and is the instance, that the request names."""
    if parsed.sop_class_uid != received.sop_class_uid:
        raise ReceiveError(
            DOES_NOT_MATCH,
            f"(0008,0016) SOPClassUID is {parsed.sop_class_uid}, "
            f"but the request is about {received.sop_class_uid}.",
        )
    if parsed.sop_instance_uid != received.sop_instance_uid:
        raise ReceiveError(
            DOES_NOT_MATCH, "(0008,0018) SOPInstanceUID is another than the request names."
        )
