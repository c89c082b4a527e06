"""Archive and index, made to agree again: what is lost is said, what is there is found, nothing is thrown away.

    a file that no row names      an instance is indexed as if it came again, at the time its file was written;
                                  evidence that no workitem recorded is put aside (its run makes it again)
    a row whose file is missing   marked; the same instance sent again brings it back
    a damaged file                put aside and marked, so that the same instance sent again brings it back
    what has expired              removed, where a kill came between the decision and the removal

A restored older index gets what came after the backup by the first of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import structlog
from pydicom.errors import InvalidDicomError

from node.config import Config
from node.errors import ReceiveError
from node.header import read_header
from node.integrity import Flaw, FlawKind
from node.ownership import is_own
from node.part10 import read_head
from storage.archive import Archive, new_digest
from storage.errors import ArchiveError
from storage.index import Index, events, instances, retention
from storage.model import AddOutcome, Event, Instance, utcnow

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was done about one flaw."""

    flaw: Flaw
    #: One word: indexed, aside, marked, removed, left.
    action: str
    reason: str


def repair(
    config: Config, archive: Archive, index: Index, flaws: Iterable[Flaw], *, actor: str
) -> tuple[Repaired, ...]:
    """Do what can be done about each flaw; audited."""
    done = tuple(_repair(config, archive, index, flaw) for flaw in flaws)
    counts = Counter(one.action for one in done)
    events.add(
        index,
        Event(kind="archive-repaired", actor=actor, at=utcnow(), detail=dict(counts)),
    )
    return done


def _repair(config: Config, archive: Archive, index: Index, flaw: Flaw) -> Repaired:
    try:
        action, reason = _act(config, archive, index, flaw)
    except (ReceiveError, ArchiveError, InvalidDicomError, OSError) as error:
        log.warning("file_not_repaired", archive_key=flaw.archive_key, reason=str(error))
        action, reason = "left", str(error)
    return Repaired(flaw=flaw, action=action, reason=reason)


def _act(config: Config, archive: Archive, index: Index, flaw: Flaw) -> tuple[str, str]:
    match flaw.kind:
        case FlawKind.MISSING:
            done = "marked", "Send the instance again: nothing else has it."
        case FlawKind.DAMAGED | FlawKind.ORPHAN_DAMAGED:
            done = _put_aside(archive, flaw)
        case FlawKind.ORPHAN:
            done = _adopt(config, archive, index, flaw)
        case FlawKind.LEFT_OVER:
            removed = retention.remove_expired(index, [flaw.archive_key], archive.delete)
            done = ("removed", flaw.reason) if removed else ("left", "It came back meanwhile.")
        case _:
            done = "left", "It is no file of ours: whoever put it there must take it away."
    return done


def _put_aside(archive: Archive, flaw: Flaw) -> tuple[str, str]:
    if not archive.exists(flaw.archive_key):
        return "marked", "It was put aside before. Send the instance again."
    where = archive.set_aside(flaw.archive_key)
    again = " Send the instance again." if flaw.kind is FlawKind.DAMAGED else ""
    return "aside", f"{flaw.reason} It lies in {where}.{again}"


def _adopt(config: Config, archive: Archive, index: Index, flaw: Flaw) -> tuple[str, str]:
    """Index a whole file that no row names as the instance it is."""
    with archive.open(flaw.archive_key) as file:
        head = read_head(file)
        data = file.read()
    parsed = read_header(head.transfer_syntax_uid, data)
    # What is received says who sent it (0002,0016); what a worker files says nobody.
    if parsed.is_evidence and not head.source_ae:
        # Never recorded: its run was cut off, made it again, or will. Made again, it is written again.
        return (
            "aside",
            f"Evidence that no workitem recorded. It lies in {archive.set_aside(flaw.archive_key)}.",
        )
    outcome = instances.add(
        index,
        Instance(
            sop_instance_uid=parsed.sop_instance_uid,
            sop_class_uid=parsed.sop_class_uid,
            series_instance_uid=parsed.series_instance_uid,
            study_instance_uid=parsed.study_instance_uid,
            transfer_syntax_uid=head.transfer_syntax_uid,
            archive_key=flaw.archive_key,
            size=head.length + len(data),
            digest=new_digest().update(data).hexdigest(),
            calling_ae=head.source_ae,
            # Who it was sent to stands in no file.
            called_ae=config.node.ae_title,
            received_at=archive.written_at(flaw.archive_key),
            header=parsed.header,
            own=is_own(parsed, index, config.node.uid_root),
        ),
    )
    if outcome is AddOutcome.CONFLICT:
        return "indexed", "Kept beside the content that counts under its UID."
    return "indexed", "Its study has news."
