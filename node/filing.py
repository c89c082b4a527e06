"""Evidence that was made, into the archive."""

from __future__ import annotations

import struct

from pipelines.evidence.request import EvidenceObject
from storage.archive import Archive, new_digest
from storage.model import Evidence, utcnow


def file_evidence(
    archive: Archive, item: EvidenceObject, *, workitem_uid: str, rejects: tuple[str, ...] = ()
) -> Evidence:
    """Write one instance. Its UID and content derive from the workitem: twice is once.

    Parameters
    ----------
    rejects
        Of a rejection note: the SOP Instance UIDs it names.
    """
    ds, content = item.ds, memoryview(item.encoded)
    # PS3.10 7.1: preamble, prefix, then the group length of the file meta information, which ends at byte 144.
    (meta_length,) = struct.unpack_from("<I", content, 140)
    digest = new_digest().update(content[144 + meta_length :]).hexdigest()
    return Evidence(
        sop_instance_uid=str(ds.SOPInstanceUID),
        sop_class_uid=str(ds.SOPClassUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
        workitem_uid=workitem_uid,
        kind=item.kind,
        archive_key=archive.write(str(ds.SOPInstanceUID), digest, [content]),
        size=len(content),
        digest=digest,
        created_at=utcnow(),
        profiles=item.profiles,
        proof=item.residuals,
        rejects=rejects,
    )
