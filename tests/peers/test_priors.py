"""A study before that only the archive has: found, fetched and compared with, from a real Orthanc."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from nodes import Node, wait_for
from orthanc import Orthanc, running_orthanc
from pydicom import Dataset

from node import query
from node.errors import DeliveryError
from node.scu import send_paths
from pipelines.comparison import CHANGE, INTERVAL
from storage.index import destinations, instances, measurements, rules, studies
from storage.model import Destination, Rule, Workitem, WorkitemState

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.slow]
SIX, NINE = Geometry(slices=6), Geometry(slices=9)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(folder=tmp_path / "node")
    yield made
    made.kill_if_running()


@pytest.fixture
def orthanc(tmp_path: Path, node: Node) -> Iterator[Orthanc]:
    settings = {
        "DicomModalities": {"node": ["OSTEONODE", "127.0.0.1", node.port]},
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowFind": True,
    }
    with running_orthanc(tmp_path / "orthanc", settings=settings) as running:
        yield running


def put(orthanc: Orthanc, datasets: list[Dataset]) -> None:
    for ds in datasets:
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        orthanc.put(buffer.getvalue())


def dated(datasets: list[Dataset], date: str) -> list[Dataset]:
    for ds in datasets:
        ds.StudyDate = date
    return datasets


def store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, save_all(datasets, folder), calling_ae="CT1", timeout_s=20))
    assert all(one.status is not None and one.status.status == 0 for one in sent)


def compare_with(node: Node, port: int, *, retrieve: str = "move", wait_s: int = 120) -> None:
    """A rule that asks the archive for the study before, and sends it the results."""
    with node.index() as index:
        destinations.add(
            index,
            Destination(
                name="PACS", host="127.0.0.1", port=port, called_ae="ORTHANC", retrieve=retrieve
            ),
            actor="test",
        )
        rules.add(
            index,
            Rule(
                name="bones",
                pipeline="threshold_bone",
                where=("Modality = CT",),
                destinations=("PACS",),
                prior="compare",
                prior_from="PACS",
                wait_s=wait_s,
            ),
            actor="test",
        )


def workitem_of(node: Node, datasets: list[Dataset]) -> Workitem | None:
    uid = datasets[0].StudyInstanceUID
    return next((one for one in node.workitems() if one.study_instance_uid == uid), None)


def wait_for_result(node: Node, datasets: list[Dataset]) -> Workitem:
    def is_done() -> bool:
        made = workitem_of(node, datasets)
        return made is not None and made.state is WorkitemState.COMPLETED

    wait_for(f"the result\n{node.log[-4000:]}", is_done, 90)
    made = workitem_of(node, datasets)
    assert made is not None
    return made


@pytest.mark.parametrize("retrieve", ["move", "get"])
def test_the_study_before_is_fetched_and_compared_with(
    node: Node, orthanc: Orthanc, tmp_path: Path, retrieve: str
) -> None:
    node.start()
    then = dated(make_series(study=1, geometry=SIX), "20250301")
    put(orthanc, then)
    put(orthanc, dated(make_series(study=3, geometry=SIX), "20240301"))
    put(orthanc, dated(make_series(study=4, geometry=SIX, patient=2), "20250601"))
    compare_with(node, orthanc.dicom_port, retrieve=retrieve)
    now = dated(make_series(study=2, geometry=NINE), "20260301")
    store(node, now, tmp_path / "now")
    made = wait_for_result(node, now)
    assert made.prior is not None
    assert made.prior.interval_days == 365
    before = workitem_of(node, then)
    assert before is not None
    assert (made.prior.workitem_uid, before.destinations) == (before.workitem_uid, ())
    with node.index() as index:
        # As the archive has it, and for comparison alone.
        assert len(instances.of_series(index, then[0].SeriesInstanceUID)) == SIX.slices
        values = {
            (one.study_instance_uid, one.concept_value): one.value
            for one in measurements.list_measurements(index)
        }
        uid = now[0].StudyInstanceUID
        volumes = [values[one[0].StudyInstanceUID, "118565006"] for one in (then, now)]
        assert values[uid, CHANGE.value] == pytest.approx(volumes[1] - volumes[0])
        assert values[uid, INTERVAL.value] == 365
        wait_for(
            "the study before to be looked at",
            lambda: studies.get(index, then[0].StudyInstanceUID).evaluated_revision > 0,
        )
        assert studies.decisions(index, then[0].StudyInstanceUID) == ()
    wait_for("SEG and SR in the archive", lambda: len(orthanc.instances_of(uid)) == 2)
    (sr,) = (ds for ds in orthanc.instances_of(uid) if ds.Modality == "SR")
    (other,) = sr.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == then[0].StudyInstanceUID
    assert len(other.ReferencedSeriesSequence[0].ReferencedSOPSequence) == SIX.slices
    # Nothing of it was sent to anyone.
    assert len(orthanc.instances_of(then[0].StudyInstanceUID)) == SIX.slices
    assert len(node.workitems()) == 2


def test_an_archive_that_has_none_is_not_waited_for(
    node: Node, orthanc: Orthanc, tmp_path: Path
) -> None:
    node.start()
    compare_with(node, orthanc.dicom_port)
    now = make_series(geometry=SIX)
    store(node, now, tmp_path / "now")
    made = wait_for_result(node, now)
    (said,) = (text for code, text in made.notices if code == "prior-absent")
    assert "PACS has none" in said


def test_an_archive_that_is_down_is_waited_for_until_the_deadline(
    node: Node, tmp_path: Path
) -> None:
    node.start()
    compare_with(node, 1, wait_s=4)
    now = make_series(geometry=SIX)
    began = time.monotonic()
    store(node, now, tmp_path / "now")
    made = wait_for_result(node, now)
    assert time.monotonic() - began >= 4
    (said,) = (text for code, text in made.notices if code == "prior-absent")
    assert "cannot be reached" in said


def test_what_an_archive_answers_is_said(orthanc: Orthanc, tmp_path: Path) -> None:
    put(orthanc, make_series(geometry=SIX))
    ds = make_series(geometry=SIX)[0]
    source = Destination(
        name="PACS", host="127.0.0.1", port=orthanc.dicom_port, called_ae="ORTHANC"
    )
    keys = {"StudyInstanceUID": ds.StudyInstanceUID, "PatientID": ""}
    (found,) = query.find(source, "STUDY", keys, calling_ae="OSTEONODE", timeout_s=5)
    assert found.PatientID == ds.PatientID
    uids = ds.StudyInstanceUID, ds.SeriesInstanceUID
    with pytest.raises(DeliveryError, match="C-MOVE"):
        query.move(source, *uids, to="NOBODY", calling_ae="OSTEONODE", timeout_s=5)
    with pytest.raises(DeliveryError, match="C-GET"):
        # What arrives is refused here: the archive counts it as failed.
        query.get(
            source,
            *uids,
            sop_classes=[ds.SOPClassUID],
            keep=lambda received: 0xA700,
            calling_ae="OSTEONODE",
            timeout_s=5,
        )
