"""Secondary captures: what they show, where, of what, and that nobody is named in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import documents
import numpy as np
import pytest
import volumes
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pipelines.evidence.capture import captured_slices, create_captures
from pipelines.evidence.header import FIRST_SERIES_NUMBER
from pipelines.evidence.pictures import draw_slice, prepare_views
from pipelines.evidence.proof import encode
from pipelines.evidence.views import CAUTION, letters, plane_name
from pipelines.manifest import SegmentSpec
from pipelines.result import Notice, QualitativeEvaluation

MAGENTA = (255, 0, 255)


def _magenta(picture: np.ndarray) -> np.ndarray:
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    found: np.ndarray = (red > 170) & (blue > 170) & (green < 90)
    return found


def test_the_same_request_makes_the_same_bytes(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    first, second = (create_captures(volumes.make_request(source)) for _ in range(2))
    assert [encode(ds) for ds in first] == [encode(ds) for ds in second]


def test_a_page_and_a_picture_of_each_slice_that_shows_a_segment(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    made = [documents.received(ds) for ds in create_captures(volumes.make_request(source))]
    # Slices 1 to 4 and 6 to 9.
    assert len(made) == 1 + 8
    assert [ds.InstanceNumber for ds in made] == list(range(1, 10))
    assert len({ds.SOPInstanceUID for ds in made}) == 9
    assert len({ds.SeriesInstanceUID for ds in made}) == 1
    page, *pictures = made
    assert page.PatientOrientation in (None, "")
    assert len(page.SourceImageSequence) == volumes.SHAPE[0]
    for ds, index in zip(pictures, [1, 2, 3, 4, 6, 7, 8, 9], strict=True):
        (item,) = ds.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == source.datasets[index].SOPInstanceUID
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == source.datasets[0].SeriesInstanceUID
        assert ds.PatientOrientation == ["L", "P"]
    for ds in made:
        assert ds.SOPClassUID == SecondaryCaptureImageStorage
        assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert ds.SeriesNumber >= FIRST_SERIES_NUMBER
        assert (ds.BurnedInAnnotation, ds.ConversionType) == ("NO", "WSD")
        assert ds.PatientName == documents.PATIENT["PatientName"]
        assert ds.ContributingEquipmentSequence[1].DeviceUID == ds.DeviceUID
        assert ds.StudyInstanceUID == source.datasets[0].StudyInstanceUID


def test_pixels_are_those_of_the_patient(tmp_path: Path) -> None:
    """512 pixels over the longer side: a window of HU, and the spacing that measures true lengths."""
    request = volumes.make_request(documents.named_source(tmp_path))
    ds = documents.received(create_captures(request)[1])
    _, rows, columns = volumes.SHAPE
    height_mm, width_mm = rows * volumes.SPACING[1], columns * volumes.SPACING[2]
    longest = max(height_mm, width_mm)
    assert [float(value) for value in ds.PixelSpacing] == pytest.approx([longest / 512] * 2)
    views = prepare_views(request.source, request.result)
    width, height = views.size
    assert (width, height) == pytest.approx(
        (width_mm / longest * 512, height_mm / longest * 512), abs=1
    )
    # 40 HU in the window of -450 to 1050, far from lines and letters.
    corner = documents.pixels(ds)[height - 60 : height - 40, 40:60]
    assert np.abs(corner.astype(float) - 255 * (40 + 450) / 1500).max() <= 1.5


@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_outlines_lie_where_the_letters_say(tmp_path: Path, orientation: str) -> None:
    source = documents.named_source(tmp_path, orientation)
    places = source.volume.map_indices_to_reference(np.argwhere(np.ones(volumes.SHAPE, bool)))
    # LPS: left, posterior and head of the middle.
    inside = (places - np.array(source.volume.center_position) > 1).all(axis=1)
    labels = source.volume.with_array(inside.reshape(volumes.SHAPE).astype(np.uint8))
    specs: tuple[SegmentSpec, ...] = (volumes.make_spec(1, rgb=MAGENTA),)
    request = volumes.make_request(
        source, specs=specs, result=volumes.make_result(source, specs, labels)
    )
    views = prepare_views(source, request.result)
    width, height = views.size

    ds = documents.received(create_captures(request)[-1])

    found_rows, found_columns = np.nonzero(_magenta(documents.pixels(ds)[:height, :width]))
    right = found_columns.mean() > width / 2
    low = found_rows.mean() > height / 2
    shown_right, shown_low = (str(value) for value in ds.PatientOrientation)
    # Radiologists look at it so, whichever way the slices lie.
    assert shown_right[0] == {"coronal": "L", "sagittal": "P"}.get(orientation, "L")
    assert shown_low[0] == {"coronal": "F", "sagittal": "F"}.get(orientation, "P")
    assert right == (shown_right[0] in "LPH")
    assert low == (shown_low[0] in "LPH")
    drawn = documents.texts([draw_slice(views, request, captured_slices(request.result)[-1])])
    assert shown_right in drawn
    assert shown_low in drawn
    assert CAUTION in drawn
    assert "Bone 1 (largest here)" in drawn or "Bone 1" in drawn


def test_lines_run_along_the_edge_and_fill_nothing(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    specs = (volumes.make_spec(1, rgb=MAGENTA),)
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[5, 10:20, 10:30] = 1
    result = volumes.make_result(source, specs, source.volume.with_array(labels))
    request = volumes.make_request(source, specs=specs, result=result)
    ds = create_captures(request)[-1]
    width, height = prepare_views(source, result).size
    magenta = _magenta(documents.pixels(ds)[:height, :width])
    rows, columns = np.nonzero(magenta)
    assert (rows.min() + 0.5) / height * 36 == pytest.approx(10, abs=0.15)
    assert (rows.max() + 0.5) / height * 36 == pytest.approx(20, abs=0.15)
    assert (columns.min() + 0.5) / width * 43 == pytest.approx(10, abs=0.15)
    assert (columns.max() + 0.5) / width * 43 == pytest.approx(30, abs=0.15)
    # Corners are cut by half a pixel of the source: 8 of the picture.
    inner = magenta[rows.min() + 14 : rows.max() - 13, columns.min() + 14 : columns.max() - 13]
    assert inner.size > 10_000
    assert not inner.any()


def test_many_slices_are_thinned_and_key_slices_kept(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    labels = np.zeros((300, 8, 9), np.uint8)
    labels[10:290, 2:4, 2:4] = 1
    labels[100, 2:6, 2:6] = 1
    labels[201:204, 6, 6:8] = 2
    labels[202, 6:8, 6:8] = 2
    volume = dataclasses.replace(
        volumes.make_result(source, (volumes.make_spec(1), volumes.make_spec(2))),
        label_map=type(source.volume)(
            array=labels, affine=volumes.affine_of("axial"), coordinate_system="PATIENT"
        ),
    )
    chosen = captured_slices(volume)
    assert len(chosen) == 60
    assert {100, 202} <= set(chosen)
    assert list(chosen) == sorted(set(chosen))
    assert np.diff(chosen).max() <= 10
    assert chosen[0] < 15
    assert chosen[-1] > 284


def test_an_empty_result_is_a_page(tmp_path: Path) -> None:
    source = documents.named_source(tmp_path)
    (page,) = create_captures(documents.nothing_found(source))
    assert page.Rows == page.Columns == 1024


def test_frames_of_a_multi_frame_image_are_referred_to(tmp_path: Path) -> None:
    source = documents.nm_source(tmp_path)
    request = volumes.make_request(source)
    _, *pictures = create_captures(request)
    for ds, index in zip(pictures, captured_slices(request.result), strict=True):
        (item,) = ds.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == source.datasets[0].SOPInstanceUID
        assert item.ReferencedFrameNumber == source.frame_numbers[index]


def test_nobody_is_named_in_the_pictures(tmp_path: Path) -> None:
    request = volumes.make_request(documents.named_source(tmp_path))
    views = prepare_views(request.source, request.result)
    said = " ".join(
        documents.texts([draw_slice(views, request, index) for index in (1, 7)])
    ).lower()
    assert "bone in ct" in said
    for word in ("secretname", "given", "4711", "1901", "0203"):
        assert word not in said


def test_a_dollar_sign_is_one(tmp_path: Path) -> None:
    """Texts are not mathematics."""
    source = documents.named_source(tmp_path)
    specs = (volumes.make_spec(1, label="Bone $^$ 1"), volumes.make_spec(2))
    request = volumes.make_request(source, specs=specs)
    notices = (Notice(code="x", message="Costs $5$ and $\\frac$."),)
    evaluation = QualitativeEvaluation(
        name=volumes.ANATOMY.to_code(), value=volumes.ANATOMY.to_code()
    )
    result = dataclasses.replace(request.result, notices=notices, evaluations=(evaluation,))
    assert len(create_captures(dataclasses.replace(request, result=result))) == 9


def test_segments_of_one_colour_are_named_beside_their_outlines(tmp_path: Path) -> None:
    """As lesions are: a colour alone would not say which one it is."""
    source = documents.named_source(tmp_path)
    labels = np.zeros(volumes.SHAPE, np.uint8)
    labels[3, 5:9, 5:9], labels[3, 5:9, 30:34], labels[3, 20:25, 10:20] = 1, 2, 3
    specs = (
        volumes.make_spec(1, label="Lesion 1", rgb=MAGENTA),
        volumes.make_spec(2, label="Lesion 2", rgb=MAGENTA),
        volumes.make_spec(3, label="Bone"),
    )
    result = volumes.make_result(source, specs, source.volume.with_array(labels))
    request = volumes.make_request(source, specs=specs, result=result)
    figure = draw_slice(prepare_views(source, result), request, 3)
    named = {text.get_text(): text.xy[0] for text in figure.axes[0].texts if hasattr(text, "xy")}
    assert named == {"Lesion 1": pytest.approx(8.5), "Lesion 2": pytest.approx(29.5)}


def test_letters_say_the_direction() -> None:
    assert letters(np.array([1.0, 0.0, 0.0])) == "L"
    assert letters(np.array([-0.9, 0.3, -0.05])) == "RP"
    assert letters(np.array([0.2, -0.3, 0.93])) == "HAL"


def test_planes_are_named(tmp_path: Path) -> None:
    names = {name: plane_name(volumes.make_volume(name)) for name in volumes.ORIENTATIONS}
    assert names["axial"] == names["axial, prone"] == "axial"
    assert names["sagittal"] == "sagittal"
    assert names["coronal"] == "coronal"
    assert names["oblique"].startswith("oblique ")
