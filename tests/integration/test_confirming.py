"""Storage commitment over real associations: a peer that reports here, there, late, never, or with failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from committing import PUSH_MODEL, PUSH_MODEL_INSTANCE, CommittingPacs, Reports
from dicomgen import Geometry, make_series, save_all
from nodes import Node, free_port, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role
from rows import complete, later, make_workitem

from node import confirming
from node.config import Config
from node.scp import Scp
from node.scu import send_paths
from storage.archive import Archive
from storage.index import Index, commitments, deliveries, destinations, events
from storage.model import Commitment, CommitmentState, Delivery, DeliveryState, Destination, utcnow


class Bench:
    """An index with an SEG and an SR of one workitem, our listener, and a peer: each step is the test's."""

    def __init__(self, index: Index, folder: Path) -> None:
        port = free_port()
        self.index = index
        self.peer = CommittingPacs(node_port=port)
        self.config = Config.model_validate(
            {
                "node": {"host": "127.0.0.1", "port": port, "data": folder},
                "delivery": {
                    "commit_wait_s": 0.5,
                    "timeout_s": 5,
                    "backoff_s": 10,
                    "max_attempts": 2,
                },
            }
        )
        self.scp = Scp(
            self.config,
            Archive(str(folder / "archive")),
            index,
            keep_report=lambda report: confirming.keep_report(index, report),
        )
        self.scp.start()
        self.peer.start()
        destinations.add(index, self.destination, actor="test")
        complete(index, make_workitem(1))

    @property
    def destination(self) -> Destination:
        return Destination(
            name="PACS",
            host="127.0.0.1",
            port=self.peer.port,
            called_ae="PACS",
            commitment=True,
        )

    def close(self) -> None:
        self.peer.stop()
        self.scp.stop()

    @property
    def owed(self) -> dict[str, Delivery]:
        """By kind."""
        return {one.evidence.kind: one for one in deliveries.list_deliveries(self.index)}

    @property
    def states(self) -> dict[str, DeliveryState]:
        return {kind: one.state for kind, one in self.owed.items()}

    @property
    def transaction(self) -> Commitment:
        (one,) = commitments.list_commitments(self.index)
        return one

    def sent(self, *kinds: str) -> None:
        """The peer has taken these, and holds them."""
        for kind in kinds:
            one = self.owed[kind]
            assert deliveries.settle(
                self.index,
                delivery_id=one.delivery_id,
                state=DeliveryState.SENT,
                status=0,
                message="0x0000 Success",
                next_attempt_at=None,
                now=utcnow(),
            )
            self.peer.instances.add(one.evidence.sop_instance_uid)

    def confirm(self, *, seconds: float = 0) -> bool:
        """One step, so many seconds from now."""
        now = utcnow() + timedelta(seconds=seconds)
        confirming.open_due(self.config, self.index, now=now)
        return confirming.confirm(self.config, self.index, "PACS", owner="node", now=now)

    def reach_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The clock goes on until a report is not waited for any more."""
        at = self.transaction.deadline + timedelta(seconds=1)
        monkeypatch.setattr(confirming, "utcnow", lambda: at)


@pytest.fixture
def bench(index: Index, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(index, tmp_path)
    yield made
    made.close()


ALL = {"SEG": DeliveryState.COMMITTED, "SR": DeliveryState.COMMITTED}


@pytest.mark.parametrize(
    ("reports", "negotiates"), [(Reports.SAME, True), (Reports.NEW, True), (Reports.NEW, False)]
)
def test_all_of_a_workitem_is_committed(bench: Bench, reports: Reports, negotiates: bool) -> None:
    bench.peer.reports, bench.peer.negotiates = reports, negotiates
    bench.sent("SEG")
    # Half of it is on its way.
    assert not bench.confirm()
    bench.sent("SR")
    assert all(one.is_open for one in bench.owed.values())
    assert bench.confirm()
    wait_for("the report", lambda: bench.peer.answers, 10)
    assert bench.states == ALL
    assert bench.peer.answers == [0x0000]
    (request,) = bench.peer.requests
    assert {
        (i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in request.ReferencedSOPSequence
    } == {
        (one.evidence.sop_class_uid, one.evidence.sop_instance_uid) for one in bench.owed.values()
    }
    assert bench.transaction.state is CommitmentState.SETTLED
    assert request.TransactionUID == bench.transaction.transaction_uid
    assert not any(one.is_open for one in bench.owed.values())
    assert not bench.confirm()
    assert bench.peer.asked == []
    assert len(events.list_events(bench.index, kind="delivery-committed")) == 2


def test_a_report_counts_once(bench: Bench) -> None:
    bench.peer.reports = Reports.NEVER
    bench.sent("SEG", "SR")
    bench.confirm()
    assert bench.transaction.state is CommitmentState.ASKED
    assert bench.peer.report(bench.peer.requests[0]) == 0x0000
    assert bench.peer.report(bench.peer.requests[0]) == 0x0000
    assert bench.states == ALL
    assert len(events.list_events(bench.index, kind="delivery-committed")) == 2


def test_failures_have_their_reason(bench: Bench) -> None:
    bench.peer.failing[bench.owed["SR"].evidence.sop_instance_uid] = 0x0112
    bench.sent("SEG", "SR")
    bench.confirm()
    wait_for("the report", lambda: bench.peer.answers, 10)
    seg, sr = bench.owed["SEG"], bench.owed["SR"]
    assert (seg.state, seg.failure_reason) == (DeliveryState.COMMITTED, None)
    assert (sr.state, sr.failure_reason) == (DeliveryState.FAILED, 0x0112)
    assert "0x0112 no such object instance" in sr.message
    (failed,) = events.list_events(bench.index, kind="delivery-failed")
    assert failed.detail["failure_reason"] == "0x0112"
    # Sent again it is asked about again, alone.
    bench.peer.failing.clear()
    deliveries.retry(bench.index, delivery_id=sr.delivery_id, actor="anna")
    bench.sent("SR")
    bench.confirm()
    wait_for("the second report", lambda: len(bench.peer.answers) == 2, 10)
    assert bench.states == ALL
    assert bench.owed["SR"].failure_reason is None
    assert len(bench.peer.requests[1].ReferencedSOPSequence) == 1


def test_a_report_that_never_comes_is_replaced_by_a_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.peer.reports = Reports.NEVER
    bench.sent("SEG", "SR")
    bench.peer.instances.discard(bench.owed["SR"].evidence.sop_instance_uid)
    bench.confirm()
    assert not bench.confirm(seconds=3599)
    bench.reach_the_deadline(monkeypatch)
    assert bench.confirm(seconds=3700)
    assert bench.peer.asked == ["IMAGE"]
    seg, sr = bench.owed["SEG"], bench.owed["SR"]
    assert seg.state is DeliveryState.COMMITTED
    assert "read back by C-FIND" in seg.message
    assert (sr.state, sr.failure_reason) == (DeliveryState.FAILED, 0x0112)
    assert bench.transaction.state is CommitmentState.SETTLED
    # What the peer says later of what it was slow to list counts.
    assert bench.peer.report(bench.peer.requests[0]) == 0x0000
    assert bench.states == ALL


def test_a_peer_that_offers_no_commitment_is_queried_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.peer.stop()
    bench.peer.commits = False
    bench.peer.start()
    bench.sent("SEG", "SR")
    missing = bench.owed["SR"].evidence.sop_instance_uid
    bench.peer.instances.discard(missing)
    assert bench.confirm()
    assert bench.transaction.state is CommitmentState.READING
    assert bench.confirm()
    # It lists slowly: before the deadline nothing has failed.
    assert bench.states == {"SEG": DeliveryState.COMMITTED, "SR": DeliveryState.SENT}
    assert "1 instances are not found" in bench.transaction.reason
    bench.peer.instances.add(missing)
    assert bench.confirm(seconds=20)
    assert bench.states == ALL


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (0x0110, CommitmentState.WANTED),
        (0x0213, CommitmentState.WANTED),
        (0x0210, CommitmentState.ASKED),
        (0x0122, CommitmentState.READING),
        (0x0124, CommitmentState.READING),
    ],
)
def test_what_an_answer_to_the_request_means(
    bench: Bench, status: int, state: CommitmentState
) -> None:
    bench.peer.action_status = status
    bench.sent("SEG", "SR")
    bench.confirm()
    assert bench.transaction.state is state


def test_a_dead_peer_is_asked_again_and_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.peer.stop()
    bench.sent("SEG", "SR")
    assert bench.confirm()
    assert bench.transaction.state is CommitmentState.WANTED
    assert "cannot be reached" in bench.transaction.reason
    assert not bench.confirm(seconds=5)
    bench.reach_the_deadline(monkeypatch)
    assert bench.confirm(seconds=3700)
    assert bench.transaction.state is CommitmentState.READING
    assert bench.confirm(seconds=3700)
    assert bench.confirm(seconds=3800)
    assert bench.transaction.state is CommitmentState.EXPIRED
    assert bench.states == {"SEG": DeliveryState.SENT, "SR": DeliveryState.SENT}
    assert not any(one.is_open for one in bench.owed.values())
    assert "Not committed" in bench.owed["SEG"].message
    (expired,) = events.list_events(bench.index, kind="commitment-expired")
    assert expired.outcome == "failure"


def test_what_was_sent_before_the_option_is_not_asked_about(bench: Bench) -> None:
    destinations.edit(bench.index, "PACS", {"commitment": False}, actor="anna")
    bench.sent("SEG", "SR")
    destinations.edit(bench.index, "PACS", {"commitment": True}, actor="anna")
    assert not bench.confirm()
    assert not any(one.is_open for one in bench.owed.values())


def test_two_nodes_open_one_transaction(bench: Bench) -> None:
    bench.sent("SEG", "SR")
    now = later(1000)
    assert [confirming.open_due(bench.config, bench.index, now=now) for _ in range(2)] == [1, 0]
    mine = commitments.claim_due(bench.index, owner="a", now=now, lease_s=60, destination="PACS")
    assert len(mine) == 1
    again = {"owner": "b", "lease_s": 60.0, "destination": "PACS"}
    assert commitments.claim_due(bench.index, now=later(1030), **again) == ()  # type: ignore[arg-type]
    assert commitments.claim_due(bench.index, now=later(1061), **again) != ()  # type: ignore[arg-type]
    assert commitments.release(bench.index, owner="b") == 1


def tell(port: int, ds: Dataset, *, kind: int = 1) -> int:
    """An N-EVENT-REPORT of somebody's."""
    ae = AE("SOMEBODY")
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate(
        "127.0.0.1",
        port,
        ae_title="OSTEONODE",
        ext_neg=[build_role(PUSH_MODEL, scp_role=True)],  # type: ignore[list-item]
    )
    status, _ = assoc.send_n_event_report(ds, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assoc.release()
    return int(status.Status)


def test_reports_that_are_none_of_ours(bench: Bench) -> None:
    bench.peer.reports = Reports.NEVER
    bench.sent("SEG", "SR")
    bench.confirm()
    ds = Dataset()
    ds.RetrieveAETitle = "SOMEBODY"
    assert tell(bench.peer.node_port, ds) == 0x0115
    ds.TransactionUID = generate_uid()
    ds.ReferencedSOPSequence = bench.peer.requests[0].ReferencedSOPSequence
    assert tell(bench.peer.node_port, ds) == 0x0115
    ds.TransactionUID = bench.transaction.transaction_uid
    assert tell(bench.peer.node_port, ds, kind=3) == 0x0113
    assert set(bench.states.values()) == {DeliveryState.SENT}
    assert tell(bench.peer.node_port, ds) == 0x0000
    assert bench.states == ALL


def test_we_commit_ourselves_to_nothing(bench: Bench) -> None:
    ae = AE("CT1")
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate("127.0.0.1", bench.peer.node_port, ae_title="OSTEONODE")
    ds = Dataset()
    ds.TransactionUID = generate_uid()
    status, _ = assoc.send_n_action(ds, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    assoc.release()
    assert status.Status == 0x0211


def test_a_node_killed_after_asking_takes_the_report_after_its_start(tmp_path: Path) -> None:
    node = Node(folder=tmp_path / "node")
    with CommittingPacs(node_port=node.port, reports=Reports.NEVER) as pacs:
        node.start()
        try:
            node.route_to(pacs.port)
            with node.index() as index:
                destinations.edit(index, "PACS", {"commitment": True}, actor="test")
            paths = save_all(make_series(geometry=Geometry(slices=6)), tmp_path / "ct")
            us = Destination(name="n", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
            list(send_paths(us, paths, calling_ae="CT1", timeout_s=20))
            wait_for("N-ACTION", lambda: pacs.requests, 60)
            time.sleep(0.2)
            node.kill()
            node.start()
            assert pacs.report(pacs.requests[0]) == 0x0000
            with node.index() as index:
                owed = deliveries.list_deliveries(index)
            assert {one.state for one in owed} == {DeliveryState.COMMITTED}
            assert len(owed) == len(pacs.requests[0].ReferencedSOPSequence) == 2
        finally:
            node.kill_if_running()
