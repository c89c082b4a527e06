"""Whatever comes when, however often, and wherever it is cut: one valid result at the PACS. Fakes at the two seams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made import MADE, header_of
from nodes import PIPELINES
from pydicom.uid import ExplicitVRLittleEndian

from node import lifecycle
from node.config import Config
from node.lifecycle import Parts
from node.scu import Outcome, SendItem, SendStatus
from node.worker import PerformOutcome, PerformTask
from pipelines.errors import Refused
from pipelines.evidence.proof import encode
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from storage.archive import Archive
from storage.errors import ChangeRefused, NotFound
from storage.index import (
    Index,
    conflicts,
    deliveries,
    destinations,
    instances,
    rules,
    studies,
    workitems,
)
from storage.model import (
    AddOutcome,
    DeliveryState,
    Destination,
    Evidence,
    Finding,
    Header,
    Instance,
    Rule,
    Workitem,
    WorkitemState,
    utcnow,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
HOUR = timedelta(hours=1)


@dataclass
class World:
    """A node whose worker and PACS are ours, and what the PACS was sent, in order."""

    archive: Archive
    parts: Parts = field(init=False)
    study: str = "1.2"
    slices: int = 0
    contents: int = 0
    is_dead: bool = False
    refusal: Refused | None = None
    tasks: list[PerformTask] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    #: Done in the middle of the next run, of the next delivery.
    while_performing: list[Callable[[], object]] = field(default_factory=list)
    while_sending: list[Callable[[], object]] = field(default_factory=list)

    @property
    def index(self) -> Index:
        return self.parts.index

    # -- the seams --

    def perform(self, task: PerformTask) -> PerformOutcome:
        self.tasks.append(task)
        if self.refusal is not None and task.refusal is None:
            raise self.refusal
        meanwhile, self.while_performing = self.while_performing, []
        for step in meanwhile:
            step()
        kinds = ("SR",) if task.refusal else tuple(MADE)
        label = "Bone"
        uid = task.known_findings.get(label, f"{task.workitem_uid}.7")
        return PerformOutcome(
            evidence=tuple(self._make(task, kind) for kind in kinds),
            findings=()
            if task.refusal
            else (
                Finding(
                    workitem_uid=task.workitem_uid,
                    segment_number=1,
                    segment_label=label,
                    tracking_uid=uid,
                ),
            ),
            pid=1,
        )

    def _make(self, task: PerformTask, kind: str) -> Evidence:
        seed = f"{kind} refusal" if task.refusal else kind
        ds = header_of(task, kind, seed)
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
            archive_key=self.archive.write(uid, "0" * 64, [content]),
            size=len(content),
            digest="0" * 64,
            created_at=utcnow(),
            profiles=tuple(task.profiles),
        )

    def send(self, destination: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        meanwhile, self.while_sending = self.while_sending, []
        for step in meanwhile:
            step()
        if self.is_dead:
            return [
                SendStatus(item=item, outcome=Outcome.RETRY, status=None, message="no answer")
                for item in items
            ]
        self.arrived += [item.sop_instance_uid for item in items]
        return [
            SendStatus(item=item, outcome=Outcome.DELIVERED, status=0, message="") for item in items
        ]

    # -- what happens --

    def receive(self, number: int, *, content: int = 0, series: int = 1) -> AddOutcome:
        """A slice; another content than 0 is another content."""
        uid = f"{self.study}.{series}.{number}"
        digest = f"{content:02x}{series:02x}{number:060x}"
        return instances.add(
            self.index,
            Instance(
                sop_instance_uid=uid,
                sop_class_uid=CT,
                series_instance_uid=f"{self.study}.{series}",
                study_instance_uid=self.study,
                transfer_syntax_uid=str(ExplicitVRLittleEndian),
                archive_key=f"k/{digest}",
                size=5,
                digest=digest,
                calling_ae="CT1",
                called_ae="OSTEONODE",
                received_at=utcnow(),
                header=self.header(content, series),
            ),
        )

    def header(self, content: int, series: int = 1) -> Header:
        return {
            "SOPClassUID": (CT,),
            "StudyInstanceUID": (self.study,),
            "SeriesInstanceUID": (f"{self.study}.{series}",),
            "Modality": ("CT",),
            "PatientID": ("P1",),
            "SliceThickness": (float(content),),
        }

    def slice(self) -> None:
        self.slices += 1
        assert self.receive(self.slices) is AddOutcome.ADDED

    def again(self) -> None:
        assert self.receive(2) is AddOutcome.DUPLICATE

    def other(self) -> None:
        self.contents += 1
        assert self.receive(1, content=self.contents) is AddOutcome.CONFLICT

    def accept(self) -> None:
        """The content of slice 1 that was kept beside first, be it the one that was put aside."""
        beside = conflicts.of_study(self.index, self.study)
        if beside:
            conflicts.accept(
                self.index,
                beside[0].sop_instance_uid,
                digest=beside[0].digest,
                header=self.header(int(beside[0].digest[:2], 16)),
                actor="test",
            )

    def rule(self) -> None:
        """Change the rule, or change it back; have the study looked at again."""
        known = rules.get(self.index, "r")
        other = 300.0 if known.parameters["threshold_hu"] == 200.0 else 200.0
        rules.edit(self.index, replace(known, parameters={"threshold_hu": other}), actor="test")
        studies.evaluate_again(self.index, self.study, actor="test")

    def evaluate(self) -> None:
        lifecycle.evaluate(self.parts, now=utcnow() + HOUR)

    def change(self) -> None:
        """Another content of the first slice, which a person lets count."""
        self.other()
        self.accept()

    def run(self) -> bool:
        self.evaluate()
        return self.perform_one()

    def perform_one(self) -> bool:
        return lifecycle.perform(self.parts, now=utcnow())

    def send_some(self) -> bool:
        return lifecycle.deliver(self.parts, "PACS", now=utcnow() + HOUR)

    def retract(self) -> bool:
        return lifecycle.retract(self.parts, now=utcnow())

    def die(self) -> None:
        self.is_dead = not self.is_dead

    def settle(self) -> None:
        """Until there is nothing left to do."""
        self.is_dead = False
        self.evaluate()
        while self.perform_one():
            pass
        while self.send_some() or self.retract():
            pass

    # -- what came of it --

    def wanted(self) -> Workitem:
        (uid,) = {
            one.workitem_uid
            for one in studies.decisions(self.index, self.study)
            if one.workitem_uid is not None
        }
        return workitems.get(self.index, uid)

    def mine(self) -> dict[str, Evidence]:
        """Evidence of this study, by SOP Instance UID."""
        found = deliveries.list_deliveries(self.index, study=self.study, limit=10_000)
        return {one.evidence.sop_instance_uid: one.evidence for one in found}

    def shown(self) -> set[str]:
        """What a PACS shows of this study that does as rejection notes say."""
        mine = self.mine()
        arrived = [mine[uid] for uid in self.arrived if uid in mine]
        gone = {uid for one in arrived for uid in one.rejects}
        return {one.sop_instance_uid for one in arrived if not one.rejects} - gone


@pytest.fixture
def world(index: Index, tmp_path: Path) -> World:
    archive = Archive(str(tmp_path / "archive"))
    made = World(archive=archive)
    made.parts = Parts(
        config=Config.model_validate(
            {
                "node": {"data": tmp_path},
                "routing": {"quiet_s": 60},
                "delivery": {"max_attempts": 1000, "backoff_s": 10, "backoff_max_s": 10},
                "evidence": {"profiles": {"iocm": {"retract": True}}},
            }
        ),
        index=index,
        archive=archive,
        registry=find_pipelines([PIPELINES]),
        owner="node",
        installation=Installation(
            institution="", serial_number="1", uid_root="2.25", software_version="0"
        ),
        perform=made.perform,
        cancel=lambda uid: None,
        send=made.send,
    )
    pacs = Destination(name="PACS", host="h", port=1, called_ae="PACS", profile="iocm")
    destinations.add(index, pacs, actor="test")
    rule = Rule(
        name="r",
        pipeline="threshold_bone",
        where=("Modality = CT",),
        destinations=("PACS",),
        parameters={"threshold_hu": 200.0},
        report_refusals=True,
    )
    rules.add(index, rule, actor="test")
    return made


# -- any order ------------------------------------------------------------------------------------

#: Slices and duplicates, contents, rules: what changes what is wanted.
_NEWS = ("slice", "again", "change", "rule")
_meanwhile = st.lists(st.sampled_from((*_NEWS, "run", "retract")), max_size=3)
_action = st.tuples(
    st.sampled_from((*_NEWS, "evaluate", "run", "run", "send_some", "send_some", "retract", "die")),
    _meanwhile,
)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(actions=st.lists(_action, min_size=2, max_size=10))
def test_in_the_end_the_pacs_shows_the_result_of_what_is_there(
    world: World, actions: list[tuple[str, list[str]]]
) -> None:
    # A study of its own in the same index: tables take longer to make than a life to live.
    number = int(world.study.rpartition(".")[2]) + 1
    world.study, world.slices, world.contents = f"1.2.{number}", 0, 0
    world.slice()
    world.slice()
    for name, meanwhile in actions:
        steps = [getattr(world, one) for one in meanwhile]
        if name == "run":
            world.while_performing = steps
        elif name == "send_some":
            world.while_sending = steps
        getattr(world, name)()
        world.while_performing, world.while_sending = [], []
    world.settle()

    last = world.wanted()
    assert last.state is WorkitemState.COMPLETED
    assert len(last.inputs[0].sop_instance_uids) == world.slices
    mine = world.mine()
    assert world.shown() == {
        uid
        for uid, one in mine.items()
        if one.workitem_uid == last.workitem_uid and not one.rejects
    }
    # A note never comes before the whole of what replaces what it names, nor before that itself.
    came = [uid for uid in world.arrived if uid in mine]
    for place, uid in enumerate(came):
        note = mine[uid]
        if note.rejects:
            newer = {
                one.sop_instance_uid
                for one in mine.values()
                if one.workitem_uid == note.workitem_uid and not one.rejects
            }
            assert newer | set(note.rejects) <= set(came[:place])
    for one in deliveries.list_deliveries(world.index, study=world.study, limit=10_000):
        assert one.state in (
            DeliveryState.SENT,
            DeliveryState.WITHDRAWN,
            DeliveryState.RETRACTED,
        )
    # All the same structure, in every result of the study.
    uids = {
        uid
        for task in world.tasks
        if task.study_instance_uid == world.study
        for uid in task.known_findings.values()
    }
    assert len(uids) <= 1


# -- one by one -----------------------------------------------------------------------------------


def test_a_rule_that_is_changed_back_runs_once_more(world: World) -> None:
    """The first result was retracted: a PACS would not show it again. What is made anew has other UIDs."""
    world.slice()
    world.slice()
    world.settle()
    first = world.wanted()
    world.rule()
    world.settle()
    second = world.wanted()
    world.rule()
    world.settle()
    third = world.wanted()
    assert third.parameters == first.parameters != second.parameters
    assert (second.predecessor, third.predecessor) == (first.workitem_uid, second.workitem_uid)
    assert len({first.workitem_uid, second.workitem_uid, third.workitem_uid}) == 3
    # And is found again, however often it is asked.
    studies.evaluate_again(world.index, world.study, actor="test")
    world.settle()
    assert world.wanted().workitem_uid == third.workitem_uid
    assert len(world.tasks) == 3


def test_a_change_that_is_taken_back_before_it_ran_changes_nothing(world: World) -> None:
    world.slice()
    world.slice()
    world.settle()
    first = world.wanted()
    world.rule()
    world.evaluate()
    between = world.wanted()
    world.rule()
    world.settle()
    assert world.wanted() == first
    canceled = workitems.get(world.index, between.workitem_uid)
    assert (canceled.state, canceled.reason_code) == (WorkitemState.CANCELED, "superseded")
    # And wanted after all: it runs.
    world.rule()
    world.settle()
    assert world.wanted().workitem_uid == between.workitem_uid
    assert world.wanted().state is WorkitemState.COMPLETED


def test_two_rules_on_one_series_replace_their_own_results_only(world: World) -> None:
    known = rules.get(world.index, "r")
    rules.add(
        world.index,
        replace(known, name="s", parameters={"threshold_hu": 500.0}),
        actor="test",
    )
    world.slice()
    world.slice()
    world.settle()
    before = {one.rule: one for one in workitems.list_workitems(world.index)}
    assert all(one.superseded_by is None for one in before.values())
    world.slice()
    world.settle()
    after = {
        one.rule: one
        for one in workitems.list_workitems(world.index)
        if one.workitem_uid not in {old.workitem_uid for old in before.values()}
    }
    assert {rule: one.predecessor for rule, one in after.items()} == {
        rule: one.workitem_uid for rule, one in before.items()
    }
    assert len(world.shown()) == 4


@pytest.mark.parametrize("each", [False, True])
def test_a_series_that_is_preferred_and_came_later_replaces_the_result(
    world: World, each: bool
) -> None:
    rules.edit(world.index, replace(rules.get(world.index, "r"), each=each), actor="test")
    world.slice()
    world.slice()
    world.settle()
    (first,) = workitems.list_workitems(world.index)
    for number in (1, 2, 3):
        world.receive(number, series=2)
    world.settle()
    (second,) = (
        one
        for one in workitems.list_workitems(world.index)
        if one.workitem_uid != first.workitem_uid
    )
    assert second.predecessor == (None if each else first.workitem_uid)
    assert len(world.shown()) == (4 if each else 2)


def test_what_was_replaced_is_neither_run_nor_sent_again(world: World) -> None:
    world.slice()
    world.slice()
    world.refusal = Refused("There is no trunk.", code="no-trunk")
    world.settle()
    refused = world.wanted()
    world.refusal = None
    world.slice()
    world.settle()
    newer = world.wanted()
    with pytest.raises(ChangeRefused, match=newer.workitem_uid):
        workitems.retry(world.index, refused.workitem_uid, actor="test")
    (report,) = deliveries.list_deliveries(world.index, workitem=refused.workitem_uid)
    assert report.state is DeliveryState.RETRACTED
    with pytest.raises(ChangeRefused, match=newer.workitem_uid):
        deliveries.retry(world.index, delivery_id=report.delivery_id, actor="test")


def test_a_refused_note_leaves_the_old_result_and_can_be_sent_again(world: World) -> None:
    world.slice()
    world.slice()
    world.settle()
    world.slice()
    world.settle()
    (note,) = (
        one
        for one in deliveries.list_deliveries(world.index, workitem=world.wanted().workitem_uid)
        if one.evidence.rejects
    )
    assert note.state is DeliveryState.SENT
    # A person may have a note sent again: it says the same.
    deliveries.retry(world.index, delivery_id=note.delivery_id, actor="test")
    world.settle()
    assert world.arrived.count(note.evidence.sop_instance_uid) == 2
    assert len(world.shown()) == 2


def test_another_content_counts_when_a_person_says_so(world: World) -> None:
    world.slice()
    world.slice()
    world.other()
    world.settle()
    first = world.wanted()
    uid = f"{world.study}.1.1"
    (beside,) = conflicts.of_study(world.index, world.study)
    assert conflicts.studies_with(world.index) == {world.study: 1}
    world.accept()
    held = instances.get(world.index, uid)
    assert (held.digest, held.replaced) == (beside.digest, True)
    assert held.header["SliceThickness"] == (1.0,)
    (series,) = studies.series_of(world.index, world.study)
    assert series.header["SliceThickness"] == (1.0,)
    # The one put aside comes again, and is of no effect.
    assert world.receive(1) is AddOutcome.CONFLICT
    world.settle()
    assert world.wanted().predecessor == first.workitem_uid
    world.accept()
    assert not instances.get(world.index, uid).replaced
    world.settle()
    assert len({task.workitem_uid for task in world.tasks}) == 3


def test_a_content_of_another_series_or_of_nothing_is_not_accepted(world: World) -> None:
    world.slice()
    world.other()
    (beside,) = conflicts.of_study(world.index, world.study)
    uid = beside.sop_instance_uid
    elsewhere = {**world.header(1), "SeriesInstanceUID": ("1.9",)}
    with pytest.raises(ChangeRefused, match="SeriesInstanceUID"):
        conflicts.accept(world.index, uid, digest=beside.digest, header=elsewhere, actor="test")
    with pytest.raises(NotFound, match="No content"):
        conflicts.accept(world.index, uid, digest="ff", header=world.header(1), actor="test")
    assert instances.get(world.index, uid).digest != beside.digest
    assert studies.get(world.index, world.study).revision == 1
