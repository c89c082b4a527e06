"""The life of one study, step by step, on a real index and archive: fakes at the two seams, a kill at any step.

A `Life` is sent what `hospital_study` has, in whatever order and as often as a test likes; `final` is what remains to
be seen of it when all has come and nothing is left to do.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path

from dicomgen import Geometry, make_series
from made import MADE, header_of
from nodes import PIPELINES
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from pynetdicom.dsutils import encode as encode_data_set

from node import lifecycle
from node.config import Config
from node.lifecycle import Parts
from node.receiving import Received
from node.scu import Outcome, SendItem, SendStatus
from node.worker import PerformOutcome, PerformTask
from pipelines.evidence.proof import encode
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from storage.archive import Archive
from storage.index import (
    conflicts,
    deliveries,
    destinations,
    instances,
    open_index,
    rules,
    studies,
    workitems,
)
from storage.model import AddOutcome, Destination, Evidence, Finding, Rule, utcnow

#: Later than any wait of the rules, in one look.
MUCH_LATER = timedelta(hours=2)
#: What the rules wait for a missing input or slice, and a study for quiet, s.
WAIT_S, QUIET_S = 3600, 60

_CONFIG = {
    "routing": {"quiet_s": QUIET_S},
    "delivery": {"max_attempts": 1000, "backoff_s": 10, "backoff_max_s": 10},
    "evidence": {"profiles": {"iocm": {"retract": True}}},
}
_RULES = (
    Rule(
        name="bones",
        pipeline="threshold_bone",
        where=("Modality = CT",),
        destinations=("PACS",),
        wait_s=WAIT_S,
    ),
    Rule(
        name="hot",
        pipeline="hot_bone",
        where=(),
        destinations=("PACS",),
        wait_s=WAIT_S,
        without=("ct",),
    ),
)


class Killed(BaseException):
    """kill -9: nothing after it happens."""


@cache
def hospital_study() -> tuple[Dataset, ...]:
    """Two CT that a rule likes as much as each other, a thick one, a localizer, a PET in their frame of reference."""
    four = Geometry(slices=4)
    pet = make_series(series=10, geometry=Geometry(slices=3))
    for ds in pet:
        ds.Modality, ds.SOPClassUID = "PT", PositronEmissionTomographyImageStorage
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    localizer = make_series(series=2, geometry=Geometry(slices=1))
    localizer[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    return (
        *make_series(series=3, geometry=four),
        *make_series(series=4, geometry=four),
        *make_series(series=5, geometry=Geometry(slices=2, slice_spacing=6.0)),
        *localizer,
        *pet,
    )


def changed(ds: Dataset, content: int) -> Dataset:
    """Other pixels under the same UID."""
    copy = deepcopy(ds)
    copy.PixelData = bytes([content]) * len(ds.PixelData)
    return copy


@dataclass(kw_only=True)
class Life:
    """One study in a node of its own."""

    folder: Path
    #: A file of an index without rows, copied.
    template: Path
    parts: Parts = field(init=False)
    #: SOP Instance UIDs in the order they arrived at the PACS.
    arrived: list[str] = field(default_factory=list)
    is_pacs_dead: bool = False
    #: The next run, the next delivery ends in a kill: before or after what it does to the world.
    kills: list[str] = field(default_factory=list)
    outcomes: Counter[AddOutcome] = field(default_factory=Counter)
    sent: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copy(self.template, self.folder / "index.sqlite")
        self._open()
        pacs = Destination(name="PACS", host="h", port=1, called_ae="PACS", profile="iocm")
        destinations.add(self.parts.index, pacs, actor="test")
        for rule in _RULES:
            rules.add(self.parts.index, rule, actor="test")

    def _open(self) -> None:
        self.parts = Parts(
            config=Config.model_validate({"node": {"data": self.folder}, **_CONFIG}),
            index=open_index(f"sqlite:///{self.folder / 'index.sqlite'}"),
            archive=Archive(str(self.folder / "archive")),
            registry=find_pipelines([PIPELINES]),
            owner="node",
            installation=Installation(
                institution="", serial_number="1", uid_root="2.25", software_version="0"
            ),
            perform=self._perform,
            cancel=lambda uid: None,
            send=self._send,
        )

    def close(self) -> None:
        self.parts.index.close()

    @property
    def uid(self) -> str:
        return str(hospital_study()[0].StudyInstanceUID)

    # -- the seams --

    def _perform(self, task: PerformTask) -> PerformOutcome:
        self._die_if("run begun")
        made = tuple(self._make(task, kind) for kind in MADE)
        self._die_if("run done")
        finding = Finding(
            workitem_uid=task.workitem_uid,
            segment_number=1,
            segment_label="Bone",
            tracking_uid=task.known_findings.get("Bone", f"{task.tracked_as}.7"),
        )
        return PerformOutcome(evidence=made, findings=(finding,), pid=1)

    def _make(self, task: PerformTask, kind: str) -> Evidence:
        ds = header_of(task, kind, kind)
        content = encode(ds)
        uid = str(ds.SOPInstanceUID)
        return Evidence(
            sop_instance_uid=uid,
            sop_class_uid=MADE[kind],
            series_instance_uid=str(ds.SeriesInstanceUID),
            study_instance_uid=task.study_instance_uid,
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
            workitem_uid=task.workitem_uid,
            kind=kind,
            archive_key=self.parts.archive.write(uid, "0" * 64, [content]),
            size=len(content),
            digest="0" * 64,
            created_at=utcnow(),
            profiles=tuple(task.profiles),
        )

    def _send(self, destination: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        self._die_if("delivery begun")
        if self.is_pacs_dead:
            return [
                SendStatus(item=item, outcome=Outcome.RETRY, status=None, message="no answer")
                for item in items
            ]
        self.arrived += [item.sop_instance_uid for item in items]
        self._die_if("delivery done")
        return [
            SendStatus(item=item, outcome=Outcome.DELIVERED, status=0, message="") for item in items
        ]

    def _die_if(self, moment: str) -> None:
        if moment in self.kills:
            self.kills.remove(moment)
            raise Killed

    # -- what happens --

    def receive(self, ds: Dataset, *, calling_ae: str = "CT1") -> AddOutcome:
        """One C-STORE request."""
        data = encode_data_set(ds, False, True)
        assert data is not None
        receipt = lifecycle.receive(
            Received(
                sop_class_uid=str(ds.SOPClassUID),
                sop_instance_uid=str(ds.SOPInstanceUID),
                transfer_syntax_uid=str(ExplicitVRLittleEndian),
                calling_ae=calling_ae,
                called_ae="OSTEONODE",
            ),
            data,
            self.parts.archive,
            self.parts.index,
        )
        assert receipt.status == 0x0000
        assert receipt.outcome is not None
        self.sent += 1
        self.outcomes[receipt.outcome] += 1
        return receipt.outcome

    def come_back(self) -> None:
        """What the PACS has of ours is sent to us."""
        for uid in dict.fromkeys(self.arrived):
            found = deliveries.list_deliveries(self.parts.index, study=self.uid, limit=10_000)
            (key,) = {
                one.evidence.archive_key for one in found if one.evidence.sop_instance_uid == uid
            }
            with self.parts.archive.open(key) as file:
                self.receive(dcmread(file), calling_ae="PACS")

    def restart(self) -> None:
        """As after kill -9: the parts are gone, index and archive are there; what was held is taken back."""
        self.parts.index.close()
        self._open()
        workitems.release(self.parts.index, owner="node", now=utcnow())
        deliveries.release(self.parts.index, owner="node", now=utcnow())

    def evaluate(self, after: timedelta = MUCH_LATER) -> None:
        lifecycle.evaluate(self.parts, now=utcnow() + after)

    def perform(self) -> bool:
        return self._until_killed(lambda: lifecycle.perform(self.parts, now=utcnow()))

    def deliver(self) -> bool:
        soon = utcnow() + timedelta(hours=1)
        return self._until_killed(lambda: lifecycle.deliver(self.parts, "PACS", now=soon))

    def retract(self) -> bool:
        return lifecycle.retract(self.parts, now=utcnow())

    def _until_killed(self, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except Killed:
            self.restart()
            return True

    def settle(self) -> None:
        """Until nothing is left to do."""
        self.is_pacs_dead, self.kills = False, []
        self.evaluate()
        while self.perform():
            pass
        while self.deliver() or self.retract():
            pass

    # -- what came of it --

    def final(self) -> dict[str, object]:
        """What must not depend on how it came to be."""
        index = self.parts.index
        found = studies.series_of(index, self.uid)
        decided = studies.decisions(index, self.uid)
        wanted = {one.workitem_uid for one in decided if one.workitem_uid}
        owed = deliveries.list_deliveries(index, study=self.uid, limit=10_000)
        made = {one.evidence.sop_instance_uid: one.evidence for one in owed}
        arrived = [made[uid] for uid in set(self.arrived)]
        gone = {uid for one in arrived for uid in one.rejects}
        return {
            "series": {
                one.series_instance_uid: (one.modality, one.instance_count, one.facts)
                for one in found
                if not one.own
            },
            "decisions": {
                (one.rule, one.role, one.series_instance_uid): (
                    *(one.code, one.matched, one.workitem_uid),
                    one.clauses,
                )
                for one in decided
            },
            "workitems": {
                uid: (found.state, found.inputs)
                for uid in wanted
                for found in [workitems.get(index, uid)]
            },
            "evidence": {
                (one.workitem_uid, one.kind, uid)
                for uid, one in made.items()
                if one.workitem_uid in wanted and not one.rejects
            },
            "shown": {one.sop_instance_uid for one in arrived if not one.rejects} - gone,
        }

    def check_accounts(self) -> None:
        """Every request that was answered with 0x0000: held, held already, or kept beside."""
        index, archive = self.parts.index, self.parts.archive
        held = [
            one
            for series in studies.series_of(index, self.uid)
            for one in instances.of_series(index, series.series_instance_uid)
        ]
        beside = conflicts.of_study(index, self.uid)
        assert self.outcomes.total() == self.sent
        assert self.outcomes[AddOutcome.ADDED] == len(held)
        assert {one.sop_instance_uid for one in held if not one.own} == {
            str(ds.SOPInstanceUID) for ds in hospital_study()
        }
        assert len(beside) <= self.outcomes[AddOutcome.CONFLICT]
        for key in [one.archive_key for one in held] + [one.archive_key for one in beside]:
            assert archive.exists(key)
