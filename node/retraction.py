"""What a newer result replaces is retracted where it was sent: IHE RAD IOCM, if the destination's profile wants it.

The note is made when the destination has the whole of the newer result, never before: a PACS without a result is worse
than one with an old one. Its UID derives from what it says, so that it is made once, however often this is asked.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from node.config import Config
from node.filing import file_evidence
from pipelines.errors import PipelineError
from pipelines.evidence.rejection import create_rejection, rejection_kind
from pipelines.uids import derive_sop_instance_uid
from storage.archive import Archive
from storage.errors import ArchiveError
from storage.index import Index, destinations, retractions
from storage.index.retractions import Retraction

#: Any of them has the study and the equipment; a small one is read sooner.
_READ_FIRST = ("SR", "PDF", "KO", "RTSTRUCT", "SC", "SEG")

log = structlog.get_logger(__name__)


def retract(config: Config, archive: Archive, index: Index, *, now: datetime) -> bool:
    """Make, and owe, the rejection notes that are due; whether there was one."""
    profiles = config.evidence.known_profiles
    wanting = [
        one.name
        for one in destinations.list_destinations(index)
        if one.profile in profiles and profiles[one.profile].retract
    ]
    made = [_retract(config, archive, index, one, now) for one in retractions.due(index, wanting)]
    return any(made)


def _retract(
    config: Config, archive: Archive, index: Index, retraction: Retraction, now: datetime
) -> bool:
    root = config.node.uid_root
    uid = derive_sop_instance_uid(
        root, workitem_uid=retraction.workitem_uid, kind=rejection_kind(retraction.rejected)
    )
    if retractions.is_owed(index, uid, retraction.destination):
        return False
    try:
        note = create_rejection(
            _header(config, archive, retraction),
            retraction.rejected,
            uid_root=root,
            workitem_uid=retraction.workitem_uid,
        )
        evidence = file_evidence(
            archive,
            note,
            workitem_uid=retraction.workitem_uid,
            rejects=tuple(one.sop_instance_uid for one in retraction.rejected),
        )
    except (PipelineError, ArchiveError, InvalidDicomError, AttributeError, ValueError) as error:
        # The newer result stands beside the old one; asked again at the next look.
        log.error(
            "rejection_note_not_made",
            workitem=retraction.workitem_uid,
            destination=retraction.destination,
            reason=str(error)
            if isinstance(error, PipelineError | ArchiveError)
            else repr(type(error)),
        )
        return False
    if not retractions.record(index, evidence, retraction.destination, now=now):
        return False
    log.info(
        "retraction_owed",
        workitem=retraction.workitem_uid,
        destination=retraction.destination,
        rejects=len(evidence.rejects),
    )
    return True


def _header(config: Config, archive: Archive, retraction: Retraction) -> Dataset:
    """Of one instance of the newer result."""
    chosen = min(
        retraction.newer,
        key=lambda one: (
            _READ_FIRST.index(one.kind) if one.kind in _READ_FIRST else len(_READ_FIRST),
            one.sop_instance_uid,
        ),
    )
    with archive.local_files([chosen.archive_key], scratch=config.scratch) as (path,):
        return dcmread(path, stop_before_pixels=True)
