"""One instance's way in: header, file, row, then the answer. The durable path, in one place.

`0x0000` is answered after the file is whole and synced and its row is committed, and for no other reason: an instance
the sender was told we have is never lost. A failure of ours is answered as out of resources, so that it comes again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import structlog

from node.errors import ReceiveError
from node.header import DOES_NOT_MATCH, ParsedHeader, read_header
from node.integrity import is_whole
from node.ownership import is_own
from node.part10 import encode_file_meta
from storage.archive import Archive
from storage.errors import ArchiveError, ArchiveFull, StorageError
from storage.index import Index, instances
from storage.model import AddOutcome, Instance, utcnow

SUCCESS = 0x0000
#: PS3.4 Table B.2-1: Refused: Out of Resources. A sender may try again.
OUT_OF_RESOURCES = 0xA700

_UUID_ROOT = "2.25"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One C-STORE request as it came."""

    #: Affected SOP Class UID and Affected SOP Instance UID of the request (PS3.7 9.1.1.1).
    sop_class_uid: str
    sop_instance_uid: str
    #: What the presentation context agreed on.
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    #: The encoded data set, and its digest in hexadecimal.
    data: bytes
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of it."""

    #: DIMSE status to answer.
    status: int
    #: None when it was refused before its header was understood.
    study_instance_uid: str | None = None
    #: None when it was refused.
    outcome: AddOutcome | None = None


def receive(
    received: Received, archive: Archive, index: Index, *, uid_root: str = _UUID_ROOT
) -> Receipt:
    """Keep one instance, durably, and say which status to answer. Raises nothing a sender can cause.

    Parameters
    ----------
    uid_root
        Root of the UIDs this node makes: when it is the hospital's own, an instance below it is one of ours.
    """
    log = _log.bind(
        calling_ae=received.calling_ae,
        sop_class_uid=received.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
    )
    try:
        parsed = read_header(received.transfer_syntax_uid, received.data)
        _check_match(received, parsed)
    except ReceiveError as error:
        log.warning("instance_refused", status=f"0x{error.status:04X}", reason=str(error))
        return Receipt(status=error.status)
    try:
        outcome = _keep(received, parsed, archive, index, uid_root)
    except StorageError as error:
        event = "archive_full" if isinstance(error, ArchiveFull) else "instance_not_kept"
        log.error(event, status=f"0x{OUT_OF_RESOURCES:04X}", reason=str(error))
        return Receipt(status=OUT_OF_RESOURCES, study_instance_uid=parsed.study_instance_uid)
    if outcome is AddOutcome.CONFLICT:
        log.warning("instance_conflict", sop_instance_uid=parsed.sop_instance_uid)
    return Receipt(status=SUCCESS, study_instance_uid=parsed.study_instance_uid, outcome=outcome)


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


def _keep(
    received: Received, parsed: ParsedHeader, archive: Archive, index: Index, uid_root: str
) -> AddOutcome:
    """File whole and synced, then row committed; the sync of the file's name goes on beside the commit.

    Of an instance that is known the file is looked at: one that is damaged, or expired a moment ago, is replaced.
    """
    meta = encode_file_meta(
        sop_class_uid=parsed.sop_class_uid,
        sop_instance_uid=parsed.sop_instance_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        source_ae=received.calling_ae,
    )
    file = (parsed.sop_instance_uid, received.digest, (meta, received.data))
    with archive.writing(*file) as key:
        outcome = instances.add(
            index,
            Instance(
                sop_instance_uid=parsed.sop_instance_uid,
                sop_class_uid=parsed.sop_class_uid,
                series_instance_uid=parsed.series_instance_uid,
                study_instance_uid=parsed.study_instance_uid,
                transfer_syntax_uid=received.transfer_syntax_uid,
                archive_key=key,
                # As it lies there: this content may be held already, with another sender in its meta information.
                size=archive.size(key),
                digest=received.digest,
                calling_ae=received.calling_ae,
                called_ae=received.called_ae,
                received_at=utcnow(),
                header=parsed.header,
                own=is_own(parsed, index, uid_root),
            ),
        )
    if outcome is AddOutcome.DUPLICATE and not is_whole(archive, key, received.digest):
        with suppress(ArchiveError):  # there may be none
            archive.set_aside(key)
        archive.write(*file)
    return outcome
