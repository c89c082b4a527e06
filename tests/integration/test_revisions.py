"""A slice that comes late, at every moment: one valid result per PACS in the end. Real node, real associations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset

from node.scu import send_paths
from storage.index import deliveries, events
from storage.model import Delivery, DeliveryState, Destination, Workitem, WorkitemState

SIX = Geometry(slices=6)
#: A destination that takes rejection notes.
IOCM = '{"iocm": {"retract": true}}'

pytestmark = pytest.mark.slow


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node", settings={"OSTEONODE_EVIDENCE__PROFILES": IOCM})
    yield made
    made.kill_if_running()


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    paths = save_all(datasets, folder)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CT1", timeout_s=20))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


def owed(node: Node, workitem: Workitem | None = None) -> tuple[Delivery, ...]:
    with node.index() as index:
        return deliveries.list_deliveries(
            index, workitem=workitem.workitem_uid if workitem else None
        )


def states(node: Node, workitem: Workitem) -> Counter[DeliveryState]:
    return Counter(one.state for one in owed(node, workitem))


def by_revision(node: Node) -> list[Workitem]:
    return sorted(node.workitems(), key=lambda one: one.study_revision)


def rejected(received: Sequence[Dataset]) -> set[str]:
    """What rejection notes name, both in their evidence and in their content."""
    found = set()
    for ds in received:
        if ds.Modality == "KO":
            (title,) = ds.ConceptNameCodeSequence
            assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
            listed = {
                one.ReferencedSOPInstanceUID
                for study in ds.CurrentRequestedProcedureEvidenceSequence
                for series in study.ReferencedSeriesSequence
                for one in series.ReferencedSOPSequence
            }
            named = {
                one.ReferencedSOPInstanceUID
                for item in ds.ContentSequence
                for one in item.get("ReferencedSOPSequence", ())
            }
            assert named == listed
            found |= listed
    return found


def valid(pacs: Pacs) -> Counter[str]:
    """Modalities of what the PACS shows when it does as rejection notes say."""
    received = pacs.received
    gone = rejected(received)
    shown = {ds.SOPInstanceUID: ds.Modality for ds in received if ds.SOPInstanceUID not in gone}
    return Counter(one for one in shown.values() if one != "KO")


def wait_until_settled(node: Node, count: int) -> None:
    """`count` workitems, all ended; nothing is owed and nothing is to be retracted any more."""

    def settled() -> bool:
        found, sent = node.workitems(), owed(node)
        return (
            len(found) == count
            and {one.state for one in found} <= {WorkitemState.COMPLETED, WorkitemState.CANCELED}
            and not any(one.state is DeliveryState.PENDING for one in sent)
            and not any(
                one.state is DeliveryState.SENT and one.superseded_by and one.destination == "PACS"
                for one in sent
            )
        )

    wait_for("everything settled", settled)


def tracking_uids(ds: Dataset) -> set[str]:
    """Of all groups of a report, that of the whole result included."""
    return {
        str(item.UID)
        for item in walk(ds)
        if item.get("ValueType") == "UIDREF"
        and item.ConceptNameCodeSequence[0].CodeValue == "112040"
    }


def walk(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence", ()):
        yield item
        yield from walk(item)


def test_a_result_on_its_way_is_retracted_when_it_has_arrived(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    """The PACS takes its time: the newer result is there before the older one was answered for."""
    pacs.delay_s = 3.0
    node.start()
    node.route_to(pacs.port, profile="iocm")
    datasets = make_series(geometry=SIX)
    store(node, datasets[:5], tmp_path / "ct")
    wait_for("an association with the PACS", lambda: pacs.associations)
    store(node, datasets[5:], tmp_path / "late")
    node.wait_for_state(WorkitemState.COMPLETED, count=2)
    pacs.delay_s = 0.0
    pacs.wait_for(5)
    wait_until_settled(node, 2)
    assert valid(pacs) == {"SEG": 1, "SR": 1}
    assert pacs.received[-1].Modality == "KO"


def test_slice_by_slice_there_is_one_result(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    """A line of three, to a PACS that takes rejection notes and to one that does not."""
    with Pacs(ae_title="PLAIN") as plain:
        node.start()
        node.route_to(pacs.port, profile="iocm")
        node.route_to(plain.port, name="PLAIN", called_ae="PLAIN")
        datasets = make_series(geometry=SIX)
        for n, some in enumerate((datasets[:4], datasets[4:5], datasets[5:])):
            store(node, some, tmp_path / str(n))
            pacs.wait_for(2 + 3 * n)
        wait_until_settled(node, 3)
        assert valid(pacs) == {"SEG": 1, "SR": 1}
        assert Counter(ds.Modality for ds in plain.received) == {"SEG": 3, "SR": 3}

    # Each note comes after all of the new, and is about the one before.
    modalities = [ds.Modality for ds in pacs.received]
    assert modalities == ["SEG", "SR", "SEG", "SR", "KO", "SEG", "SR", "KO"]
    old_seg, old_sr, seg, sr, note, *_, last_sr, last_note = pacs.received
    assert rejected([note]) == {old_seg.SOPInstanceUID, old_sr.SOPInstanceUID}
    assert rejected([last_note]) == {seg.SOPInstanceUID, sr.SOPInstanceUID}
    assert note.StudyInstanceUID == datasets[0].StudyInstanceUID
    assert (note.PatientID, note.PatientName) == (datasets[0].PatientID, datasets[0].PatientName)

    # The new report names the old one (PS3.3 C.17.2), and what it speaks of is what that spoke of.
    (study,) = sr.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (document,) = series.ReferencedSOPSequence
    assert series.SeriesInstanceUID == old_sr.SeriesInstanceUID
    assert document.ReferencedSOPInstanceUID == old_sr.SOPInstanceUID
    assert "PredecessorDocumentsSequence" not in old_sr
    assert seg.SegmentSequence[0].TrackingUID == old_seg.SegmentSequence[0].TrackingUID
    assert tracking_uids(last_sr) == tracking_uids(sr) == tracking_uids(old_sr) != set()

    first, second, third = by_revision(node)
    assert [one.predecessor for one in (first, second, third)] == [
        None,
        first.workitem_uid,
        second.workitem_uid,
    ]
    at_pacs = [one for one in owed(node, first) if one.destination == "PACS"]
    assert {one.state for one in at_pacs} == {DeliveryState.RETRACTED}
    assert states(node, third) == {DeliveryState.SENT: 5}
    with node.index() as index:
        kinds = Counter(event.kind for event in events.list_events(index))
    assert kinds["delivery-retracted"] == 4
    assert kinds["evidence-superseded"] == kinds["retraction-owed"] == 2


def test_a_slice_before_the_run_begins_or_while_it_goes_on(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    """The only worker is busy with one study, another waits for it; to both a slice comes."""
    node.start()
    node.route_to(pacs.port, pipeline="sleeper", profile="iocm")
    studies = [make_series(study=n, geometry=SIX) for n in (1, 2)]
    store(node, studies[0][:5], tmp_path / "first")
    node.wait_for_state(WorkitemState.IN_PROGRESS)
    store(node, studies[1][:5], tmp_path / "second")
    node.wait_for_state(WorkitemState.SCHEDULED)
    store(node, [studies[0][5], studies[1][5]], tmp_path / "late")
    wait_until_settled(node, 4)
    for datasets, ran in zip(studies, (True, False), strict=True):
        uid = datasets[0].StudyInstanceUID
        first, second = (one for one in by_revision(node) if one.study_instance_uid == uid)
        assert (first.state, first.reason_code) == (WorkitemState.CANCELED, "superseded")
        assert (first.started_at is not None) is ran
        assert second.workitem_uid in (first.reason or "")
        # It replaces no result, for there was none.
        assert (second.state, second.predecessor) == (WorkitemState.COMPLETED, None)
        assert [ds.Modality for ds in pacs.received if ds.StudyInstanceUID == uid] == ["SR"]


def test_a_slice_before_the_result_was_sent(node: Node, pacs: Pacs, tmp_path: Path) -> None:
    """The PACS is dead, the node dies too: what comes out in the end is the newer result alone."""
    pacs.stop()
    node.start()
    node.route_to(pacs.port, profile="iocm")
    datasets = make_series(geometry=SIX)
    store(node, datasets[:5], tmp_path / "ct")
    node.wait_for_state(WorkitemState.COMPLETED)
    store(node, datasets[5:], tmp_path / "late")
    node.wait_for_state(WorkitemState.COMPLETED, count=2)
    node.kill()
    first, second = by_revision(node)
    assert states(node, first) == {DeliveryState.WITHDRAWN: 2}
    assert all(second.workitem_uid in one.message for one in owed(node, first))
    pacs.start()
    node.start()
    pacs.wait_for(2)
    wait_until_settled(node, 2)
    assert {one.evidence.sop_instance_uid for one in owed(node, second)} == {
        ds.SOPInstanceUID for ds in pacs.received
    }


def test_a_refusal_is_replaced_by_the_result_and_replaces_none(
    node: Node, pacs: Pacs, tmp_path: Path
) -> None:
    """A gap is refused; the missing slice comes, the refusal is taken back; then one comes that is too many."""
    node.start()
    node.route_to(pacs.port, profile="iocm", report_refusals=True, wait_s=0)
    datasets = make_series(geometry=SIX)
    store(node, [*datasets[:3], *datasets[4:]], tmp_path / "gap")
    pacs.wait_for(1)
    store(node, [datasets[3]], tmp_path / "late")
    pacs.wait_for(4)
    wait_until_settled(node, 2)
    refusal = pacs.received[0]
    assert rejected(pacs.received) == {refusal.SOPInstanceUID}
    assert valid(pacs) == {"SEG": 1, "SR": 1}

    # At a place that is taken: no result can be made of it, and the one that was made was right.
    again = make_series(geometry=Geometry(slices=7))[6]
    again.ImagePositionPatient = datasets[5].ImagePositionPatient
    store(node, [again], tmp_path / "again")
    pacs.wait_for(5)
    wait_until_settled(node, 3)
    assert rejected(pacs.received) == {refusal.SOPInstanceUID}
    last = by_revision(node)[-1]
    assert (last.state, last.reason_code) == (
        WorkitemState.CANCELED,
        "input-duplicate-positions",
    )
