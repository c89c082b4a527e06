"""Outlines of segments in the SR: on which slices, around what, and tied to which group."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import volumes
from highdicom import Volume
from highdicom.sr import Comprehensive3DSR
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from pipelines.evidence.outlines import outline_slices, planar_groups
from pipelines.evidence.proof import encode
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import create_seg
from pipelines.evidence.sr import create_sr
from pipelines.result import AnalysisResult, SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.spect_dicom import write_nm_series


@pytest.fixture
def source(tmp_path: Path) -> SourceSeries:
    return read_series(volumes.write_series(tmp_path))


def _result(source: SourceSeries, labels: NDArray[np.uint8], count: int) -> AnalysisResult:
    specs = [volumes.make_spec(number) for number in range(1, count + 1)]
    return volumes.make_result(source, specs, source.volume.with_array(labels))


def _request(source: SourceSeries, labels: NDArray[np.uint8]) -> EvidenceRequest:
    result = _result(source, labels, int(labels.max()))
    specs = [segment.spec for segment in result.segments]
    return volumes.make_request(source, specs=specs, result=result)


def _tracked(group: Dataset) -> str:
    (text,) = [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"][:1]
    return str(text)


def _points(group: Dataset) -> NDArray[np.float64]:
    (item,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    assert item.GraphicType == "POLYLINE"
    points = np.array(item.GraphicData).reshape(-1, 2)
    np.testing.assert_array_equal(points[0], points[-1])
    return points


def _written(request: EvidenceRequest) -> Dataset:
    ds = create_sr(request, create_seg(request), contours=True)
    return dcmread(BytesIO(encode(ds)))


def test_segments_that_share_a_slice_spread_over_those_nearly_as_good(source: SourceSeries) -> None:
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[3:6, :10, :10] = 1
    labels[4, :10, 20:30] = 2
    labels[4, 20:30, :10] = 3
    labels[3, 20:29, :10] = 3
    labels[5, 20:28, :10] = 3
    # 2 has no choice, 3 has slice 3 (90 %) but not 5 (80 %), 1 takes what is left.
    assert outline_slices(_result(source, labels, 4)) == {1: 5, 2: 4, 3: 3}


def test_without_another_slice_outlines_share_one(source: SourceSeries) -> None:
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[4, :10, :10] = 1
    labels[4, 20:30, :10] = 2
    assert outline_slices(_result(source, labels, 2)) == {1: 4, 2: 4}


def test_outline_runs_around_the_largest_part_and_not_its_holes(source: SourceSeries) -> None:
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[4, 2:12, 3:23] = 1
    labels[4, 5:9, 6:20] = 0
    labels[4, 20:28, 3:12] = 1
    request = _request(source, labels)
    points = _points(planar_groups(request, source.datasets)[1][0])
    # PS3.3 C.18.6.1.2: pixel (column 3, row 2) reaches from (3, 2) to (4, 3).
    np.testing.assert_array_equal(points.min(axis=0), (3, 2))
    np.testing.assert_array_equal(points.max(axis=0), (23, 12))


def test_one_pixel_is_no_rectangle(source: SourceSeries) -> None:
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[4, 8, 9] = 1
    points = _points(planar_groups(_request(source, labels), source.datasets)[1][0])
    assert len(points) == 9
    np.testing.assert_array_equal((points.min(axis=0), points.max(axis=0)), ((9, 8), (10, 9)))


def test_an_outline_of_too_many_points_is_thinned(tmp_path: Path) -> None:
    # A comb of 2,048 teeth: more corners than Graphic Data of an explicit VR holds.
    comb = np.zeros((2, 4096, 64), np.uint8)
    comb[0, 1::2, 1:-1] = 1
    comb[0, :, 1] = 1
    affine = volumes.affine_of("axial")
    source = SourceSeries(
        volume=Volume(array=comb, affine=affine, coordinate_system="PATIENT"),
        datasets=read_series(volumes.write_series(tmp_path)).datasets[:2],
    )
    points = _points(planar_groups(_request(source, comb), source.datasets)[1][0])
    assert 2048 < len(points) <= 4096
    np.testing.assert_allclose(points.min(axis=0), (1, 0), atol=2)
    np.testing.assert_allclose(points.max(axis=0), (63, 4096), atol=2)


def test_groups_are_bare_and_tied_by_tracking_identifiers(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    ds = _written(request)
    groups = Comprehensive3DSR.from_dataset(ds).content
    for segment in request.result.segments:
        uid = request.tracking_uid(segment.number)
        (planar,) = groups.get_planar_roi_measurement_groups(tracking_uid=uid)
        (volumetric,) = groups.get_volumetric_roi_measurement_groups(tracking_uid=uid)
        assert planar.tracking_identifier == volumetric.tracking_identifier == segment.label
        assert planar.get_measurements() == []
        assert len(volumetric.get_measurements()) == 2
        assert planar.finding_type == volumetric.finding_type


def test_outline_names_the_slice_it_lies_on(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    slices = outline_slices(request.result)
    groups = planar_groups(request, source.datasets)
    for number, index in slices.items():
        (region,) = [
            item for item in groups[number][0].ContentSequence if item.ValueType == "SCOORD"
        ]
        (reference,) = region.ContentSequence[0].ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == source.datasets[index].SOPInstanceUID
        assert "ReferencedFrameNumber" not in reference
        rows, columns = np.nonzero(request.result.label_map.array[index] == number)
        points = _points(groups[number][0])
        np.testing.assert_array_equal(points.min(axis=0), (columns.min(), rows.min()))
        np.testing.assert_array_equal(points.max(axis=0), (columns.max() + 1, rows.max() + 1))


def test_outline_names_the_frame_of_a_multi_frame_image(tmp_path: Path) -> None:
    source = read_series(write_nm_series(volumes.make_volume(), tmp_path, seed=7))
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[7, 4:9, 4:9] = 1
    group = planar_groups(_request(source, labels), source.datasets)[1][0]
    (region,) = [item for item in group.ContentSequence if item.ValueType == "SCOORD"]
    (reference,) = region.ContentSequence[0].ReferencedSOPSequence
    assert reference.ReferencedFrameNumber == source.frame_numbers[7]


# -- the report ---------------------------------------------------------------------------------


def test_reports_of_other_forms_are_other_objects(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    seg = create_seg(request)
    made = [
        create_sr(request, seg),
        create_sr(request, seg, contours=True),
        create_sr(request, seg, seg_kind="SEG LABELMAP"),
        create_sr(request, seg, contours=True, seg_kind="SEG LABELMAP"),
        create_sr(request, None),
    ]
    assert len({ds.SOPInstanceUID for ds in made}) == len(made)
    assert len({ds.SeriesInstanceUID for ds in made}) == len(made)
    again = create_sr(request, seg, contours=True)
    assert encode(again) == encode(made[1])


def test_a_report_of_no_voxel_is_one_whatever_form_its_seg_would_have(source: SourceSeries) -> None:
    nothing = np.zeros(volumes.SHAPE, np.uint8)
    request = volumes.make_request(source, result=_result(source, nothing, 2))
    made = encode(create_sr(request, None))
    assert made == encode(create_sr(request, None, seg_kind="SEG LABELMAP"))


def test_what_has_no_place_is_no_imaging_measurement(source: SourceSeries) -> None:
    """OHIF shows nothing of a report whose Imaging Measurements have a group without coordinates."""
    labels = np.zeros(volumes.SHAPE, np.uint8)
    request = volumes.make_request(source, result=_result(source, labels, 2))
    ds = _written(request)
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in ds.ContentSequence]
    assert "Imaging Measurements" not in names
    assert ds.ConceptNameCodeSequence[0].CodeMeaning == "Nothing was segmented"
    assert "ContentTemplateSequence" not in ds
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99OSTEONODE"

    labels[4, 3:9, 3:9] = 2
    request = volumes.make_request(source, result=_result(source, labels, 2))
    *_, measured, evaluated = _written(request).ContentSequence
    assert [_tracked(group) for group in measured.ContentSequence] == ["Bone 2", "Bone 2"]
    groups = [item for item in evaluated.ContentSequence if item.ValueType == "CONTAINER"]
    assert [_tracked(group) for group in groups] == ["Bone 1"]
    (number,) = [item for item in groups[0].ContentSequence if item.ValueType == "NUM"]
    assert number.MeasuredValueSequence[0].NumericValue == 0


def test_the_whole_result_is_framed(source: SourceSeries) -> None:
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[4, 8:12, 20:30] = 1
    labels[4, 20:30, :10] = 2
    result = _result(source, labels, 2)
    total = replace(result.measurements[0], segment_number=None)
    result = replace(result, measurements=(*result.measurements, total))
    request = volumes.make_request(source, result=result)
    assert outline_slices(result) == {1: 4, 2: 4, 0: 4}
    measured = _written(request).ContentSequence[-2].ContentSequence
    whole = [group for group in measured if _tracked(group) == "Whole result"]
    assert len(whole) == 2
    points = _points(whole[1])
    np.testing.assert_array_equal(points.min(axis=0), (0, 7))
    np.testing.assert_array_equal(points.max(axis=0), (31, 31))
    # Not the four or five of a user's rectangle.
    assert len(points) > 5


def test_a_report_without_seg_says_what_was_measured(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    ds = create_sr(request, None)
    groups = Comprehensive3DSR.from_dataset(ds).content.get_image_measurement_groups()
    stated = {item.value for group in groups for item in group.get_measurements()}
    assert stated == {item.value for item in request.result.measurements}
    evaluations = ds.ContentSequence[-1]
    assert evaluations.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    assert not [item for item in evaluations.ContentSequence if "No voxel" in item.TextValue]
    assert codes.SCT.Volume.value in str(ds)
