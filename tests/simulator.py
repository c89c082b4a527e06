"""Senders as hospitals have them, over real associations, against a real node: what they do, and what became of it.

    with hospital(folder) as stage:
        sender = stage.sender("CT1", studies=(1,))
        sender.send(sender.ct())
        sender.wait_until_settled()
        stage.account_of(sender.uids[0])

What is sent is sent by pynetdicom, with its loop mended (`node.pausing`); the PACS is `peer.Pacs`. Time is compressed
by settings alone: a study is quiet after `QUIET_S` (60 s by default), or after `RELEASED_S` (5 s) where it is plainly
whole; "an hour later" is after everything that followed from what came before has happened.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from dicomgen import Geometry, make_series, make_uid
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from node.pausing import pause_safely
from storage.index import (
    Index,
    conflicts,
    deliveries,
    destinations,
    events,
    instances,
    rules,
    studies,
    workitems,
)
from storage.model import (
    Decision,
    Delivery,
    DeliveryState,
    Rule,
    Study,
    Workitem,
    WorkitemState,
)

QUIET_S = 6.0
RELEASED_S = 1.0
#: What a rule waits for a missing slice or input: long enough for a sender that fills it in time.
WAIT_S = 15
TEN = Geometry(slices=10)
#: Of destinations: one takes rejection notes, one takes reports alone.
PROFILES = '{"iocm": {"retract": true}, "reports": {"segmentation": "none"}}'
_ENDED = (WorkitemState.COMPLETED, WorkitemState.CANCELED)

#: Who sends decides which rule holds.
RULES = (
    Rule(
        name="bones",
        pipeline="threshold_bone",
        where=("Modality = CT", "calling_ae in CT1, PACS"),
        destinations=("PACS",),
        wait_s=WAIT_S,
    ),
    Rule(
        name="bones-with-gaps",
        pipeline="threshold_bone",
        where=("Modality = CT", "calling_ae = CT2"),
        destinations=("PACS",),
        wait_s=WAIT_S,
        incomplete="run",
    ),
    Rule(
        name="hot-pairs",
        pipeline="hot_bone",
        where=("calling_ae = PET1",),
        destinations=("PACS",),
        wait_s=WAIT_S,
    ),
    Rule(
        name="hot",
        pipeline="hot_bone",
        where=("calling_ae = PET2",),
        destinations=("PACS",),
        wait_s=WAIT_S,
        without=("ct",),
    ),
    Rule(
        name="many",
        pipeline="threshold_bone",
        where=("calling_ae = CT3",),
        destinations=("REPORTS",),
        # The others do not wait for these.
        priority=10,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of one study."""

    study: Study
    #: Instances by what was found of them (`added`, `duplicate`, `conflict`), as the log of associations says.
    came: Mapping[str, int]
    #: Associations that brought some of it by how they ended.
    associations: Mapping[str, int]
    #: SOP Instance UIDs held; of ours among them; contents kept beside.
    held: frozenset[str]
    own: frozenset[str]
    beside: int
    evaluations: int
    decisions: tuple[Decision, ...]
    #: In the order they were scheduled.
    workitems: tuple[Workitem, ...]
    deliveries: tuple[Delivery, ...]
    #: What the PACS was sent, in order.
    received: tuple[Dataset, ...] = field(repr=False)

    @property
    def reasons(self) -> frozenset[str]:
        """Codes of the last verdict."""
        assert self.study.verdict is not None
        return frozenset(reason.code for reason in self.study.verdict.reasons)

    @property
    def notices(self) -> frozenset[str]:
        """Codes that the last result says of itself."""
        return frozenset(code for one in self.workitems[-1:] for code, _ in one.notices)

    @property
    def rejected(self) -> frozenset[str]:
        """What rejection notes at the PACS name."""
        return frozenset(
            str(one.ReferencedSOPInstanceUID)
            for ds in self.received
            if ds.Modality == "KO"
            for study in ds.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for one in series.ReferencedSOPSequence
        )

    @property
    def shown(self) -> Counter[str]:
        """Modalities of what the PACS shows when it does as the notes say."""
        gone = self.rejected
        return Counter(
            str(ds.Modality)
            for ds in self.received
            if ds.Modality != "KO" and ds.SOPInstanceUID not in gone
        )


