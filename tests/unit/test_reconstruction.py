"""Multi-frame NM reconstructions: each frame in its place, and evidence that names the frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import volumes
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from pipelines.errors import InputError
from pipelines.evidence.create import create_evidence
from pipelines.result import SourceSeries
from pipelines.series import read_series
from pipelines.training.phantoms.spect_dicom import SPECT_SERIES, nm_image

#: Frames in another order than slices, as PS3.3 C.8.4.8 allows.
SHUFFLED = [3, 1, 2, 4, 11, 10, 9, 8, 7, 6, 5]


def write(
    folder: Path,
    orientation: str = "axial",
    *,
    reverse: bool = False,
    change: Callable[[Dataset], Any] | None = None,
) -> list[Path]:
    """The file of a valid NM image; `change` may spoil it before it is written."""
    options = replace(SPECT_SERIES, reverse=reverse)
    ds = nm_image(volumes.make_volume(orientation), seed=7, options=options)
    if change is not None:
        change(ds)
    path = folder / "nm.dcm"
    ds.save_as(path, enforce_file_format=True)
    return [path]


def _shuffle(ds: Dataset) -> None:
    """Store the frames in another order; Slice Vector says which slice each is."""
    frames = np.frombuffer(ds.PixelData, "<u2").reshape(-1, ds.Rows * ds.Columns)
    ds.PixelData = frames[[number - 1 for number in SHUFFLED]].tobytes()
    ds.SliceVector = SHUFFLED


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_frames_lie_where_the_slices_were(tmp_path: Path, orientation: str, reverse: bool) -> None:
    source = read_series(write(tmp_path, orientation, reverse=reverse))

    made = volumes.make_volume(orientation)
    place = np.argwhere(source.volume.array == volumes.MARK_VALUE)
    expected = made.affine @ [*volumes.MARK, 1]
    np.testing.assert_allclose(
        source.volume.map_indices_to_reference(place)[0], expected[:3], atol=1e-6
    )
    np.testing.assert_array_equal(source.volume.match_geometry(made).array, made.array)
    assert source.volume.array.dtype == np.int16


def test_headers_are_those_of_the_frames(tmp_path: Path) -> None:
    source = read_series(write(tmp_path, "oblique", change=_shuffle))

    assert sorted(source.frame_numbers) == list(range(1, 12))
    assert source.frame_numbers != tuple(range(1, 12))
    for index, ds in enumerate(source.datasets):
        np.testing.assert_allclose(
            np.array(ds.ImagePositionPatient, float),
            source.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0],
            atol=1e-6,
        )
        assert "PixelData" not in ds
        assert ds.Modality == "NM"


def test_slice_vector_says_which_frame_is_which_slice(tmp_path: Path) -> None:
    made = volumes.make_volume()
    source = read_series(write(tmp_path, change=_shuffle))
    np.testing.assert_array_equal(source.volume.match_geometry(made).array, made.array)


def test_frames_may_be_compressed_and_have_no_vector(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        del ds.SliceVector
        ds.compress(RLELossless, generate_instance_uid=False)

    made = volumes.make_volume()
    source = read_series(write(tmp_path, change=change))
    np.testing.assert_array_equal(source.volume.match_geometry(made).array, made.array)


def _set(**values: Any) -> Callable[[Dataset], None]:
    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def _forget_place(ds: Dataset) -> None:
    del ds.DetectorInformationSequence[0].ImagePositionPatient


def _shear(ds: Dataset) -> None:
    ds.DetectorInformationSequence[0].ImageOrientationPatient = [1, 0, 0, 0.3, 1, 0]


REFUSED = [
    ("input-not-a-reconstruction", _set(ImageType=["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"])),
    ("input-not-a-reconstruction", _set(ImageType=["ORIGINAL", "PRIMARY"])),
    ("input-not-a-reconstruction", _set(FrameIncrementPointer=[0x00540060, 0x00540080])),
    ("input-too-few-slices", _set(NumberOfFrames=1)),
    ("input-no-geometry", _forget_place),
    ("input-no-geometry", _shear),
    ("input-no-geometry", _set(SpacingBetweenSlices=None)),
    ("input-no-geometry", _set(SpacingBetweenSlices=0)),
    ("input-no-geometry", _set(PixelSpacing=[4, 0])),
    ("input-missing-slices", _set(SliceVector=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])),
    ("input-declared-size", lambda ds: _set(PixelData=ds.PixelData[:100])(ds)),
    ("input-no-pixels", _set(Rows=0)),
]


@pytest.mark.parametrize(("code", "change"), REFUSED)
def test_what_is_no_volume_is_refused_by_name(
    tmp_path: Path, code: str, change: Callable[[Dataset], None]
) -> None:
    files = write(tmp_path, change=change)
    with pytest.raises(InputError) as refused:
        read_series(files)
    assert refused.value.code == code
    assert str(dcmread(files[0]).SOPInstanceUID) in str(refused.value)


def test_two_reconstructions_in_a_series_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    files = write(tmp_path) + write(tmp_path / "other", reverse=True)
    with pytest.raises(InputError) as refused:
        read_series(files)
    assert refused.value.code == "input-several-volumes"


def test_a_real_reconstruction_without_a_place_is_refused(shared_data: Path) -> None:
    """From 1995: RECON TOMO, 13 slices, no Detector Information Sequence."""
    path = shared_data / "interop" / "nm-and-odd-files" / "NM-MONO2-16-13x-heart"
    with pytest.raises(InputError) as refused:
        read_series([path])
    assert refused.value.code == "input-no-geometry"


def test_the_real_reconstruction_is_read_once_it_has_a_place(
    shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "interop" / "nm-and-odd-files" / "NM-MONO2-16-13x-heart"
    ds = dcmread(path)
    detector = Dataset()
    detector.ImagePositionPatient = [-98, -98, 40]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.DetectorInformationSequence = [detector]
    ds.save_as(tmp_path / "nm.dcm")
    source = read_series([tmp_path / "nm.dcm"])
    assert source.volume.array.shape == (13, 64, 64)
    assert source.volume.array.max() == ds.LargestImagePixelValue
    assert source.volume.spacing == pytest.approx((6.231669, 3.11583, 3.11583))


# -- evidence -----------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> SourceSeries:
    return read_series(write(tmp_path, "oblique", change=_shuffle))


def test_each_frame_of_the_seg_names_the_frame_it_was_drawn_on(source: SourceSeries) -> None:
    request = volumes.make_request(source)
    written = {item.kind: dcmread(BytesIO(item.encoded)) for item in create_evidence(request)}
    seg = written["SEG"]

    series = seg.ReferencedSeriesSequence
    assert [item.SeriesInstanceUID for item in series] == [source.datasets[0].SeriesInstanceUID]
    uids = [item.ReferencedSOPInstanceUID for item in series[0].ReferencedInstanceSequence]
    assert uids == [source.datasets[0].SOPInstanceUID]
    assert (seg.Rows, seg.Columns) == volumes.SHAPE[1:]
    places = {
        number: np.array(ds.ImagePositionPatient, float)
        for number, ds in zip(source.frame_numbers, source.datasets, strict=True)
    }
    for groups in seg.PerFrameFunctionalGroupsSequence:
        (image,) = groups.DerivationImageSequence[0].SourceImageSequence
        placed = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(placed, places[int(image.ReferencedFrameNumber)], atol=1e-6)


def test_the_report_lists_the_image_once_and_each_frame_in_its_library(
    source: SourceSeries,
) -> None:
    evidence = {item.kind: item.ds for item in create_evidence(volumes.make_request(source))}
    report = evidence["SR"]
    named = [
        instance.ReferencedSOPInstanceUID
        for series in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
    assert sorted(named) == sorted(
        [source.datasets[0].SOPInstanceUID, evidence["SEG"].SOPInstanceUID]
    )
    library = next(
        item
        for item in report.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.ImageLibrary.value
    )
    entries = [
        item for item in library.ContentSequence[0].ContentSequence if item.ValueType == "IMAGE"
    ]
    frames = [int(item.ReferencedSOPSequence[0].ReferencedFrameNumber) for item in entries]
    assert frames == list(source.frame_numbers)


def test_the_same_request_makes_the_same_bytes(source: SourceSeries) -> None:
    first = create_evidence(volumes.make_request(source))
    second = create_evidence(volumes.make_request(source))
    assert [item.encoded for item in first] == [item.encoded for item in second]
    assert all(residual.voxels_differing == 0 for residual in first[0].residuals)
