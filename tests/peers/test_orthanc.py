"""DCMTK's storescu to the node to Orthanc: what the issue of the whole product is."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import Node, wait_for
from orthanc import Orthanc, running_orthanc
from pydicom import Dataset, dcmread

from node.demo import time_split
from node.query import count_study
from storage.index import deliveries, studies, workitems
from storage.model import DeliveryState, Destination, WorkitemState

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.peer("orthanc"), pytest.mark.slow]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


def storescu(node: Node, *paths: Path) -> None:
    """As a modality does."""
    subprocess.run(
        [
            "/usr/bin/storescu",
            "-aet",
            "CT1",
            "-aec",
            "OSTEONODE",
            "+sd",
            "127.0.0.1",
            str(node.port),
            *map(str, paths),
        ],
        check=True,
        capture_output=True,
        timeout=120,
        env={"TCP_NODELAY": "1"},
    )


def wait_until_sent(node: Node, timeout_s: float = 60) -> None:
    """Until everything owed was taken; a failed workitem ends the test at once."""

    def sent() -> bool:
        with node.index() as index:
            failed = workitems.list_workitems(index, state=WorkitemState.CANCELED, limit=1)
            assert not failed, failed[0].reason
            owed = deliveries.list_deliveries(index)
        return bool(owed) and {d.state for d in owed} == {DeliveryState.SENT}

    wait_for("SEG and SR sent", sent, timeout_s)


def by_modality(instances: list[Dataset]) -> dict[str, Dataset]:
    found = {ds.Modality: ds for ds in instances}
    assert len(found) == len(instances)
    return found


def test_orthanc_holds_seg_and_sr_in_the_study(
    node: Node, orthanc: Orthanc, tmp_path: Path
) -> None:
    node.start()
    node.route_to(orthanc.dicom_port, called_ae=orthanc.ae_title)
    datasets = make_series(geometry=Geometry(slices=8))
    save_all(datasets, tmp_path / "ct")
    storescu(node, tmp_path / "ct")
    wait_until_sent(node)
    held = by_modality(orthanc.instances_of(datasets[0].StudyInstanceUID))
    assert set(held) == {"SEG", "SR"}
    # The images stayed with their sender; the study is the same, and so is the patient.
    assert held["SEG"].PatientID == datasets[0].PatientID
    referenced = held["SR"].CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    uids = {item.ReferencedSOPInstanceUID for s in referenced for item in s.ReferencedSOPSequence}
    assert held["SEG"].SOPInstanceUID in uids


def test_an_orthanc_that_starts_late_gets_everything(node: Node, tmp_path: Path) -> None:
    node.start()
    datasets = make_series(geometry=Geometry(slices=8))
    save_all(datasets, tmp_path / "ct")
    storescu(node, tmp_path / "ct")
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        node.route_to(orthanc.dicom_port, called_ae=orthanc.ae_title)
        # The study was quiet before there was a rule: news brings it back.
        late = make_series(series=2, geometry=Geometry(slices=8))
        save_all(late, tmp_path / "late")
        storescu(node, tmp_path / "late")
        node.wait_for_state(WorkitemState.COMPLETED, count=2)
        wait_until_sent(node)
        assert len(orthanc.instances_of(datasets[0].StudyInstanceUID)) == 4


@pytest.mark.shared
@pytest.mark.timeout(900)
def test_a_real_ct_comes_back_within_ten_minutes(
    node: Node, orthanc: Orthanc, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((shared_data / "ct-abdomen").glob("*.dcm"))
    node.start()
    node.route_to(orthanc.dicom_port, pipeline="ct_skeleton", called_ae=orthanc.ae_title)
    began = time.monotonic()
    storescu(node, *files)
    received = time.monotonic() - began
    wait_until_sent(node, timeout_s=600)
    took = time.monotonic() - began
    assert took < 600
    uid = dcmread(files[0], stop_before_pixels=True).StudyInstanceUID
    assert set(by_modality(orthanc.instances_of(uid))) == {"SEG", "SR"}
    with node.index() as index:
        split = time_split(index, uid, workitems.list_workitems(index))
    with capsys.disabled():
        steps = {"receive": received, **dict(split), "in all": took}
        print("\nreal CT, seconds:", ", ".join(f"{k} {v:.1f}" for k, v in steps.items()))


def test_orthanc_holds_a_rejection_note_of_what_was_replaced(
    node: Node, orthanc: Orthanc, tmp_path: Path
) -> None:
    node.settings["OSTEONODE_EVIDENCE__PROFILES"] = '{"iocm": {"retract": true}}'
    node.start()
    node.route_to(orthanc.dicom_port, called_ae=orthanc.ae_title, profile="iocm")
    datasets = make_series(geometry=Geometry(slices=6))
    storescu(node, *save_all(datasets[:5], tmp_path / "ct"))
    wait_until_sent(node)
    storescu(node, *save_all(datasets[5:], tmp_path / "late"))

    def states() -> Counter[DeliveryState]:
        with node.index() as index:
            return Counter(one.state for one in deliveries.list_deliveries(index))

    wanted = {DeliveryState.RETRACTED: 2, DeliveryState.SENT: 3}
    wait_for("a note", lambda: states() == wanted)
    found = orthanc.instances_of(datasets[0].StudyInstanceUID)
    assert Counter(ds.Modality for ds in found) == {"SEG": 2, "SR": 2, "KO": 1}
    (note,) = (ds for ds in found if ds.Modality == "KO")
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    rejected = {
        one.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    with node.index() as index:
        retracted = deliveries.list_deliveries(index, state=DeliveryState.RETRACTED)
    assert rejected == {one.evidence.sop_instance_uid for one in retracted}
    assert rejected < {ds.SOPInstanceUID for ds in found}


def test_orthanc_says_how_much_it_has_of_a_study(orthanc: Orthanc, tmp_path: Path) -> None:
    """C-FIND of the Study Root model at both levels, and a study that it does not have."""
    destination = Destination(
        name="PACS", host="127.0.0.1", port=orthanc.dicom_port, called_ae=orthanc.ae_title
    )
    datasets = make_series(series=1, geometry=Geometry(slices=5))
    datasets += make_series(series=2, geometry=Geometry(slices=3))
    for path in save_all(datasets, tmp_path / "ct"):
        orthanc.put(path.read_bytes())
    study = str(datasets[0].StudyInstanceUID)
    answer = count_study(destination, study, calling_ae="OSTEONODE", timeout_s=10)
    assert (answer.series, answer.instances) == (2, 8)
    counts = Counter(str(ds.SeriesInstanceUID) for ds in datasets)
    assert answer.by_series == dict(counts)
    unknown = count_study(destination, f"{study[:-1]}", calling_ae="OSTEONODE", timeout_s=10)
    assert (unknown.instances, unknown.by_series) == (None, {})


def test_a_study_starts_because_the_pacs_that_sent_it_has_no_more(
    orthanc: Orthanc, node: Node, tmp_path: Path
) -> None:
    """Orthanc forwards a study; asked, it says that this is all: nobody waits for the quiet time."""
    datasets = make_series(geometry=Geometry(slices=6))
    for path in save_all(datasets, tmp_path / "ct"):
        orthanc.put(path.read_bytes())
    node.settings = {
        "OSTEONODE_ROUTING__QUIET_S": "600",
        "OSTEONODE_ROUTING__RELEASED_QUIET_S": "600",
        "OSTEONODE_ROUTING__COUNT_QUIET_S": "0.5",
        "OSTEONODE_ROUTING__ASK": '{"CT1": "PACS"}',
    }
    node.start()
    node.route_to(orthanc.dicom_port, called_ae=orthanc.ae_title)
    storescu(node, tmp_path / "ct")
    wait_until_sent(node)
    with node.index() as index:
        study = studies.get(index, str(datasets[0].StudyInstanceUID))
    assert study.verdict is not None
    assert (study.verdict.whole, study.verdict.confidence) == (True, "certain")