@dataclass(kw_only=True)
class Stage:
    """A node and a PACS."""

    node: Node
    pacs: Pacs
    index: Index
    #: C-STORE requests that were answered with 0x0000, by Study Instance UID.
    answered: Counter[str] = field(default_factory=Counter)
    _read: list[Dataset] = field(default_factory=list)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def sender(self, calling_ae: str, studies: Sequence[int]) -> Sender:
        return Sender(stage=self, calling_ae=calling_ae, studies=tuple(studies))

    def received(self, uid: str) -> tuple[Dataset, ...]:
        """What the PACS was sent of a study, in order."""
        with self._reading:
            self._read += [file.ds for file in self.pacs.files[len(self._read) :]]
            return tuple(ds for ds in self._read if ds.StudyInstanceUID == uid)

    def is_settled(self, uid: str) -> bool:
        """Nothing is left to do of a study: no news, no wait, no run, nothing owed or to be retracted."""
        study = studies.get(self.index, uid)
        if study.revision > study.evaluated_revision or study.waits_until is not None:
            return False
        if any(one.state not in _ENDED for one in workitems.list_workitems(self.index, study=uid)):
            return False
        owed = deliveries.list_deliveries(self.index, study=uid)
        return not any(
            one.state is DeliveryState.PENDING
            or (one.state is DeliveryState.SENT and one.superseded_by)
            for one in owed
        )

    def account_of(self, uid: str) -> Account:
        lines = [
            one
            for one in events.list_events(self.index, study=uid, limit=1000)
            if one.kind in ("instances-received", "study-evaluated")
        ]
        brought = [one for one in lines if one.kind == "instances-received"]
        came: Counter[str] = Counter()
        for one in brought:
            for name in ("added", "duplicate", "conflict", "refused"):
                came[name] += int(str(one.detail.get(name, 0)))
        held = [
            one
            for series in studies.series_of(self.index, uid)
            for one in instances.of_series(
                self.index, series.series_instance_uid, study_instance_uid=uid
            )
        ]
        ran = workitems.list_workitems(self.index, study=uid)
        return Account(
            study=studies.get(self.index, uid),
            came=+came,
            associations=Counter(str(one.detail["ended"]) for one in brought),
            held=frozenset(one.sop_instance_uid for one in held),
            own=frozenset(one.sop_instance_uid for one in held if one.own),
            beside=len(conflicts.of_study(self.index, uid)),
            evaluations=len(lines) - len(brought),
            decisions=studies.decisions(self.index, uid),
            workitems=tuple(sorted(ran, key=lambda one: one.scheduled_at)),
            deliveries=deliveries.list_deliveries(self.index, study=uid),
            received=self.received(uid),
        )


