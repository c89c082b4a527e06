"""spect_ct_bone_lesion through a real node: SPECT with its CT, and each of them when the other never comes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from nodes import Node, wait_for
from peer import Pacs
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.scu import send_paths
from pipelines.spect_ct_bone_lesion.phantoms import demo_study
from storage.index import destinations, measurements, rules
from storage.model import Destination, Rule, Workitem, WorkitemState

pytestmark = pytest.mark.slow

#: Longer than a loaded machine takes to send a study.
_WAIT_S = 5


#: Role of each modality of the study, and what is sent of it.
_ROLES = {"NM": "spect", "CT": "ct"}
_SENT = (("NM", "CT"), ("NM",), ("CT",))


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    with Pacs() as peer:
        yield peer


@pytest.fixture(scope="module")
def sent() -> dict[tuple[str, ...], list[Dataset]]:
    """The same study of three patients, of whom not everything is sent."""
    study = demo_study(1)
    return {
        modalities: [_of_patient(ds, number) for ds in study if ds.Modality in modalities]
        for number, modalities in enumerate(_SENT)
    }


@pytest.fixture(scope="module")
def node(
    pacs: Pacs, sent: dict[tuple[str, ...], list[Dataset]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """It has been sent all three, waits for what does not come, and goes from one to the next with warm networks."""
    folder = tmp_path_factory.mktemp("bone_scan")
    made = Node(folder=folder / "node")
    try:
        made.start()
        _add_rule(made, pacs)
        for modalities, datasets in sent.items():
            _store(made, datasets, folder / "-".join(modalities))
        yield made
    finally:
        made.kill_if_running()


def _of_patient(ds: Dataset, number: int) -> Dataset:
    """Another patient's copy, with UIDs of its own."""
    copy = deepcopy(ds)
    copy.PatientID = f"{ds.PatientID}-{number}"
    for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        copy[uid].value = generate_uid(entropy_srcs=[ds[uid].value, str(number)])
    copy.file_meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    return copy


def _store(node: Node, datasets: list[Dataset], folder: Path) -> None:
    folder.mkdir()
    paths = [folder / f"{number:03d}.dcm" for number in range(len(datasets))]
    for ds, path in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, paths, calling_ae="CAMERA", timeout_s=30))
    assert [one.status.status for one in sent if one.status] == [0x0000] * len(datasets)


def _add_rule(node: Node, pacs: Pacs) -> None:
    with node.index() as index:
        destinations.add(
            index,
            Destination(name="PACS", host="127.0.0.1", port=pacs.port, called_ae="PACS"),
            actor="test",
        )
        rule = Rule(
            name="bone scan",
            pipeline="spect_ct_bone_lesion",
            where=(),
            destinations=("PACS",),
            roles={"spect": (), "ct": ()},
            wait_s=_WAIT_S,
            without=("spect", "ct"),
        )
        rules.add(index, rule, actor="test")


@pytest.mark.parametrize("modalities", _SENT)
def test_what_there_is_is_analysed_and_comes_back(
    node: Node,
    pacs: Pacs,
    sent: dict[tuple[str, ...], list[Dataset]],
    modalities: tuple[str, ...],
) -> None:
    study = str(sent[modalities][0].StudyInstanceUID)

    def runs() -> list[Workitem]:
        return [one for one in node.workitems() if one.study_instance_uid == study]

    wait_for(
        f"a workitem to end\n{node.log}",
        lambda: [one.state for one in runs()] == [WorkitemState.COMPLETED],
        timeout_s=240,
    )
    (workitem,) = runs()
    series = {ds.Modality: str(ds.SeriesInstanceUID) for ds in sent[modalities]}
    assert {one.role: one.series_instance_uid for one in workitem.inputs} == {
        _ROLES[modality]: uid for modality, uid in series.items()
    }
    codes = {code for code, _ in workitem.notices}
    assert ("without-ct" in codes) == (modalities == ("NM",))
    assert ("without-spect" in codes) == (modalities == ("CT",))
    with node.index() as index:
        rows = measurements.list_measurements(index, study=study)
    (count,) = (row.value for row in rows if row.concept_value == "246206008")

    def came() -> dict[str, Dataset]:
        return {ds.Modality: ds for ds in pacs.received if ds.StudyInstanceUID == study}

    wait_for("its evidence", lambda: set(came()) == ({"SEG", "SR"} if count else {"SR"}))
    if count:
        seg = came()["SEG"]
        assert len(seg.SegmentSequence) == count
        (referenced,) = seg.ReferencedSeriesSequence
        assert referenced.SeriesInstanceUID == series.get("NM", series.get("CT"))
