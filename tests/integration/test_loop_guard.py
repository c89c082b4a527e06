"""Own evidence, and whatever is made of it, comes back in every way: it never starts work and delays nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, make_uid, save_all
from nodes import Node
from peer import Pacs
from pydicom import Dataset

from node.scu import send_paths
from storage.index import instances, rules, studies
from storage.model import Destination, Rule, WorkitemState

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
CT = "1.2.840.10008.5.1.4.1.1.2"
#: What a PACS may take out or write anew on the way; then each way is left one mark by which the object is known.
MARKS = (
    *("ContributingEquipmentSequence", "SoftwareVersions", "DeviceUID", "Manufacturer"),
    *("ManufacturerModelName", "DeviceSerialNumber", "SeriesDescription"),
)


@dataclass(frozen=True)
class World:
    """A study with its result, after everything was sent."""

    node: Node
    pacs: Pacs
    acquired: list[Dataset]
    seg: Dataset
    sr: Dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("guard")
    node = Node(folder=folder / "node")
    with Pacs() as pacs:
        node.start()
        node.route_to(pacs.port)
        acquired = make_series(geometry=Geometry(slices=6))
        store(node, acquired, folder / "ct", calling_ae="CT1")
        seg, sr = sorted(pacs.wait_for(2), key=lambda ds: ds.Modality)
        with node.index() as index:
            # Whatever comes shall run, if it can.
            rule = Rule(
                name="anything",
                pipeline="threshold_bone",
                where=("Modality exists",),
                destinations=("PACS",),
                parameters={"threshold_hu": 300.0},
            )
            rules.add(index, rule, actor="test")
        yield World(node, pacs, acquired, seg, sr)
        node.kill_if_running()


def store(node: Node, datasets: Sequence[Dataset], folder: Path, *, calling_ae: str) -> None:
    target = Destination(name="node", host="127.0.0.1", port=node.port, called_ae="OSTEONODE")
    sent = list(send_paths(target, save_all(datasets, folder), calling_ae=calling_ae, timeout_s=20))
    assert [s.status.status for s in sent if s.status] == [0x0000] * len(datasets)


# -- ways back ------------------------------------------------------------------------------------


def coerced(ds: Dataset, *, keep: Sequence[str] = ()) -> Dataset:
    """Another instance of another series of another patient, without marks but those to keep."""
    copy = deepcopy(ds)
    for keyword in set(MARKS) - set(keep):
        if keyword in copy:
            delattr(copy, keyword)
    copy.Manufacturer = copy.get("Manufacturer", "PACS Inc.")
    copy.PatientID = "OTHER"
    copy.PatientName = "Other^Patient"
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = new_uid()
    if "SeriesInstanceUID" not in keep:
        copy.SeriesInstanceUID = new_uid()
    return copy


def new_uid() -> str:
    return make_uid("guard", time.perf_counter_ns())


def without_tracking(ds: Dataset) -> Dataset:
    for segment in ds.SegmentSequence:
        del segment.TrackingUID
        del segment.TrackingID
    return ds


def reference(ds: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = ds.SOPClassUID
    item.ReferencedSOPInstanceUID = ds.SOPInstanceUID
    return item


def made_by_others(world: World, sop_class_uid: str, modality: str) -> Dataset:
    """An object of a workstation, in the same study."""
    ds = deepcopy(world.acquired[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    ds.SeriesInstanceUID, ds.Modality = new_uid(), modality
    ds.Manufacturer, ds.ManufacturerModelName = "Workstation Inc.", "Viewer"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    return ds


def evidence_item(*made: Dataset) -> Dataset:
    """Current Requested Procedure Evidence Sequence (PS3.3 C.17.2)."""
    study = Dataset()
    study.StudyInstanceUID = made[0].StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for one in made:
        series = Dataset()
        series.SeriesInstanceUID = one.SeriesInstanceUID
        series.ReferencedSOPSequence = [reference(one)]
        study.ReferencedSeriesSequence.append(series)
    return study


def _picture(world: World) -> Dataset:
    ds = made_by_others(world, SECONDARY_CAPTURE, "OT")
    ds.SourceImageSequence = [reference(world.seg)]
    return ds


def _ct_with_contours(world: World) -> Dataset:
    ds = made_by_others(world, CT, "CT")
    ds.SourceImageSequence = [reference(world.acquired[0]), reference(world.seg)]
    return ds


def _key_objects(world: World) -> Dataset:
    ds = made_by_others(world, KEY_OBJECTS, "KO")
    ds.CurrentRequestedProcedureEvidenceSequence = [evidence_item(world.acquired[1], world.sr)]
    return ds


def _presentation_state(world: World) -> Dataset:
    ds = made_by_others(world, PRESENTATION_STATE, "PR")
    series = Dataset()
    series.SeriesInstanceUID = world.seg.SeriesInstanceUID
    series.ReferencedImageSequence = [reference(world.seg)]
    ds.ReferencedSeriesSequence = [series]
    return ds


def _report(world: World) -> Dataset:
    ds = made_by_others(world, REPORT, "SR")
    ds.PredecessorDocumentsSequence = [evidence_item(world.sr)]
    return ds


def _coerced_with_original(world: World) -> Dataset:
    """PS3.3 C.12.1: Original Attributes Sequence, of a SEG whose every other mark is gone."""
    ds = without_tracking(coerced(world.seg))
    before = Dataset()
    before.SOPInstanceUID = world.seg.SOPInstanceUID
    change = Dataset()
    change.ModifiedAttributesSequence = [before]
    ds.OriginalAttributesSequence = [change]
    return ds


WAYS: dict[str, Callable[[World], Dataset]] = {
    "as it is": lambda world: world.seg,
    "the report as it is": lambda world: world.sr,
    "contributing equipment kept": lambda world: without_tracking(
        coerced(world.seg, keep=["ContributingEquipmentSequence"])
    ),
    "software versions kept": lambda world: without_tracking(
        coerced(world.seg, keep=["SoftwareVersions"])
    ),
    "Device UID kept": lambda world: without_tracking(coerced(world.seg, keep=["DeviceUID"])),
    "series kept": lambda world: without_tracking(coerced(world.seg, keep=["SeriesInstanceUID"])),
    "Tracking UIDs kept": lambda world: coerced(world.seg),
    "Tracking UIDs of a report kept": lambda world: coerced(world.sr),
    "original attributes kept": _coerced_with_original,
    "a picture of it": _picture,
    "CT slices with its contours": _ct_with_contours,
    "key objects": _key_objects,
    "a presentation state": _presentation_state,
    "a report that follows": _report,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_back_is_known(world: World, tmp_path: Path, way: str) -> None:
    ds = WAYS[way](world)
    study = world.acquired[0].StudyInstanceUID
    with world.node.index() as index:
        before = studies.get(index, study)
        store(world.node, [ds], tmp_path / "back", calling_ae="PACS")
        assert instances.get(index, ds.SOPInstanceUID).own
        after = studies.get(index, study)
    assert (after.revision, after.last_received_at) == (before.revision, before.last_received_at)


def test_what_is_made_of_what_was_made_of_it_is_known(world: World, tmp_path: Path) -> None:
    picture = _picture(world)
    of_it = made_by_others(world, KEY_OBJECTS, "KO")
    of_it.CurrentRequestedProcedureEvidenceSequence = [evidence_item(picture)]
    store(world.node, [picture, of_it], tmp_path / "back", calling_ae="VIEWER")
    with world.node.index() as index:
        assert instances.get(index, of_it.SOPInstanceUID).own


def test_what_others_make_of_the_acquired_is_theirs(world: World, tmp_path: Path) -> None:
    """A reformat and key objects of the CT: news, whether or not a rule wants them."""
    reformat = made_by_others(world, CT, "CT")
    reformat.SourceImageSequence = [reference(ds) for ds in world.acquired]
    notes = made_by_others(world, KEY_OBJECTS, "KO")
    notes.CurrentRequestedProcedureEvidenceSequence = [evidence_item(*world.acquired)]
    other = {ds.SOPInstanceUID for ds in (reformat, notes)}
    # Of another study, so that the first stays as it was.
    for ds in (reformat, notes):
        ds.StudyInstanceUID = make_uid("guard", "another study")
    store(world.node, [reformat, notes], tmp_path / "theirs", calling_ae="VIEWER")
    with world.node.index() as index:
        assert not any(instances.get(index, uid).own for uid in other)
        assert studies.get(index, reformat.StudyInstanceUID).revision == 2


def test_a_pacs_that_sends_the_whole_study_again_starts_nothing(
    world: World, tmp_path: Path
) -> None:
    """Result and images, from another AE title, while the node lives on: the loop that fills a PACS overnight."""
    study = world.acquired[0].StudyInstanceUID
    with world.node.index() as index:
        before = studies.get(index, study)
        mine = [one for one in world.node.workitems() if one.study_instance_uid == study]
        for n in range(2):
            everything = [*world.acquired, world.seg, world.sr, coerced(world.seg)]
            store(world.node, everything, tmp_path / str(n), calling_ae=f"ROUTER{n}")
        time.sleep(2.5)
        after = studies.get(index, study)
        assert [one for one in world.node.workitems() if one.study_instance_uid == study] == mine
    assert (after.revision, after.evaluated_revision) == (6, 6)
    assert after.last_received_at == before.last_received_at
    assert [one.state for one in mine] == [WorkitemState.COMPLETED]
    assert len(world.pacs.files) == 2


def test_our_own_among_the_acquired_is_no_input(world: World, tmp_path: Path) -> None:
    """A PACS that puts a picture of ours into the series it shows: the next run is on the acquired alone."""
    datasets = make_series(study=5, geometry=Geometry(slices=6))
    store(world.node, datasets[:5], tmp_path / "ct", calling_ae="CT1")
    world.node.wait_for_state(WorkitemState.COMPLETED, count=3)
    picture = _picture(world)
    picture.StudyInstanceUID = datasets[0].StudyInstanceUID
    picture.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    store(world.node, [picture, datasets[5]], tmp_path / "mixed", calling_ae="PACS")
    world.node.wait_for_state(WorkitemState.COMPLETED, count=5)
    acquired = {ds.SOPInstanceUID for ds in datasets}
    for one in world.node.workitems():
        if one.study_instance_uid == datasets[0].StudyInstanceUID:
            assert set(one.inputs[0].sop_instance_uids) <= acquired