@dataclass(frozen=True, kw_only=True)
class Sender:
    """One modality, archive or router, and the studies it sends."""

    stage: Stage
    calling_ae: str
    studies: tuple[int, ...]

    @property
    def uids(self) -> tuple[str, ...]:
        """Study Instance UIDs."""
        return tuple(make_uid(1, study) for study in self.studies)

    def known_as(self, calling_ae: str) -> Sender:
        """Another that sends the same studies."""
        return Sender(stage=self.stage, calling_ae=calling_ae, studies=self.studies)

    # -- what it has --

    def ct(
        self, *numbers: int, of: int = 0, series: int = 1, geometry: Geometry = TEN
    ) -> list[Dataset]:
        """A CT series of the `of`-th study: those of these Instance Numbers, all when none is named."""
        found = make_series(study=self.studies[of], series=series, geometry=geometry)
        return [found[n - 1] for n in numbers] if numbers else found

    def pet(self) -> list[Dataset]:
        """A PET in the frame of reference of the CT, with the same hot disc."""
        found = make_series(study=self.studies[0], series=10, geometry=TEN)
        for ds in found:
            ds.Modality, ds.SeriesDescription = "PT", "PET"
            ds.SOPClassUID = PositronEmissionTomographyImageStorage
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        return found

    def localizer(self) -> list[Dataset]:
        """Two images at right angles, a series of their own."""
        found = self.ct(1, 2, series=2)
        for ds in found:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            ds.SeriesDescription = "Topogram"
        found[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        return found

    # -- what it does --

    def associate(self, datasets: Sequence[Dataset]) -> Association:
        ae = AE(self.calling_ae)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        kinds = sorted({(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets})
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in kinds]
        assoc = ae.associate(
            "127.0.0.1", self.stage.node.port, contexts=contexts, ae_title="OSTEONODE"
        )
        assert assoc.is_established
        pause_safely(assoc)
        return assoc

    def store(self, assoc: Association, ds: Dataset) -> None:
        """One C-STORE; it must be answered with 0x0000."""
        status = assoc.send_c_store(ds).get("Status")
        assert status == 0x0000, f"{self.calling_ae}: {status}\n{self.stage.node.log[-4000:]}"
        self.stage.answered[str(ds.StudyInstanceUID)] += 1

    def send(
        self, datasets: Sequence[Dataset], *, pause_s: float = 0.0, is_aborted: bool = False
    ) -> None:
        """Send in one association, with a pause after each."""
        assoc = self.associate(datasets)
        for ds in datasets:
            self.store(assoc, ds)
            time.sleep(pause_s)
        if is_aborted:
            assoc.abort()
        else:
            assoc.release()

    # -- what it waits for --

    def wait_until_settled(self) -> None:
        """An hour, or a night: all that follows from what was sent has happened."""
        wait_for(
            f"{self.calling_ae}'s studies to be settled",
            self._are_settled,
            timeout_s=150,
        )

    def _are_settled(self) -> bool:
        # Seldom: the node is to have the machine.
        time.sleep(0.2)
        return all(self.stage.is_settled(uid) for uid in self.uids)

    def wait_until_it_waits(self) -> None:
        """The node has looked at the study, and waits for what is missing."""
        wait_for(
            f"the wait for what {self.calling_ae} did not send",
            lambda: studies.get(self.stage.index, self.uids[0]).waits_until is not None,
        )


def coerced(ds: Dataset) -> Dataset:
    """As a PACS that gives what it takes new UIDs, and another patient: all else stays."""
    copy = deepcopy(ds)
    copy.SOPInstanceUID = make_uid("coerced", ds.SOPInstanceUID)
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    copy.SeriesInstanceUID = make_uid("coerced", ds.SeriesInstanceUID)
    copy.PatientID = "OTHER"
    return copy


@contextmanager
def hospital(folder: Path) -> Iterator[Stage]:
    """A node that runs, a PACS that takes its results and rejection notes, and the rules."""
    node = Node(folder=folder / "node")
    node.settings = {
        "OSTEONODE_ROUTING__QUIET_S": str(QUIET_S),
        "OSTEONODE_ROUTING__RELEASED_QUIET_S": str(RELEASED_S),
        "OSTEONODE_EVIDENCE__PROFILES": PROFILES,
        "OSTEONODE_COMPUTE__DEVICES": '["cpu", "cpu"]',
        "OSTEONODE_COMPUTE__THREADS": "1",
    }
    with Pacs() as pacs:
        try:
            node.start()
            with node.index() as index:
                for name, profile in (("PACS", "iocm"), ("REPORTS", "reports")):
                    to = replace(pacs.destination, name=name, profile=profile)
                    destinations.add(index, to, actor="test")
                for rule in RULES:
                    rules.add(index, rule, actor="test")
                yield Stage(node=node, pacs=pacs, index=index)
        finally:
            node.kill_if_running()
