"""Each step of the life alone: a real index and archive, fakes at the two seams only (`perform`, `send`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nodes import PIPELINES

from node import claims, lifecycle
from node.backoff import backoff
from node.config import Config, PipelinesSection
from node.errors import PerformError
from node.lifecycle import Parts
from node.scu import Outcome, SendItem, SendStatus, classify, describe
from node.worker import PerformOutcome, PerformTask
from pipelines.errors import Refused
from pipelines.evidence.request import Installation
from pipelines.registry import find_pipelines
from pipelines.uids import derive_sop_instance_uid
from storage.archive import Archive
from storage.index import (
    Index,
    deliveries,
    destinations,
    events,
    files,
    instances,
    rules,
    studies,
    workitems,
)
from storage.model import (
    Delivery,
    DeliveryState,
    Destination,
    Evidence,
    FileMark,
    FileState,
    Instance,
    Rule,
    Workitem,
    WorkitemState,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STUDY = "1.2.3"
INSTALLATION = Installation(
    institution="", serial_number="1", uid_root="2.25", software_version="0"
)


@dataclass
class Seams:
    """What a test decides: how a run ends, and what a destination answers."""

    error: Exception | None = None
    #: Whether a refusal's report fails too.
    report_error: bool = False
    status: int | None = 0x0000
    tasks: list[PerformTask] = field(default_factory=list)
    sent: list[tuple[Destination, Sequence[SendItem]]] = field(default_factory=list)
    archive: Archive | None = None

    def perform(self, task: PerformTask) -> PerformOutcome:
        self.tasks.append(task)
        if self.error is not None and (task.refusal is None or self.report_error):
            raise self.error
        assert self.archive is not None
        uid = derive_sop_instance_uid("2.25", workitem_uid=task.workitem_uid, kind="SR")
        key = self.archive.write(uid, "0" * 64, [b"evidence"])
        made = Evidence(
            sop_instance_uid=uid,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
            series_instance_uid="1.9",
            study_instance_uid=task.study_instance_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            workitem_uid=task.workitem_uid,
            kind="SR",
            archive_key=key,
            size=8,
            digest="0" * 64,
            created_at=START,
            profiles=tuple(task.profiles),
        )
        return PerformOutcome(
            evidence=(made,), measurements=(), findings=(), notices=(), timings={}, pid=1
        )

    def send(self, destination: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        assert all(item.path.read_bytes() == b"evidence" for item in items)
        self.sent.append((destination, items))
        message = "no answer" if self.status is None else describe(self.status)
        return [
            SendStatus(
                item=item, outcome=classify(self.status), status=self.status, message=message
            )
            for item in items
        ]


@pytest.fixture
def seams() -> Seams:
    return Seams()


@pytest.fixture
def parts(index: Index, tmp_path: Path, seams: Seams) -> Parts:
    archive = seams.archive = Archive(str(tmp_path / "archive"))
    return Parts(
        config=Config.model_validate(
            {
                "node": {"data": tmp_path},
                "routing": {"quiet_s": 60},
                "compute": {"max_attempts": 2, "retry_s": 10},
                "delivery": {"max_attempts": 2, "backoff_s": 10},
            }
        ),
        index=index,
        archive=archive,
        registry=find_pipelines([PIPELINES]),
        owner="node",
        installation=INSTALLATION,
        perform=seams.perform,
        cancel=lambda uid: None,
        send=seams.send,
    )


def receive(
    parts: Parts,
    number: int,
    *,
    series: str = "1.2.3.1",
    seconds: float = 0,
    study: str = STUDY,
    modality: str = "CT",
) -> None:
    """One instance, as the receiving path leaves it."""
    uid = f"{series}.{number}"
    instances.add(
        parts.index,
        Instance(
            sop_instance_uid=uid,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            series_instance_uid=series,
            study_instance_uid=study,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            archive_key=parts.archive.write(uid, f"{number:064x}", [b"image"]),
            size=5,
            digest=f"{number:064x}",
            calling_ae="CT1",
            called_ae="OSTEONODE",
            received_at=START + timedelta(seconds=seconds),
            header={"Modality": (modality,), "FrameOfReferenceUID": ("1.9",)},
        ),
    )


def add_rule(
    parts: Parts,
    name: str,
    *,
    to: str = "PACS",
    priority: int = 50,
    report_refusals: bool = False,
    each: bool = False,
) -> None:
    known = {destination.name for destination in destinations.list_destinations(parts.index)}
    if to not in known:
        destinations.add(
            parts.index, Destination(name=to, host="h", port=1, called_ae=to), actor="test"
        )
    rules.add(
        parts.index,
        Rule(
            name=name,
            pipeline="threshold_bone",
            where=("Modality = CT",),
            destinations=(to,),
            priority=priority,
            report_refusals=report_refusals,
            each=each,
        ),
        actor="test",
    )


def evaluate(parts: Parts, *, seconds: float = 60) -> datetime | None:
    return lifecycle.evaluate(parts, now=START + timedelta(seconds=seconds))


def only_workitem(parts: Parts) -> Workitem:
    (workitem,) = workitems.list_workitems(parts.index)
    return workitem


def only_delivery(parts: Parts) -> Delivery:
    (delivery,) = deliveries.list_deliveries(parts.index)
    return delivery


@pytest.fixture
def performed(parts: Parts) -> Parts:
    """One study, evaluated and performed: one delivery is owed."""
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    assert lifecycle.perform(parts, now=START + timedelta(seconds=61))
    return parts


# -- evaluate -------------------------------------------------------------------------------------


def test_a_study_is_evaluated_when_it_is_quiet_and_once(parts: Parts) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2, seconds=5)
    assert evaluate(parts, seconds=64) == START + timedelta(seconds=65)
    assert workitems.list_workitems(parts.index) == ()
    assert evaluate(parts, seconds=65) is None
    assert only_workitem(parts).inputs[0].sop_instance_uids == ("1.2.3.1.1", "1.2.3.1.2")
    assert studies.to_evaluate(parts.index) == ()


def test_two_rules_on_the_same_run_make_one_workitem(parts: Parts) -> None:
    add_rule(parts, "a", to="PACS", priority=10)
    add_rule(parts, "b", to="SECOND", priority=90)
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    workitem = only_workitem(parts)
    assert set(workitem.destinations) == {"PACS", "SECOND"}
    assert workitem.priority == 90
    decided = studies.decisions(parts.index, STUDY)
    assert {decision.workitem_uid for decision in decided} == {workitem.workitem_uid}


@pytest.mark.parametrize(
    ("where", "of_rule", "threshold"),
    [
        ("calling_ae = CT1", {}, 300.0),
        ("calling_ae = CT2", {}, 200.0),
        ("calling_ae = CT1", {"threshold_hu": 400.0}, 400.0),
    ],
)
def test_settings_of_the_scanner_are_parameters_and_a_rule_s_count_over_them(
    parts: Parts, where: str, of_rule: dict[str, float], threshold: float
) -> None:
    add_rule(parts, "r")
    rule = rules.get(parts.index, "r")
    rules.edit(parts.index, replace(rule, parameters=of_rule), actor="test")
    receive(parts, 1)
    receive(parts, 2)
    setting = {"where": [where], "parameters": {"threshold_hu": 300.0}}
    pipelines = PipelinesSection.model_validate({"settings": {"threshold_bone": [setting]}})
    config = parts.config.model_copy(update={"pipelines": pipelines})
    evaluate(replace(parts, config=config))
    assert only_workitem(parts).parameters == {"threshold_hu": threshold}


def test_a_series_that_did_not_change_is_not_run_again(parts: Parts) -> None:
    add_rule(parts, "r", each=True)
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    receive(parts, 1, series="1.2.3.2", seconds=100)
    receive(parts, 2, series="1.2.3.2", seconds=100)
    evaluate(parts, seconds=160)
    ran = workitems.list_workitems(parts.index)
    assert sorted(w.inputs[0].series_instance_uid for w in ran) == ["1.2.3.1", "1.2.3.2"]


def test_of_two_series_that_fit_the_preferred_one_runs_and_the_other_says_why(parts: Parts) -> None:
    add_rule(parts, "r")
    for number in (1, 2):
        receive(parts, number)
    for number in (1, 2, 3):
        receive(parts, number, series="1.2.3.2")
    evaluate(parts)
    (ran,) = workitems.list_workitems(parts.index)
    assert ran.inputs[0].series_instance_uid == "1.2.3.2"
    assert [
        (one.series_instance_uid, one.code, one.clauses[-1].clause)
        for one in studies.decisions(parts.index, STUDY)
    ] == [
        ("1.2.3.2", "runs", "prefer most slices"),
        ("1.2.3.1", "outranked", "prefer most slices"),
    ]


def test_a_series_uid_in_two_studies_mixes_no_patients(parts: Parts) -> None:
    add_rule(parts, "r")
    for number in (1, 2):
        receive(parts, number)
    for number in (3, 4):
        receive(parts, number, study="9.9.9")
    evaluate(parts)
    planned = {w.study_instance_uid: w.inputs for w in workitems.list_workitems(parts.index)}
    assert planned[STUDY][0].sop_instance_uids == ("1.2.3.1.1", "1.2.3.1.2")
    assert planned["9.9.9"][0].sop_instance_uids == ("1.2.3.1.3", "1.2.3.1.4")


# -- inputs that are missing ----------------------------------------------------------------------


@pytest.fixture
def waiting(parts: Parts) -> Parts:
    """A PET is there since noon; its CT is waited for, ten minutes."""
    destinations.add(
        parts.index, Destination(name="PACS", host="h", port=1, called_ae="PACS"), actor="test"
    )
    rule = Rule(
        name="pair",
        pipeline="hot_bone",
        where=("Modality in PT, CT",),
        destinations=("PACS",),
        wait_s=600,
        without=("ct",),
    )
    rules.add(parts.index, rule, actor="test")
    receive_series(parts, "pet")
    assert evaluate(parts, seconds=60) == START + timedelta(seconds=600)
    assert workitems.list_workitems(parts.index) == ()
    return parts


def receive_series(parts: Parts, name: str, *, seconds: float = 0) -> None:
    for number in (1, 2):
        receive(
            parts,
            number,
            series={"pet": "1.2.3.1", "ct": "1.2.3.2"}[name],
            modality={"pet": "PT", "ct": "CT"}[name],
            seconds=seconds,
        )


def ran(parts: Parts) -> list[list[str]]:
    """Roles of each workitem, in the order they were scheduled."""
    found = sorted(workitems.list_workitems(parts.index), key=lambda w: w.scheduled_at)
    return [[one.role for one in workitem.inputs] for workitem in found]


def test_nothing_is_done_until_the_wait_is_over_and_then_once(waiting: Parts) -> None:
    revision = studies.get(waiting.index, STUDY).revision
    assert evaluate(waiting, seconds=599) == START + timedelta(seconds=600)
    assert ran(waiting) == []
    assert evaluate(waiting, seconds=600) is None
    assert evaluate(waiting, seconds=9000) is None
    assert ran(waiting) == [["pet"]]
    study = studies.get(waiting.index, STUDY)
    assert (study.evaluated_revision, study.waits_until) == (revision, None)
    assert [d.code for d in studies.decisions(waiting.index, STUDY)] == ["runs", "absent"]


def test_the_partner_starts_the_pair_before_the_wait_is_over(waiting: Parts) -> None:
    receive_series(waiting, "ct", seconds=100)
    assert evaluate(waiting, seconds=160) is None
    assert ran(waiting) == [["pet", "ct"]]
    assert evaluate(waiting, seconds=9000) is None
    assert ran(waiting) == [["pet", "ct"]]


def test_a_partner_that_is_just_coming_is_not_gone_without(waiting: Parts) -> None:
    receive_series(waiting, "ct", seconds=590)
    # The wait is over, but the study is not quiet.
    assert evaluate(waiting, seconds=600) == START + timedelta(seconds=650)
    assert ran(waiting) == []
    evaluate(waiting, seconds=650)
    assert ran(waiting) == [["pet", "ct"]]


def test_a_partner_after_the_single_run_makes_a_second_workitem(waiting: Parts) -> None:
    evaluate(waiting, seconds=600)
    receive_series(waiting, "ct", seconds=5000)
    evaluate(waiting, seconds=5060)
    assert ran(waiting) == [["pet"], ["pet", "ct"]]


def test_a_rule_that_changes_counts_for_what_waits(waiting: Parts) -> None:
    changed = replace(rules.get(waiting.index, "pair"), wait_s=120)
    rules.edit(waiting.index, changed, actor="test", now=START + timedelta(seconds=130))
    evaluate(waiting, seconds=131)
    assert ran(waiting) == [["pet"]]


def test_a_rule_that_is_switched_off_ends_the_wait(waiting: Parts) -> None:
    rules.disable(waiting.index, "pair", actor="test", now=START + timedelta(seconds=100))
    evaluate(waiting, seconds=101)
    assert evaluate(waiting, seconds=9000) is None
    assert ran(waiting) == []
    assert studies.decisions(waiting.index, STUDY) == ()


def test_a_run_that_waits_for_good_is_held(waiting: Parts) -> None:
    held = replace(rules.get(waiting.index, "pair"), without=())
    rules.edit(waiting.index, held, actor="test", now=START + timedelta(seconds=100))
    assert evaluate(waiting, seconds=101) == START + timedelta(seconds=600)
    assert evaluate(waiting, seconds=600) is None
    assert ran(waiting) == []
    assert {d.code for d in studies.decisions(waiting.index, STUDY)} == {"held"}
    (*_, last) = events.list_events(waiting.index, kind="study-evaluated")
    assert last.detail["held"] == "pair"
    # The administrator changes his mind.
    rules.edit(waiting.index, replace(held, without=("ct",)), actor="test")
    assert evaluate(waiting, seconds=700) is None
    studies.evaluate_again(waiting.index, STUDY, actor="test", now=START + timedelta(seconds=800))
    evaluate(waiting, seconds=801)
    assert ran(waiting) == [["pet"]]


def test_both_inputs_reach_the_worker(waiting: Parts, seams: Seams) -> None:
    receive_series(waiting, "ct", seconds=100)
    evaluate(waiting, seconds=160)
    assert lifecycle.perform(waiting, now=START + timedelta(seconds=161))
    (task,) = seams.tasks
    assert {role: len(keys) for role, keys in task.inputs.items()} == {"pet": 2, "ct": 2}


# -- perform --------------------------------------------------------------------------------------


def test_nothing_to_perform(parts: Parts, seams: Seams) -> None:
    assert not lifecycle.perform(parts, now=START)
    assert seams.tasks == []


def test_a_worker_gets_plain_values_of_its_task(performed: Parts, seams: Seams) -> None:
    (task,) = seams.tasks
    assert set(task.inputs) == {"ct"}
    assert all(performed.archive.exists(key) for key in task.inputs["ct"])
    assert task.parameters == {"threshold_hu": 200.0}
    workitem = only_workitem(performed)
    assert workitem.state is WorkitemState.COMPLETED
    assert workitem.started_at == task.started_at
    assert only_delivery(performed).state is DeliveryState.PENDING


def test_a_refusal_is_final(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = Refused("Too few slices.", code="too-few-slices")
    assert lifecycle.perform(parts, now=START + timedelta(seconds=61))
    workitem = only_workitem(parts)
    assert workitem.state is WorkitemState.CANCELED
    assert (workitem.reason_code, workitem.reason) == ("too-few-slices", "Too few slices.")


@pytest.mark.parametrize("reportable", [True, False])
def test_a_refusal_is_reported_where_its_rule_says_so(
    parts: Parts, seams: Seams, reportable: bool
) -> None:
    add_rule(parts, "silent")
    add_rule(parts, "r", to="RIS", report_refusals=True)
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = Refused("Too few slices.", code="too-few-slices")
    seams.report_error = not reportable
    assert lifecycle.perform(parts, now=START + timedelta(seconds=61))
    assert only_workitem(parts).state is WorkitemState.CANCELED
    assert [task.refusal for task in seams.tasks] == [None, ("too-few-slices", "Too few slices.")]
    owed = {one.destination for one in deliveries.list_deliveries(parts.index)}
    assert owed == ({"PACS", "RIS"} if reportable else set())


def test_a_run_that_is_tried_again_is_not_reported_yet(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r", report_refusals=True)
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = PerformError("worker-died", "The worker died.")
    assert lifecycle.perform(parts, now=datetime.now(UTC))
    assert deliveries.list_deliveries(parts.index) == ()
    assert lifecycle.perform(parts, now=datetime.now(UTC) + timedelta(seconds=60))
    (owed,) = deliveries.list_deliveries(parts.index)
    assert only_workitem(parts).reason_code == "worker-died"
    assert owed.evidence.kind == "SR"


def test_a_profile_that_is_gone_fails_the_run_and_says_what_to_do(
    parts: Parts, seams: Seams
) -> None:
    add_rule(parts, "r")
    destinations.set_profile(parts.index, "PACS", "own", actor="test")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    assert lifecycle.perform(parts, now=START + timedelta(seconds=61))
    workitem = only_workitem(parts)
    assert workitem.reason_code == "profile-unknown"
    assert "[evidence.profiles]" in (workitem.reason or "")
    assert seams.tasks == []


def test_a_stopped_run_is_tried_again_until_its_attempts_are_spent(
    parts: Parts, seams: Seams
) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = PerformError("worker-died", "The worker died.")
    assert lifecycle.perform(parts, now=datetime.now(UTC))
    first = only_workitem(parts)
    assert (first.state, first.reason_code) == (WorkitemState.SCHEDULED, "worker-died")
    assert not lifecycle.perform(parts, now=datetime.now(UTC))  # not before `retry_s`
    assert lifecycle.perform(parts, now=datetime.now(UTC) + timedelta(seconds=11))
    assert only_workitem(parts).state is WorkitemState.CANCELED
    assert len(seams.tasks) == 2


def test_a_canceled_run_leaves_the_record_to_who_canceled(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = PerformError("canceled", "The node stops.")
    assert lifecycle.perform(parts, now=datetime.now(UTC))
    assert only_workitem(parts).state is WorkitemState.IN_PROGRESS
    assert workitems.release(parts.index, owner="node", now=datetime.now(UTC)) == 1


def test_a_run_that_somebody_canceled_meanwhile_does_not_count(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)

    def cancel_then_perform(task: PerformTask) -> PerformOutcome:
        workitems.cancel(parts.index, task.workitem_uid, actor="test")
        return seams.perform(task)

    disturbed = replace(parts, perform=cancel_then_perform)
    assert lifecycle.perform(disturbed, now=datetime.now(UTC))
    assert only_workitem(parts).state is WorkitemState.CANCELED
    assert deliveries.list_deliveries(parts.index) == ()


def test_runs_that_end_without_a_word_are_not_repeated_for_ever(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r")
    receive(parts, 1)
    receive(parts, 2)
    evaluate(parts)
    seams.error = RuntimeError("Nobody foresaw it.")
    for minute in (0, 2):
        with pytest.raises(RuntimeError):
            lifecycle.perform(parts, now=START + timedelta(minutes=2 + minute))
    assert lifecycle.perform(parts, now=START + timedelta(minutes=6))
    workitem = only_workitem(parts)
    assert (workitem.state, workitem.reason_code) == (WorkitemState.CANCELED, "attempts-spent")
    assert len(seams.tasks) == 2


# -- deliver --------------------------------------------------------------------------------------


def deliver(parts: Parts, *, seconds: float = 0) -> bool:
    return lifecycle.deliver(parts, "PACS", now=datetime.now(UTC) + timedelta(seconds=seconds))


def test_delivered_once(performed: Parts, seams: Seams) -> None:
    assert deliver(performed)
    assert only_delivery(performed).state is DeliveryState.SENT
    assert not deliver(performed, seconds=3600)
    assert [destination.name for destination, _ in seams.sent] == ["PACS"]


def test_no_answer_is_tried_again_until_the_attempts_are_spent(
    performed: Parts, seams: Seams
) -> None:
    seams.status = None
    assert deliver(performed)
    waiting = only_delivery(performed)
    assert (waiting.state, waiting.attempts) == (DeliveryState.PENDING, 1)
    assert not deliver(performed)
    assert deliver(performed, seconds=60)
    assert only_delivery(performed).state is DeliveryState.FAILED
    deliveries.retry(performed.index, delivery_id=waiting.delivery_id, actor="test")
    seams.status = 0x0000
    assert deliver(performed, seconds=61)
    assert only_delivery(performed).state is DeliveryState.SENT


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0xB007, DeliveryState.SENT),
        (0xA700, DeliveryState.PENDING),
        (0x0122, DeliveryState.FAILED),
        (0xC000, DeliveryState.FAILED),
    ],
)
def test_the_answer_settles(
    performed: Parts, seams: Seams, status: int, state: DeliveryState
) -> None:
    seams.status = status
    assert deliver(performed)
    settled = only_delivery(performed)
    assert (settled.state, settled.status) == (state, status)
    assert settled.message.startswith(f"0x{status:04X}")


def test_what_is_owed_to_a_removed_destination_fails_with_a_reason(
    performed: Parts, seams: Seams
) -> None:
    rules.remove(performed.index, "r", actor="test")
    destinations.remove(performed.index, "PACS", actor="test")
    assert deliver(performed)
    settled = only_delivery(performed)
    assert settled.state is DeliveryState.FAILED
    assert "removed" in settled.message
    assert seams.sent == []


def test_missing_evidence_is_told_and_holds_up_nothing_else(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "r", each=True)
    for series in ("1.2.3.1", "1.2.3.2"):
        receive(parts, 1, series=series)
        receive(parts, 2, series=series)
    evaluate(parts)
    while lifecycle.perform(parts, now=START + timedelta(seconds=61)):
        pass
    gone, kept = deliveries.list_deliveries(parts.index)
    parts.archive.delete(gone.evidence.archive_key)
    assert deliver(parts)
    assert deliveries.get(parts.index, kept.delivery_id).state is DeliveryState.SENT
    failed = deliveries.get(parts.index, gone.delivery_id)
    assert (failed.state, failed.attempts) == (DeliveryState.PENDING, 1)
    assert gone.evidence.archive_key in failed.message
    assert deliver(parts, seconds=60)
    assert deliveries.get(parts.index, gone.delivery_id).state is DeliveryState.FAILED
    assert len(seams.sent) == 1


def test_a_batch_longer_than_its_lease_is_not_sent_by_a_second_node(
    performed: Parts, seams: Seams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "LEASE_S", 2.0)
    monkeypatch.setattr(claims, "RENEW_S", 0.05)
    second = replace(performed, owner="second")

    def send_slowly(destination: Destination, items: Sequence[SendItem]) -> list[SendStatus]:
        time.sleep(2.5)
        assert not lifecycle.deliver(second, "PACS", now=datetime.now(UTC))
        return seams.send(destination, items)

    assert deliver(replace(performed, send=send_slowly))
    assert only_delivery(performed).state is DeliveryState.SENT
    assert len(seams.sent) == 1


def test_backoff_doubles_up_to_a_ceiling_and_spreads() -> None:
    waits = [backoff(n, first_s=10, most_s=100, jitter=0.5) for n in range(1, 7)]
    assert waits == [10, 20, 40, 80, 100, 100]
    assert backoff(1, first_s=10, most_s=100, jitter=0.0) == 7.5
    assert backoff(1, first_s=10, most_s=100, jitter=1.0) == 12.5
    assert backoff(10_000, first_s=10, most_s=100, jitter=0.5) == 100


def test_no_answer_is_no_refusal() -> None:
    assert classify(None) is Outcome.RETRY


def test_a_run_whose_images_have_expired_says_so(parts: Parts, seams: Seams) -> None:
    add_rule(parts, "bones")
    for number in range(3):
        receive(parts, number)
    evaluate(parts)
    gone = instances.get(parts.index, "1.2.3.1.1")
    mark = FileMark(
        archive_key=gone.archive_key,
        sop_instance_uid=gone.sop_instance_uid,
        study_instance_uid=STUDY,
        state=FileState.EXPIRED,
        at=START,
        reason="It was received more than 30 days ago.",
    )
    assert files.mark(parts.index, mark, actor="test")
    lifecycle.perform(parts, now=START + timedelta(seconds=61))
    workitem = only_workitem(parts)
    assert workitem.reason_code == "input-expired"
    assert workitem.reason is not None
    assert workitem.reason.startswith("1 of 3 instances have expired")
    assert seams.tasks == []
    receive(parts, 1)
    lifecycle.perform(parts, now=datetime.now(UTC) + timedelta(seconds=61))
    assert only_workitem(parts).state is WorkitemState.COMPLETED


def test_a_destination_is_sent_to_in_its_window(parts: Parts) -> None:
    night = Destination(name="NIGHT", host="h", port=104, called_ae="N", window="20:00-06:00")
    always = Destination(name="PACS", host="h", port=104, called_ae="P")
    for one in (night, always):
        destinations.add(parts.index, one, actor="test")
    config = parts.config.model_copy(
        update={"node": parts.config.node.model_copy(update={"timezone": "UTC"})}
    )
    names = ["NIGHT", "PACS", "REMOVED"]
    parts = replace(parts, config=config)
    at_noon = lifecycle.open_destinations(parts, names, now=START)
    assert at_noon == ("PACS", "REMOVED")
    at_night = lifecycle.open_destinations(parts, names, now=START + timedelta(hours=10))
    assert at_night == tuple(names)
