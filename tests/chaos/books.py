"""The books after a run: what was answered, what is held, what was made, what the PACS has. Each line must balance."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from peer import Pacs
from senders import Ledger

from node.config import Config
from node.integrity import Flaw, FlawKind, Pace, Scope, verify_files, verify_rows
from node.repair import repair
from storage.archive import Archive
from storage.errors import NotFound
from storage.index import Index, deliveries, instances, studies, workitems
from storage.model import Delivery, DeliveryState, WorkitemState

MOST = 100_000
#: What the PACS has taken.
_TAKEN = (DeliveryState.SENT, DeliveryState.COMMITTED)


def is_settled(index: Index, ledger: Ledger) -> bool:
    """Whether the node has done all there is to do."""
    known = {one.study_instance_uid for one in studies.list_studies(index, limit=MOST)}
    return (
        known >= set(ledger.studies)
        and not studies.to_evaluate(index)
        and all(
            one.state in (WorkitemState.COMPLETED, WorkitemState.CANCELED)
            for one in workitems.list_workitems(index, limit=MOST)
        )
        and not deliveries.list_deliveries(index, state=DeliveryState.PENDING, limit=1)
    )


def imbalances(
    config: Config, archive: Archive, index: Index, ledger: Ledger, pacs: Pacs
) -> list[str]:
    """What does not balance, a sentence each; of a node that is stopped."""
    return [
        *ledger.failures,
        *_not_held(archive, index, ledger),
        *_not_as_they_should_be(index, ledger),
        *_not_in_the_pacs(index, ledger, pacs),
        *_beyond_repair(config, archive, index),
    ]


def _not_held(archive: Archive, index: Index, ledger: Ledger) -> Iterator[str]:
    """Every instance answered 0x0000 is in the index and in the archive, with its digest."""
    for uid, digest in ledger.answered.items():
        try:
            instance = instances.get(index, uid)
        except NotFound:
            yield f"instance {uid} was answered 0x0000 and has no row"
            continue
        if instance.digest != digest:
            yield f"instance {uid} has another digest than was sent"
        if not archive.exists(instance.archive_key):
            yield f"instance {uid} was answered 0x0000 and has no file"


def _not_as_they_should_be(index: Index, ledger: Ledger) -> Iterator[str]:
    """Every study is counted once, evaluated, and has one result that counts, made of all it has."""
    for study_uid, sent in ledger.studies.items():
        study = studies.get(index, study_uid)
        if not study.instance_count == study.revision == study.evaluated_revision == len(sent):
            yield (
                f"study {study_uid}: {len(sent)} sent, {study.instance_count} counted, revision {study.revision}, "
                f"evaluated {study.evaluated_revision}"
            )
        counting = [
            one
            for one in workitems.list_workitems(index, study=study_uid, limit=MOST)
            if one.superseded_by is None
        ]
        if [one.state for one in counting] != [WorkitemState.COMPLETED]:
            yield f"study {study_uid}: {[(one.state, one.reason_code, one.reason) for one in counting]}"
        elif sorted(counting[0].inputs[0].sop_instance_uids) != sorted(sent):
            yield f"study {study_uid}: its result is not of all its instances"


def _not_in_the_pacs(index: Index, ledger: Ledger, pacs: Pacs) -> Iterator[str]:
    """The PACS has every result that counts, nothing that nobody owed it, and of each object one content."""
    has = _contents(pacs)
    yield from (
        f"the PACS was sent {len(contents)} contents as {uid}"
        for uid, contents in has.items()
        if len(contents) > 1
    )
    owed = deliveries.list_deliveries(index, limit=MOST)
    uids = [one.evidence.sop_instance_uid for one in owed]
    yield from (f"the PACS has {uid}, which nobody owed it" for uid in has.keys() - set(uids))
    yield from (f"{uid} is owed {n} times" for uid, n in Counter(uids).items() if n > 1)
    for one in owed:
        about = f"{one.evidence.kind} {one.evidence.sop_instance_uid}"
        if one.state in _TAKEN and one.evidence.sop_instance_uid not in has:
            yield f"{about} counts as sent, and the PACS has it not"
        if one.state is DeliveryState.FAILED:
            yield f"{about} was not delivered: {one.message}"
    for study_uid in ledger.studies:
        kinds = sorted(one.evidence.kind for one in owed if _counts_for(one, study_uid))
        if kinds != ["SEG", "SR"]:
            yield f"study {study_uid}: what counts in the PACS is {kinds}"


def _contents(pacs: Pacs) -> dict[str, set[bytes]]:
    """SOP Instance UID -> data sets that came as it."""
    has: dict[str, set[bytes]] = defaultdict(set)
    for file in pacs.files:
        has[str(file.ds.SOPInstanceUID)].add(file.data)
    return has


def _counts_for(delivery: Delivery, study_uid: str) -> bool:
    return (
        delivery.evidence.study_instance_uid == study_uid
        and delivery.state in _TAKEN
        and delivery.superseded_by is None
    )


def _beyond_repair(config: Config, archive: Archive, index: Index) -> Iterator[str]:
    """No rows without files; files without rows are what kills leave, and the sweep and a repair put in order."""
    archive.sweep(0.0)
    first = _flaws(archive, index)
    for flaw in first:
        # Written whole, killed before the row: not answered, or evidence that was not recorded.
        if flaw.kind is not FlawKind.ORPHAN:
            yield f"{flaw.kind}: {flaw.archive_key}: {flaw.reason}"
    for done in repair(config, archive, index, first, actor="test"):
        if done.action not in ("indexed", "aside"):
            yield f"{done.flaw.archive_key} was not repaired: {done.reason}"
    for flaw in _flaws(archive, index):
        yield f"after the repair, {flaw.kind}: {flaw.archive_key}: {flaw.reason}"


def _flaws(archive: Archive, index: Index) -> tuple[Flaw, ...]:
    pace = Pace()
    rows = verify_rows(archive, index, scope=Scope(), pace=pace, actor="test")
    rest = verify_files(archive, index, folders=archive.folders(), pace=pace, settled_s=0)
    return (*rows.flaws, *rest)
