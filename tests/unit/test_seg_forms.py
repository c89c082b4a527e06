"""A SEG in every form, of every geometry: valid, and proven where the label map lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import segs
import volumes
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RLELossless

from pipelines.errors import UnprovenError
from pipelines.evidence.gate import check_iod
from pipelines.evidence.profile import Compression, SegmentationType
from pipelines.evidence.proof import encode, prove_encoded, prove_written
from pipelines.evidence.readback import read_back
from pipelines.evidence.request import EvidenceRequest
from pipelines.evidence.seg import SegForm, create_seg
from pipelines.evidence.sr import create_sr
from pipelines.result import AnalysisResult

Labels = NDArray[np.uint8]
FORMS = pytest.mark.parametrize("form", segs.FORMS.values(), ids=segs.FORMS)


def _encoded(request: EvidenceRequest, form: SegForm) -> bytes:
    seg = create_seg(request, form)
    assert seg is not None
    return encode(seg)


@FORMS
@pytest.mark.parametrize("name", segs.SOURCES)
def test_every_form_of_every_geometry_is_valid_and_proven(
    tmp_path: Path, name: str, form: SegForm
) -> None:
    request = volumes.make_request(segs.SOURCES[name](tmp_path))
    written = read_back(_encoded(request, form))

    assert "frames" in check_iod(written.ds)
    residuals = prove_written(written, request.result, request.source)
    labels = request.result.label_map.array
    for number, residual in enumerate(residuals, start=1):
        voxels = int((labels == number).sum())
        assert (residual.voxels, residual.voxels_off, residual.voxels_differing) == (voxels, 0, 0)
        assert residual.volume_off_ml == pytest.approx(0, abs=1e-6)
        assert residual.centroid_off_mm == pytest.approx(0, abs=1e-3)
    assert any(residual.voxels for residual in residuals)


@FORMS
def test_a_form_says_what_it_is(tmp_path: Path, form: SegForm) -> None:
    ds = read_back(_encoded(volumes.make_request(segs.SOURCES["oblique"](tmp_path)), form)).ds
    assert ds.file_meta.TransferSyntaxUID == form.compression.transfer_syntax_uid
    assert form.segmentation.name == ds.SegmentationType
    assert (ds.Rows, ds.Columns) == volumes.SHAPE[1:]
    assert ds.SegmentsOverlap == "NO"
    numbers = [item.SegmentNumber for item in ds.SegmentSequence]
    if form.segmentation is SegmentationType.LABELMAP:
        assert (ds.BitsAllocated, ds.PixelPaddingValue, numbers) == (8, 0, [0, 1, 2])
        assert "SegmentIdentificationSequence" not in ds.PerFrameFunctionalGroupsSequence[0]
        # Slices 1 to 9 but for 5 have voxels.
        assert ds.NumberOfFrames == 8
    else:
        assert (ds.BitsAllocated, "PixelPaddingValue" in ds, numbers) == (1, False, [1, 2])


def test_forms_are_other_objects_and_each_always_the_same(tmp_path: Path) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    first = {name: _encoded(request, form) for name, form in segs.FORMS.items()}
    again = {name: _encoded(request, form) for name, form in segs.FORMS.items()}
    assert first == again
    read = [read_back(encoded).ds for encoded in first.values()]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({ds[keyword].value for ds in read}) == len(read)
    assert len({int(ds.SeriesNumber) for ds in read}) == 1
    assert _encoded(request, SegForm()) == encode(create_seg(request))  # type: ignore[arg-type]


def test_kind_keys_keep_the_uids_that_are_in_archives() -> None:
    keys = [form.kind_key for form in segs.FORMS.values()]
    assert keys == [
        "SEG",
        "SEG/binary/rle",
        "SEG/labelmap/native",
        "SEG/labelmap/rle",
        "SEG/labelmap/jpeg-ls",
    ]


@pytest.mark.parametrize(
    "parts",
    [
        (SegmentationType.BINARY, Compression.JPEG_LS),
        (SegmentationType.NONE, Compression.NATIVE),
    ],
)
def test_what_is_no_form_is_refused(parts: tuple[SegmentationType, Compression]) -> None:
    with pytest.raises(ValueError, match=r"jpeg-ls|labelmap"):
        SegForm(segmentation=parts[0], compression=parts[1])


@pytest.mark.parametrize("form", [f for f in segs.FORMS.values() if f.segmentation == "labelmap"])
def test_more_than_255_segments_take_16_bits(tmp_path: Path, form: SegForm) -> None:
    source = segs.SOURCES["axial"](tmp_path)
    specs = [volumes.make_spec(number, rgb=(200, 100, 50)) for number in range(1, 301)]
    labels = np.zeros(volumes.SHAPE, np.uint16)
    labels[2, 3:33, 5:15] = np.arange(1, 301).reshape(30, 10)
    labels[7, 20:22, 30:40] = 300
    result = volumes.make_result(source, specs, source.volume.with_array(labels))
    encoded = _encoded(volumes.make_request(source, specs=specs, result=result), form)
    written = read_back(encoded)
    check_iod(written.ds)
    assert (written.ds.BitsAllocated, len(written.ds.SegmentSequence)) == (16, 301)
    residuals = prove_written(written, result, source)
    assert residuals[299].voxels == 21
    if written.ds.file_meta.TransferSyntaxUID == RLELossless:
        # PS3.5 G.2: "each RLE segment must be an even number of bytes".
        start = bytes(written.pixel_data).index(
            (2).to_bytes(4, "little") + (64).to_bytes(4, "little")
        )
        offset = int.from_bytes(written.pixel_data[start + 8 : start + 12], "little")
        assert offset % 2 == 0


@FORMS
@pytest.mark.parametrize("shape", [(11, 35, 41), (11, 1, 43), (11, 16, 24)])
def test_frames_that_do_and_do_not_end_on_bytes(
    tmp_path: Path, form: SegForm, shape: tuple[int, int, int]
) -> None:
    """35 x 41 pixels are 3 bits more than bytes: eight frames end on one."""
    source = segs.SOURCES["axial"](tmp_path)
    part = source.volume[:, : shape[1], : shape[2]]
    for ds in source.datasets:
        ds.Rows, ds.Columns = shape[1:]
    source = dataclasses.replace(source, volume=part)
    labels = np.zeros(shape, np.uint8)
    labels[1:10, shape[1] // 3 :, 2:9], labels[2:9, :, 20:22] = 1, 2
    specs = (volumes.make_spec(1), volumes.make_spec(2))
    result = volumes.make_result(source, specs, part.with_array(labels))
    encoded = _encoded(volumes.make_request(source, specs=specs, result=result), form)
    assert len(encoded) % 2 == 0
    assert prove_encoded(encoded, result, source)[0].voxels == int((labels == 1).sum())


@FORMS
def test_segments_move_up_where_some_are_empty(tmp_path: Path, form: SegForm) -> None:
    source = segs.SOURCES["axial"](tmp_path)
    specs = [volumes.make_spec(number) for number in (1, 2, 3)]
    labels = volumes.make_label_map(source)
    labels = labels.with_array(np.array([0, 0, 3], np.uint8)[labels.array])
    result = volumes.make_result(source, specs, labels)
    request = volumes.make_request(source, specs=specs, result=result)
    written = read_back(_encoded(request, form))
    check_iod(written.ds)
    assert written.ds.SegmentSequence[-1].SegmentNumber == 1
    residuals = prove_written(written, result, source)
    assert [residual.voxels > 0 for residual in residuals] == [False, False, True]


@FORMS
def test_a_report_refers_to_the_form_it_goes_with(tmp_path: Path, form: SegForm) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    seg = create_seg(request, form)
    assert seg is not None
    report = read_back(encode(create_sr(request, seg))).ds
    assert check_iod(report)
    assert str(seg.SOPInstanceUID) in str(report.CurrentRequestedProcedureEvidenceSequence)


# -- what is spoilt is refused --------------------------------------------------------------------


def _one_voxel_more(labels: Labels) -> Labels:
    changed = labels.copy()
    changed[3, 30, 40] = 1
    return changed


@FORMS
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda labels: labels[:, :, ::-1], id="columns flipped"),
        pytest.param(lambda labels: labels[:, ::-1], id="rows flipped"),
        pytest.param(lambda labels: labels[::-1], id="slices reversed"),
        pytest.param(lambda labels: np.roll(labels, 1, axis=2), id="shifted by a pixel"),
        pytest.param(lambda labels: np.roll(labels, 1, axis=0), id="shifted by a slice"),
        pytest.param(lambda labels: np.array([0, 2, 1], np.uint8)[labels], id="segments swapped"),
        pytest.param(lambda labels: np.where(labels == 2, 0, labels), id="a segment lost"),
        pytest.param(_one_voxel_more, id="one voxel more"),
    ],
)
def test_another_label_map_is_refused(
    tmp_path: Path, form: SegForm, spoil: Callable[[Labels], Labels]
) -> None:
    request = volumes.make_request(segs.SOURCES["oblique"](tmp_path))
    result = request.result
    other = result.label_map.with_array(spoil(result.label_map.array))
    spoilt = dataclasses.replace(request, result=dataclasses.replace(result, label_map=other))
    with pytest.raises(UnprovenError, match="read back, is off by"):
        prove_encoded(_encoded(spoilt, form), result, request.source)


@FORMS
def test_a_cut_object_is_refused(tmp_path: Path, form: SegForm) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    encoded = _encoded(request, form)
    for share in (0.9, 0.99):
        with pytest.raises((UnprovenError, EOFError)):
            prove_encoded(encoded[: int(len(encoded) * share)], request.result, request.source)


def test_a_value_that_is_not_described_is_refused(tmp_path: Path) -> None:
    request = volumes.make_request(segs.SOURCES["axial"](tmp_path))
    encoded = _encoded(request, segs.FORMS["labelmap, native"])
    spoilt = encoded[:-1000] + b"\x09" + encoded[-999:]
    with pytest.raises(UnprovenError, match="holds the value 9"):
        prove_encoded(spoilt, request.result, request.source)


@pytest.mark.parametrize("name", ["axial", "NM", "enhanced CT"])
def test_label_map_and_source_are_left_as_they_are(tmp_path: Path, name: str) -> None:
    request = volumes.make_request(segs.SOURCES[name](tmp_path))
    said = [str(ds) for ds in request.source.datasets]
    result: AnalysisResult = request.result
    before = result.label_map.array.copy()
    for form in segs.FORMS.values():
        _encoded(request, form)
    np.testing.assert_array_equal(result.label_map.array, before)
    assert [str(ds) for ds in request.source.datasets] == said


def _shown(ds: Dataset) -> list[tuple[list[int], int, list[float], str]]:
    """Of each frame: its dimension index, segment, place and source image."""
    return [
        (
            list(item.FrameContentSequence[0].DimensionIndexValues),
            item.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            list(item.PlanePositionSequence[0].ImagePositionPatient),
            item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID,
        )
        for item in ds.PerFrameFunctionalGroupsSequence
    ]


@pytest.mark.parametrize("name", ["oblique", "sagittal, last slice first"])
def test_frames_are_those_that_highdicom_makes_of_whole_slices(tmp_path: Path, name: str) -> None:
    request = volumes.make_request(segs.SOURCES[name](tmp_path))
    ds = read_back(_encoded(request, segs.FORMS["binary, native"])).ds
    plain = Segmentation(
        source_images=request.source.datasets,
        pixel_array=request.result.label_map.array,
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription.from_dataset(item, copy=True) for item in ds.SegmentSequence
        ],
        series_instance_uid=ds.SeriesInstanceUID,
        series_number=1,
        sop_instance_uid=ds.SOPInstanceUID,
        instance_number=1,
        manufacturer="Test",
        manufacturer_model_name="Test",
        software_versions="1",
        device_serial_number="1",
    )
    assert len(ds.SegmentSequence) > 1
    assert _shown(ds) == _shown(plain)
