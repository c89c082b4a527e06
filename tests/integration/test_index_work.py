"""Workitems and deliveries: claims, leases, and what counts once, on both databases."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rows import (
    NOON,
    STUDY,
    complete,
    later,
    make_completion,
    make_evidence,
    make_instance,
    make_workitem,
    run_at_once,
    schedule,
)
from sqlalchemy.exc import IntegrityError

from storage.errors import ChangeRefused, NotFound
from storage.index import (
    Index,
    deliveries,
    events,
    findings,
    instances,
    measurements,
    open_index,
    workitems,
)
from storage.model import Delivery, DeliveryState, Failure, Workitem, WorkitemState

ROOT = Path(__file__).resolve().parent.parent.parent


def claim(index: Index, owner: str = "node-1", at: float = 1, lease_s: float = 60) -> Workitem:
    workitem = workitems.claim(index, owner=owner, now=later(at), lease_s=lease_s)
    assert workitem is not None
    return workitem


def kinds(index: Index, **filters: str) -> list[str]:
    return [event.kind for event in events.list_events(index, **filters)][1:]


def make_failure(**changes: Any) -> Failure:
    """A refusal for good."""
    failure = Failure(
        workitem_uid="1.9.1", owner="node-1", code="refused", reason="Too few slices.", at=later(5)
    )
    return replace(failure, **changes)


def run_until_killed(code: str, *arguments: str) -> None:
    path = f"{ROOT}:{ROOT / 'tests'}"
    command = [sys.executable, "-c", code, *arguments]
    killed = subprocess.run(command, env={"PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL


# -- claiming -------------------------------------------------------------------------------------


def test_the_most_urgent_is_claimed_first_then_the_oldest(index: Index) -> None:
    schedule(
        index,
        make_workitem(1, at=later(0)),
        make_workitem(2, at=later(2)),
        make_workitem(3, priority=90, at=later(3)),
        make_workitem(4, at=later(1)),
    )
    claimed = [claim(index, at=10).workitem_uid for _ in range(4)]
    assert claimed == ["1.9.3", "1.9.1", "1.9.4", "1.9.2"]
    assert workitems.claim(index, owner="node-1", now=later(10), lease_s=60) is None


def test_a_claim_is_in_progress_under_its_owner(index: Index) -> None:
    planned = make_workitem(1)
    schedule(index, planned)
    claimed = claim(index)
    assert claimed == replace(
        planned,
        state=WorkitemState.IN_PROGRESS,
        owner="node-1",
        attempts=1,
        started_at=later(1),
    )
    assert workitems.get(index, planned.workitem_uid) == claimed


def test_a_workitem_is_not_claimed_before_its_time(index: Index) -> None:
    schedule(index, replace(make_workitem(1), not_before=later(30)))
    assert workitems.claim(index, owner="node-1", now=later(29), lease_s=60) is None
    assert claim(index, at=30).attempts == 1


def test_two_claimers_never_get_the_same(index: Index) -> None:
    schedule(index, *(make_workitem(n) for n in range(40)))

    def claim_all(owner: str) -> list[str]:
        got = []
        while found := workitems.claim(index, owner=owner, now=later(1), lease_s=60):
            got.append(found.workitem_uid)
        return got

    claimed = run_at_once([partial(claim_all, f"node-{n}") for n in range(8)])
    assert sorted(uid for got in claimed for uid in got) == sorted(f"1.9.{n}" for n in range(40))


def test_a_killed_owner_loses_its_claim_when_the_lease_runs_out(
    index: Index, database_url: str
) -> None:
    schedule(index, make_workitem(1))
    code = (
        "import os, signal, sys\n"
        "from rows import later\n"
        "from storage.index import open_index, workitems\n"
        "index = open_index(sys.argv[1])\n"
        "workitems.claim(index, owner='killed', now=later(1), lease_s=60)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run_until_killed(code, database_url)
    assert workitems.get(index, "1.9.1").owner == "killed"
    assert workitems.claim(index, owner="node-2", now=later(61), lease_s=60) is None
    taken = claim(index, owner="node-2", at=61.5)
    assert (taken.owner, taken.attempts) == ("node-2", 2)
    # The first owner was slow, not dead: nothing it does counts any more.
    assert not workitems.renew(
        index, workitem_uid="1.9.1", owner="killed", now=later(62), lease_s=60
    )
    assert not workitems.complete(index, make_completion(taken, owner="killed"))
    assert not workitems.fail(index, make_failure(owner="killed", at=later(62)))
    assert workitems.release(index, owner="killed", now=later(62)) == 0
    assert workitems.complete(index, make_completion(taken, owner="node-2"))


def test_a_renewed_claim_is_not_taken_over(index: Index) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    assert workitems.renew(index, workitem_uid="1.9.1", owner="node-1", now=later(50), lease_s=60)
    assert workitems.claim(index, owner="node-2", now=later(100), lease_s=60) is None
    assert claim(index, owner="node-2", at=111).owner == "node-2"


def test_a_restarted_owner_gives_back_what_it_held(index: Index) -> None:
    schedule(index, make_workitem(1), make_workitem(2), make_workitem(3))
    claim(index, owner="node-1")
    claim(index, owner="node-1")
    claim(index, owner="node-2")
    assert workitems.release(index, owner="node-1", now=later(5)) == 2
    released = [w for w in workitems.list_workitems(index) if w.state == WorkitemState.SCHEDULED]
    assert [(w.attempts, w.owner) for w in released] == [(0, None)] * 2
    # The time of the first start stays: it is the Content Time of the evidence that the next attempt makes.
    started = {w.workitem_uid: w.started_at for w in released}
    again = claim(index, owner="node-1", at=7)
    assert again.started_at == started[again.workitem_uid]
    assert workitems.release(index, owner="node-1", now=later(7)) == 1
    assert kinds(index, study=STUDY) == ["workitem-released"] * 3
    assert workitems.release(index, owner="node-1", now=later(8)) == 0
    assert claim(index, owner="node-1", at=7).attempts == 1


# -- completing, failing --------------------------------------------------------------------------


def test_a_completion_is_recorded_whole(index: Index) -> None:
    schedule(index, make_workitem(1, destinations=("PACS", "ARCHIVE", "PACS")))
    workitem = claim(index)
    completion = make_completion(workitem)
    assert workitems.complete(index, completion)
    done = workitems.get(index, workitem.workitem_uid)
    assert done.state == WorkitemState.COMPLETED
    assert (done.started_at, done.ended_at) == (later(1), later(60))
    assert done.timings == {"load": 1.25, "infer": 40.0}
    assert done.notices == (("cut-off", "The field of view cuts the pelvis."),)
    assert measurements.list_measurements(index) == completion.measurements
    owed = deliveries.list_deliveries(index, study=STUDY)
    assert sorted((d.evidence.kind, d.destination) for d in owed) == [
        ("SEG", "ARCHIVE"),
        ("SEG", "PACS"),
        ("SR", "ARCHIVE"),
        ("SR", "PACS"),
    ]
    assert {d.evidence for d in owed} == set(completion.evidence)
    (event,) = events.list_events(index, kind="workitem-completed")
    assert (event.workitem_uid, event.study_instance_uid) == (workitem.workitem_uid, STUDY)
    assert event.detail == {"pipeline": "ct_skeleton", "evidence": 2, "measurements": 1}


def test_a_completion_counts_once(index: Index) -> None:
    schedule(index, make_workitem(1))
    completion = make_completion(claim(index))
    outcomes = run_at_once([partial(workitems.complete, index, completion) for _ in range(4)])
    assert sorted(outcomes) == [False, False, False, True]
    assert len(deliveries.list_deliveries(index)) == 2
    assert len(measurements.list_measurements(index)) == 1


def test_a_completion_that_cannot_be_recorded_leaves_nothing(index: Index) -> None:
    schedule(index, make_workitem(1))
    completion = make_completion(claim(index))
    seg, sr = completion.evidence
    twice = replace(completion, evidence=(seg, replace(sr, sop_instance_uid=seg.sop_instance_uid)))
    with pytest.raises(IntegrityError):
        workitems.complete(index, twice)
    assert workitems.get(index, "1.9.1").state == WorkitemState.IN_PROGRESS
    assert measurements.list_measurements(index) == ()
    assert workitems.complete(index, completion)


def test_a_completion_without_evidence(index: Index) -> None:
    schedule(index, make_workitem(1))
    completion = make_completion(claim(index))
    assert workitems.complete(index, replace(completion, evidence=(), measurements=()))
    assert deliveries.list_deliveries(index) == ()


def test_a_failed_attempt_is_tried_again_at_its_time(index: Index) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    assert workitems.fail(
        index,
        make_failure(code="killed", reason="The worker was killed.", retry_at=later(15)),
    )
    failed = workitems.get(index, "1.9.1")
    assert (failed.state, failed.not_before) == (WorkitemState.SCHEDULED, later(15))
    assert (failed.reason_code, failed.reason) == ("killed", "The worker was killed.")
    assert (failed.owner, failed.started_at, failed.ended_at) == (None, None, None)
    assert workitems.claim(index, owner="node-1", now=later(14), lease_s=60) is None
    again = claim(index, at=15)
    assert again.attempts == 2
    assert workitems.complete(index, make_completion(again))
    assert workitems.get(index, "1.9.1").reason_code is None
    assert kinds(index, workitem="1.9.1")[0:] == ["workitem-completed"]
    (attempt,) = events.list_events(index, kind="workitem-attempt-failed")
    assert attempt.outcome == "failure"
    assert attempt.detail == {"code": "killed", "retry_at": later(15).isoformat()}


def test_a_final_failure_is_canceled_with_its_reason(index: Index) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    assert workitems.fail(index, make_failure(reason="Too few slices."))
    failed = workitems.get(index, "1.9.1")
    assert (failed.state, failed.ended_at) == (WorkitemState.CANCELED, later(5))
    assert (failed.reason_code, failed.reason) == ("refused", "Too few slices.")
    assert not workitems.fail(index, make_failure(reason="Again."))
    assert kinds(index) == ["workitem-failed"]
    assert workitems.claim(index, owner="node-1", now=later(1000), lease_s=60) is None


def test_a_refusal_is_owed_to_whom_its_report_was_made_for(index: Index) -> None:
    workitem = make_workitem(1, destinations=("PACS", "RT"))
    schedule(index, workitem)
    claim(index)
    report = make_evidence(workitem, "SR")
    failure = make_failure(evidence=(report,), profiles={"PACS": "generic", "RT": "radiotherapy"})
    assert workitems.fail(index, failure)
    (owed,) = deliveries.list_deliveries(index)
    assert (owed.destination, owed.evidence) == ("PACS", report)


def test_each_destination_is_owed_what_was_made_for_its_profile(index: Index) -> None:
    schedule(index, make_workitem(1, destinations=("PACS", "RT")))
    made = make_completion(claim(index))
    seg, report = made.evidence
    completion = replace(
        made,
        evidence=(replace(seg, profiles=("radiotherapy", "generic")), report),
        profiles={"PACS": "generic", "RT": "radiotherapy"},
    )
    assert workitems.complete(index, completion)
    owed = {(one.destination, one.evidence.kind) for one in deliveries.list_deliveries(index)}
    assert owed == {("PACS", "SEG"), ("PACS", "SR"), ("RT", "SEG")}
    (stored,) = deliveries.list_deliveries(index, destination="RT")
    assert stored.evidence.proof == seg.proof


# -- findings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "knows"),
    [
        ({"PatientID": ("P1",)}, True),
        ({"PatientID": ("P2",)}, False),
        ({"PatientID": ("P1",), "IssuerOfPatientID": ("OTHER",)}, False),
        ({}, False),
    ],
)
def test_a_patients_next_study_knows_what_was_found(
    index: Index, header: dict[str, Any], knows: bool
) -> None:
    instances.add(index, make_instance(1, header={"PatientID": ("P1",)}))
    complete(index, make_workitem(1))
    instances.add(index, make_instance(2, study="1.3", header=header))
    found = findings.known(index, study_instance_uid="1.3", pipeline="ct_skeleton")
    assert found == ({"Bone": "1.9.1.7"} if knows else {})
    assert not findings.known(index, study_instance_uid="1.3", pipeline="qct_femur")


def test_what_was_found_last_is_what_is_known(index: Index) -> None:
    complete(index, make_workitem(1))
    schedule(index, make_workitem(2))
    again = claim(index, at=70)
    assert workitems.complete(index, replace(make_completion(again), ended_at=later(90)))
    known = findings.known(index, study_instance_uid=STUDY, pipeline="ct_skeleton")
    assert known == {"Bone": "1.9.2.7"}
    (finding,) = findings.of_workitem(index, "1.9.1")
    assert finding.tracking_uid == "1.9.1.7"


def test_a_reason_no_database_can_hold_is_told_all_the_same(index: Index) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    assert workitems.fail(index, make_failure(reason="Not \0\udc80 a spine."))
    assert workitems.get(index, "1.9.1").reason == "Not ? a spine."


# -- by a person ----------------------------------------------------------------------------------


def test_a_cancelled_workitem_is_taken_from_its_owner(index: Index) -> None:
    schedule(index, make_workitem(1))
    workitem = claim(index)
    cancelled = workitems.cancel(index, "1.9.1", actor="anna", now=later(5))
    assert cancelled.state == WorkitemState.CANCELED
    assert (cancelled.reason_code, cancelled.ended_at) == ("canceled-by-user", later(5))
    assert "anna" in str(cancelled.reason)
    assert not workitems.renew(
        index, workitem_uid="1.9.1", owner="node-1", now=later(6), lease_s=60
    )
    assert not workitems.complete(index, make_completion(workitem))
    with pytest.raises(ChangeRefused, match="CANCELED"):
        workitems.cancel(index, "1.9.1", actor="anna")
    (event,) = events.list_events(index, kind="workitem-canceled")
    assert (event.actor, event.workitem_uid) == ("anna", "1.9.1")


def test_a_cancelled_workitem_is_scheduled_again(index: Index) -> None:
    schedule(index, make_workitem(1))
    claim(index)
    workitems.cancel(index, "1.9.1", actor="anna", now=later(5))
    assert workitems.retry(index, "1.9.1", actor="ben", now=later(6)) == make_workitem(1)
    assert claim(index, at=7).attempts == 1
    assert kinds(index) == ["workitem-canceled", "workitem-retried"]


@pytest.mark.parametrize("change", [workitems.cancel, workitems.retry])
def test_a_completed_workitem_stays(index: Index, change: type) -> None:
    workitem = make_workitem(1)
    complete(index, workitem)
    with pytest.raises(ChangeRefused, match="COMPLETED"):
        change(index, "1.9.1", actor="anna")
    with pytest.raises(NotFound, match=r"No workitem 1\.2\.3"):
        change(index, "1.2.3", actor="anna")
    with pytest.raises(NotFound, match=r"No workitem 1\.2\.3"):
        workitems.get(index, "1.2.3")


def test_workitems_are_listed_by_study_and_state(index: Index) -> None:
    schedule(index, make_workitem(1, at=later(1)), make_workitem(2, at=later(2)))
    schedule(index, make_workitem(3, study="1.7", at=later(3)), study="1.7")
    claim(index)
    uids = partial(lambda found: [w.workitem_uid for w in found])
    assert uids(workitems.list_workitems(index)) == ["1.9.3", "1.9.2", "1.9.1"]
    assert uids(workitems.list_workitems(index, limit=2)) == ["1.9.3", "1.9.2"]
    assert uids(workitems.list_workitems(index, study=STUDY)) == ["1.9.2", "1.9.1"]
    in_progress = workitems.list_workitems(index, state=WorkitemState.IN_PROGRESS)
    assert uids(in_progress) == ["1.9.1"]
    assert in_progress[0].inputs == make_workitem(1).inputs


# -- deliveries -----------------------------------------------------------------------------------


def claim_due(index: Index, at: float = 100, owner: str = "node-1") -> tuple[Delivery, ...]:
    return deliveries.claim_due(index, owner=owner, now=later(at), lease_s=60, limit=64)


def settle(
    index: Index, delivery: Delivery, state: DeliveryState, *, at: float, again: float | None = None
) -> bool:
    return deliveries.settle(
        index,
        delivery_id=delivery.delivery_id,
        state=state,
        status=0x0000 if state == DeliveryState.SENT else 0xA700,
        message="",
        next_attempt_at=None if again is None else later(again),
        now=later(at),
    )


@pytest.fixture
def owed(index: Index) -> tuple[Delivery, ...]:
    """A SEG and an SR, each to two destinations, due a minute after noon."""
    complete(index, make_workitem(1, destinations=("PACS", "ARCHIVE")))
    return deliveries.list_deliveries(index)


def test_deliveries_are_due_when_their_time_comes(index: Index, owed: tuple[Delivery, ...]) -> None:
    assert claim_due(index, at=59) == ()
    assert deliveries.due_destinations(index, later(59)) == ()
    assert deliveries.due_destinations(index, later(60)) == ("ARCHIVE", "PACS")
    claimed = deliveries.claim_due(
        index, owner="node-1", now=later(60), lease_s=60, destination="PACS", limit=1
    )
    assert [(d.destination, d.evidence.kind, d.state) for d in claimed] == [
        ("PACS", "SEG", DeliveryState.PENDING)
    ]
    assert len(claim_due(index)) == 3
    assert deliveries.due_destinations(index, later(100)) == ()


def test_two_senders_never_get_the_same_delivery(index: Index) -> None:
    for n in range(6):
        complete(index, make_workitem(n))

    def claim_all(owner: str) -> list[int]:
        got: list[int] = []
        while found := deliveries.claim_due(
            index, owner=owner, now=later(100), lease_s=60, limit=2
        ):
            got += [delivery.delivery_id for delivery in found]
        return got

    claimed = run_at_once([partial(claim_all, f"node-{n}") for n in range(8)])
    ids = [delivery_id for got in claimed for delivery_id in got]
    assert len(ids) == len(set(ids)) == 12


def test_a_sent_delivery_is_settled_once(index: Index, owed: tuple[Delivery, ...]) -> None:
    delivery = claim_due(index)[0]
    assert settle(index, delivery, DeliveryState.SENT, at=101)
    assert not settle(index, delivery, DeliveryState.SENT, at=102)
    assert not settle(index, delivery, DeliveryState.PENDING, at=102, again=103)
    sent = deliveries.get(index, delivery.delivery_id)
    assert (sent.state, sent.status, sent.attempts) == (DeliveryState.SENT, 0, 1)
    assert sent.updated_at == later(101)
    (event,) = events.list_events(index, kind="delivery-sent")
    assert (event.workitem_uid, event.outcome) == (delivery.evidence.workitem_uid, "success")
    assert event.detail["destination"] == delivery.destination
    assert event.detail["sop_instance_uid"] == delivery.evidence.sop_instance_uid


def test_a_delivery_that_was_not_taken_is_tried_again(
    index: Index, owed: tuple[Delivery, ...]
) -> None:
    for delivery in claim_due(index):
        assert settle(index, delivery, DeliveryState.PENDING, at=101, again=200)
    assert claim_due(index, at=199) == ()
    again = claim_due(index, at=200)
    assert [(d.attempts, d.status) for d in again] == [(1, 0xA700)] * 4
    assert events.list_events(index, kind="delivery-failed") == ()


def test_storage_commitment_settles_what_was_sent(index: Index, owed: tuple[Delivery, ...]) -> None:
    first, second, *_ = claim_due(index)
    settle(index, first, DeliveryState.SENT, at=101)
    settle(index, second, DeliveryState.SENT, at=101)
    assert settle(index, first, DeliveryState.COMMITTED, at=110)
    assert settle(index, second, DeliveryState.FAILED, at=110)
    assert deliveries.get(index, first.delivery_id).attempts == 1
    assert not settle(index, first, DeliveryState.FAILED, at=111)
    assert kinds(index)[1:] == ["delivery-sent"] * 2 + ["delivery-committed", "delivery-failed"]


def test_a_failed_delivery_is_retried_by_hand(index: Index, owed: tuple[Delivery, ...]) -> None:
    delivery = claim_due(index)[0]
    settle(index, delivery, DeliveryState.FAILED, at=101)
    assert events.list_events(index, kind="delivery-failed")[0].outcome == "failure"
    retried = deliveries.retry(
        index, delivery_id=delivery.delivery_id, actor="anna", now=later(300)
    )
    assert (retried.state, retried.attempts) == (DeliveryState.PENDING, 0)
    assert [d.delivery_id for d in claim_due(index, at=300) if d.next_attempt_at == later(300)] == [
        delivery.delivery_id
    ]
    assert events.list_events(index, kind="delivery-retried")[0].actor == "anna"
    with pytest.raises(NotFound, match="No delivery 999"):
        deliveries.retry(index, delivery_id=999, actor="anna")
    with pytest.raises(NotFound, match="No delivery 999"):
        deliveries.get(index, 999)


def test_a_dead_sender_loses_its_deliveries(index: Index, owed: tuple[Delivery, ...]) -> None:
    assert len(claim_due(index, at=100, owner="node-1")) == 4
    assert claim_due(index, at=160, owner="node-2") == ()
    assert len(claim_due(index, at=161, owner="node-2")) == 4
    # A restarted owner does not wait for its own lease.
    assert deliveries.release(index, owner="node-1", now=later(162)) == 0
    assert deliveries.release(index, owner="node-2", now=later(162)) == 4
    assert [d.attempts for d in claim_due(index, at=162, owner="node-2")] == [0] * 4


def test_deliveries_are_listed_by_what_they_are(index: Index, owed: tuple[Delivery, ...]) -> None:
    complete(index, make_workitem(2))
    settle(index, owed[0], DeliveryState.SENT, at=101)
    assert len(deliveries.list_deliveries(index)) == 6
    assert len(deliveries.list_deliveries(index, limit=5)) == 5
    assert len(deliveries.list_deliveries(index, workitem="1.9.2")) == 2
    assert len(deliveries.list_deliveries(index, study="1.2.3")) == 0
    assert len(deliveries.list_deliveries(index, destination="ARCHIVE")) == 2
    sent = deliveries.list_deliveries(index, state=DeliveryState.SENT)
    assert [d.delivery_id for d in sent] == [owed[0].delivery_id]
    ids = [d.delivery_id for d in deliveries.list_deliveries(index)]
    assert ids == sorted(ids, reverse=True)


# -- what survives --------------------------------------------------------------------------------


def test_a_process_killed_within_a_transaction_leaves_nothing_of_it(
    index: Index, database_url: str
) -> None:
    instances.add(index, make_instance(1))
    code = (
        "import os, signal, sys\n"
        "from rows import make_instance\n"
        "from sqlalchemy import text\n"
        "from storage.index import instances, open_index\n"
        "index = open_index(sys.argv[1])\n"
        "instances.add(index, make_instance(2))\n"
        "with index.begin() as connection:\n"
        "    connection.execute(text('UPDATE studies SET revision = 99'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run_until_killed(code, database_url)
    with open_index(database_url) as reopened:
        # No lock is left behind either.
        assert instances.add(reopened, make_instance(3, at=NOON)) == "ADDED"
        from_both = [i.sop_instance_uid for i in instances.of_series(reopened, f"{STUDY}.2")]
    assert from_both == [f"{STUDY}.2.{n}" for n in (1, 2, 3)]
