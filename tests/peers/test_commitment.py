"""Storage commitment by a real PACS: Orthanc takes the evidence, and reports on an association of its own."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import Node, wait_for
from orthanc import Orthanc, running_orthanc
from sqlalchemy import update

from node.scu import send_paths
from storage import tables
from storage.index import commitments, deliveries, destinations
from storage.model import CommitmentState, Delivery, DeliveryState, Destination

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.slow]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def deliver(node: Node, orthanc: Orthanc, folder: Path) -> None:
    """A CT to the node, whose SEG and SR go to Orthanc, which is asked to commit itself to them."""
    node.start()
    node.route_to(orthanc.dicom_port, called_ae=orthanc.ae_title)
    with node.index() as index:
        destinations.edit(index, "PACS", {"commitment": True}, actor="test")
    paths = save_all(make_series(geometry=Geometry(slices=8)), folder)
    us = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    list(send_paths(us, paths, calling_ae="CT1", timeout_s=20))


def owed(node: Node) -> tuple[Delivery, ...]:
    with node.index() as index:
        return deliveries.list_deliveries(index)


def knows(node: Node) -> dict[str, object]:
    return {"DicomModalities": {"osteonode": ["OSTEONODE", "127.0.0.1", node.port]}}


def test_orthanc_commits_itself_to_seg_and_sr(node: Node, tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc", settings=knows(node)) as orthanc:
        deliver(node, orthanc, tmp_path / "ct")
        wait_for(
            "COMMITTED",
            lambda: [one.state for one in owed(node)] == [DeliveryState.COMMITTED] * 2,
        )
    assert {one.message for one in owed(node)} == {"Committed: storage commitment."}
    assert "commitment_reported" in node.log


def test_an_orthanc_that_lost_what_it_took_says_so(node: Node, tmp_path: Path) -> None:
    with running_orthanc(tmp_path / "orthanc", settings=knows(node)) as orthanc:
        deliver(node, orthanc, tmp_path / "ct")
        wait_for("an end", lambda: owed(node) and not any(one.is_open for one in owed(node)))
        lost = next(
            one
            for one in orthanc.ask("/instances?expand")
            if one["MainDicomTags"]["SOPInstanceUID"] == owed(node)[0].evidence.sop_instance_uid
        )
        url = f"http://127.0.0.1:{orthanc.http_port}/instances/{lost['ID']}"
        with urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10):
            pass
        # Asked again, as a node does whose index was restored from before the report.
        with node.index() as index, index.begin() as connection:
            connection.execute(
                update(tables.deliveries).values(
                    state=DeliveryState.SENT, to_commit=True, transaction_uid=None
                )
            )
        wait_for("a second end", lambda: not any(one.is_open for one in owed(node)))
    by_uid = {one.evidence.sop_instance_uid: one for one in owed(node)}
    failed = by_uid.pop(lost["MainDicomTags"]["SOPInstanceUID"])
    assert (failed.state, failed.failure_reason) == (DeliveryState.FAILED, 0x0112)
    assert {one.state for one in by_uid.values()} == {DeliveryState.COMMITTED}


def test_an_orthanc_that_does_not_know_us_is_read_back(node: Node, tmp_path: Path) -> None:
    """It aborts on our request: C-FIND says what it holds."""
    node.settings["OSTEONODE_DELIVERY__COMMIT_DEADLINE_S"] = "3"
    node.settings["OSTEONODE_DELIVERY__COMMIT_WAIT_S"] = "0.1"
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        deliver(node, orthanc, tmp_path / "ct")
        wait_for(
            "COMMITTED",
            lambda: [one.state for one in owed(node)] == [DeliveryState.COMMITTED] * 2,
        )
    assert {one.message for one in owed(node)} == {"Committed: read back by C-FIND."}
    with node.index() as index:
        (one,) = commitments.list_commitments(index)
    assert one.state is CommitmentState.SETTLED
