"""What a run needs, out of the archive; evidence that it made, into the archive."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.errors import PipelineError
from pipelines.evidence.request import EvidenceObject
from storage.archive import Archive, make_key, new_digest
from storage.model import Evidence, utcnow

#: PS3.10 7.1: preamble, prefix, then the group length of the file meta information, which counts from its end: here.
_META_AT = 144
#: How the names of workers' own archives begin.
OUTBOX = "outbox-"


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
    digest = _digest(content)
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


@contextmanager
def local_inputs(
    archive: Archive, inputs: Mapping[str, Sequence[str]], *, scratch: Path
) -> Iterator[Mapping[str, tuple[Path, ...]]]:
    """Role -> files of its instances on this machine, for the time being."""
    with ExitStack() as stack:
        yield {
            role: tuple(stack.enter_context(archive.local_files(keys, scratch=scratch)))
            for role, keys in inputs.items()
        }


def take_over(
    archive: Archive, evidence: Sequence[Evidence], outbox: Path, *, scratch: Path
) -> None:
    """File what a worker left in its own archive, and remove that one.

    The worker runs code of others: what it says is held against what lies there.

    Raises
    ------
    PipelineError
        Code `evidence-altered`.
    ArchiveError
        When a file cannot be read or written.
    """
    in_scratch = outbox.resolve().is_relative_to(scratch.resolve())
    if not (in_scratch and outbox.name.startswith(OUTBOX)):
        raise PipelineError(
            "The worker left evidence outside of its folder.", code="evidence-altered"
        )
    try:
        left = Archive(str(outbox))
        for item in evidence:
            content = memoryview(b"")
            if left.size(item.archive_key) == item.size:
                with left.open(item.archive_key) as file:
                    content = memoryview(file.read())
            if not _is(content, item):
                raise PipelineError(
                    f"The {item.kind} that the worker left is not what it said it made.",
                    code="evidence-altered",
                )
            archive.write(item.sop_instance_uid, item.digest, [content])
    finally:
        shutil.rmtree(outbox, ignore_errors=True)


def _is(content: memoryview, said: Evidence) -> bool:
    return (
        len(content) == said.size
        and len(content) > _META_AT
        and _digest(content) == said.digest
        and make_key(said.sop_instance_uid, said.digest) == said.archive_key
    )


def _digest(content: memoryview) -> str:
    (meta_length,) = struct.unpack_from("<I", content, _META_AT - 4)
    return new_digest().update(content[_META_AT + meta_length :]).hexdigest()
