"""RT Structure Set: its ROIs, and the proof that their contours hold the voxels, which finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import documents
import numpy as np
import pytest
import volumes
from matplotlib.path import Path as Polygon
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage

from pipelines.errors import UnprovenError
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.rtproof import prove_rtstruct
from pipelines.evidence.rtstruct import create_rtstruct
from pipelines.manifest import CodeSpec
from pipelines.result import SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import SeriesOptions

LEFT = CodeSpec(value="7771000", scheme="SCT", meaning="Left")


def _make(request: EvidenceRequest) -> Dataset:
    ds = create_rtstruct(request)
    assert ds is not None
    return documents.received(ds)


def _lace(source: SourceSeries) -> EvidenceRequest:
    """A segment of noise: islands, holes within holes; and an empty one before it."""
    noise = np.random.default_rng(5).random(volumes.SHAPE)
    labels = source.volume.with_array(np.where(noise < 0.6, 2, 0).astype(np.uint8))
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    return volumes.make_request(
        source, specs=specs, result=volumes.make_result(source, specs, labels)
    )


def test_the_same_request_makes_the_same_bytes(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    first, second = (_make(volumes.make_request(source)) for _ in range(2))
    assert encode(first) == encode(second)


def test_header_and_rois(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    specs = (volumes.make_spec(1), volumes.make_spec(2, laterality=LEFT))
    request = volumes.make_request(source, specs=specs)
    ds = _make(request)
    assert ds.SOPClassUID == RTStructureSetStorage
    assert (ds.Modality, ds.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    assert ds.StructureSetLabel == "CT_BONE"
    assert ds.PatientID == documents.PATIENT["PatientID"]
    assert ds.SeriesDescription == "AI - Bone in CT, contours - research, unverified"
    assert ds.ContributingEquipmentSequence[1].DeviceUID == request.device_uid
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == source.volume.frame_of_reference_uid
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.datasets[0].SeriesInstanceUID
    listed = [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence]
    assert listed == [one.SOPInstanceUID for one in source.datasets]
    for item in ds.ROIContourSequence:
        for contour in item.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in listed
            assert all(len(value) <= 16 for value in map(str, contour.ContourData))
    assert [item.ROIName for item in ds.StructureSetROISequence] == ["Bone 1", "Bone 2"]
    assert {item.ROIGenerationAlgorithm for item in ds.StructureSetROISequence} == {"AUTOMATIC"}
    assert [list(item.ROIDisplayColor) for item in ds.ROIContourSequence] == [
        list(spec.rgb) for spec in specs
    ]
    second = ds.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert second.CodeMeaning == "Bone"
    assert second.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_contours_hold_the_voxels_in_every_orientation(
    tmp_path: Path, orientation: str, reverse: bool
) -> None:
    options = SeriesOptions(reverse=reverse)
    source = read_series(volumes.write_series(tmp_path, orientation=orientation, options=options))
    request = _lace(source)
    ds = _make(request)
    empty, lace = prove_rtstruct(ds, request.result, source)
    assert (empty.voxels, empty.volume_ml) == (0, 0)
    assert lace.voxels == np.count_nonzero(request.result.label_map.array)
    assert (lace.voxels_off, lace.voxels_differing, lace.volume_off_ml) == (0, 0, 0)
    assert lace.centroid_off_mm < 0.001
    assert [item.ROIName for item in ds.StructureSetROISequence] == ["Bone 2"]
    voxel_ml = np.prod(volumes.SPACING) / 1000
    assert float(ds.StructureSetROISequence[0].ROIVolume) == pytest.approx(lace.voxels * voxel_ml)


def test_a_hole_is_cut_out_by_a_keyhole(tmp_path: Path) -> None:
    """One contour, whose own area lacks the holes: no reader needs to know which contours belong together."""
    source = documents.named_source(tmp_path)
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[5, 5:25, 5:30] = 1
    labels[5, 10:14, 8:12] = labels[5, 18:20, 20:28] = 0
    specs = (volumes.make_spec(1),)
    result = volumes.make_result(source, specs, source.volume.with_array(labels))
    ds = _make(volumes.make_request(source, specs=specs, result=result))
    (contour,) = ds.ROIContourSequence[0].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    x, y, _ = points.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    pixel = volumes.SPACING[1] * volumes.SPACING[2]
    # Half a pixel less for the outline, half a pixel more for each of two holes.
    assert area == pytest.approx((500 - 16 - 16 + 0.5) * pixel, rel=1e-4)
    # And by matplotlib's rule, at the centres of the pixels.
    centres = source.volume.map_indices_to_reference(np.argwhere(np.ones(volumes.SHAPE, bool)))
    here = centres.reshape(*volumes.SHAPE, 3)[5]
    inside = Polygon(points[:, :2]).contains_points(here[..., :2].reshape(-1, 2))
    np.testing.assert_array_equal(inside.reshape(volumes.SHAPE[1:]), labels[5] == 1)


def test_frames_of_a_multi_frame_image_are_referred_to(tmp_path: Path) -> None:
    source = documents.nm_source(tmp_path)
    request = volumes.make_request(source)
    ds = _make(request)
    for residual in prove_rtstruct(ds, request.result, source):
        assert residual.voxels > 0
    contour = ds.ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedFrameNumber in source.frame_numbers
    series = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (image,) = series.RTReferencedSeriesSequence[0].ContourImageSequence
    assert image.ReferencedSOPInstanceUID == source.datasets[0].SOPInstanceUID


def test_nothing_found_makes_none(tmp_path: Path) -> None:
    assert create_rtstruct(documents.nothing_found(documents.named_source(tmp_path))) is None


def _move(ds: Dataset, axis: int, distance: float) -> None:
    for contour in ds.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        points[:, axis] += distance
        contour.ContourData = [f"{value:.3f}" for value in points.ravel()]


def _swap_names(ds: Dataset) -> None:
    first, second = ds.StructureSetROISequence
    first.ROIName, second.ROIName = second.ROIName, first.ROIName


def _drop(ds: Dataset) -> None:
    del ds.ROIContourSequence[1].ContourSequence[2]


def _rename(ds: Dataset) -> None:
    ds.StructureSetROISequence[0].ROIName = "Another"


def _point_elsewhere(ds: Dataset) -> None:
    contours = ds.ROIContourSequence[1].ContourSequence
    contours[0].ContourImageSequence = contours[-1].ContourImageSequence


def _leave_frame(ds: Dataset) -> None:
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ds: _move(ds, 0, 0.7), "'Bone 1'.* in another place"),
        (lambda ds: _move(ds, 2, 0.9), "does not lie on a slice"),
        (lambda ds: _move(ds, 2, 2.5), "names another image"),
        (_swap_names, "in another place"),
        (_drop, "'Bone 2'.* is off by -"),
        (_rename, "ROIs that the result does not have"),
        (_point_elsewhere, "names another image"),
        (_leave_frame, "another Frame of Reference"),
    ],
)
def test_the_proof_finds_what_is_wrong(
    tmp_path: Path, spoil: Callable[[Dataset], None], message: str
) -> None:
    source = documents.named_source(tmp_path)
    request = volumes.make_request(source)
    ds = _make(request)
    prove_rtstruct(ds, request.result, source)
    spoil(ds)
    with pytest.raises(UnprovenError, match=message):
        prove_rtstruct(ds, request.result, source)
