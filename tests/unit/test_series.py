"""Files -> volume: every orientation and order in its place, everything else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import volumes
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from pipelines.errors import InputError
from pipelines.series import read_series
from pipelines.training.phantoms.dicom import SeriesOptions


def _place(volume: highdicom.Volume, value: int) -> np.ndarray[Any, Any]:
    """Where the one voxel of a value lies, in mm."""
    places = np.argwhere(volume.array == value)
    assert len(places) == 1
    mapped: np.ndarray[Any, Any] = volume.map_indices_to_reference(places)[0]
    return mapped


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_voxels_lie_where_they_were(tmp_path: Path, orientation: str, reverse: bool) -> None:
    options = SeriesOptions(reverse=reverse)
    files = volumes.write_series(tmp_path, orientation=orientation, options=options)
    files = files[5:] + files[:5]

    source = read_series(files)

    made = volumes.make_volume(orientation)
    expected = made.affine @ [*volumes.MARK, 1]
    np.testing.assert_allclose(_place(source.volume, volumes.MARK_VALUE), expected[:3], atol=1e-6)
    assert source.volume.array.dtype == np.int16
    assert source.volume.spacing == pytest.approx(volumes.SPACING)
    # The same array in the same place, whatever the order of the axes' signs.
    np.testing.assert_array_equal(source.volume.match_geometry(made).array, made.array)
    # An independent reader agrees.
    other = highdicom.get_volume_from_series([dcmread(file) for file in files])
    np.testing.assert_array_equal(source.volume.match_geometry(other).array, other.array)
    assert source.volume.frame_of_reference_uid == other.frame_of_reference_uid


@pytest.mark.parametrize("orientation", volumes.ORIENTATIONS)
def test_slices_are_ordered_along_their_normal_with_their_headers(
    tmp_path: Path, orientation: str
) -> None:
    source = read_series(volumes.write_series(tmp_path, orientation=orientation))

    orientations = np.array(source.datasets[0].ImageOrientationPatient, float)
    normal = np.cross(orientations[:3], orientations[3:])
    along = [float(np.dot(ds.ImagePositionPatient, normal)) for ds in source.datasets]
    assert along == sorted(along)
    for index, ds in enumerate(source.datasets):
        np.testing.assert_allclose(
            source.volume.map_indices_to_reference(np.array([[index, 0, 0]]))[0],
            np.array(ds.ImagePositionPatient, float),
            atol=1e-6,
        )
        assert "PixelData" not in ds


def _save_as(syntax: str) -> Callable[[list[Dataset]], None]:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            if syntax == ExplicitVRBigEndian:
                ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
            ds.file_meta.TransferSyntaxUID = syntax

    return change


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_series_have_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    # No negative stored values: the encoders at hand take none.
    options = SeriesOptions(transfer_syntax=syntax, rescale_intercept=-1024.0)
    source = read_series(volumes.write_series(tmp_path, options=options))
    np.testing.assert_array_equal(source.volume.array, volumes.make_volume().array)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed_series_have_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    source = read_series(volumes.write_series(tmp_path, change=_save_as(syntax)))
    np.testing.assert_array_equal(source.volume.array, volumes.make_volume().array)


def test_bits_above_high_bit_are_not_values(tmp_path: Path) -> None:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            stored = np.frombuffer(ds.PixelData, "<i2").astype(np.uint16)
            ds.PixelRepresentation = 0
            ds.BitsStored, ds.HighBit = 12, 11
            ds.PixelData = (stored | 0xA000).astype("<u2").tobytes()

    source = read_series(volumes.write_series(tmp_path, change=change))
    np.testing.assert_array_equal(source.volume.array, volumes.make_volume().array)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, np.int16), (2, 7, np.int16), (0.5, 0, np.float32), (100, 0, np.float32)],
)
def test_rescale_is_exact_or_float(
    tmp_path: Path, slope: float, intercept: float, dtype: type
) -> None:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.RescaleSlope, ds.RescaleIntercept = slope, intercept

    source = read_series(volumes.write_series(tmp_path, change=change))

    stored = volumes.make_volume().array.astype(float) + 1024
    assert source.volume.array.dtype == dtype
    np.testing.assert_array_equal(source.volume.array, stored * slope + intercept)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    def change(datasets: list[Dataset]) -> None:
        for number, ds in enumerate(datasets):
            ds.RescaleIntercept = -1024 + number

    array = read_series(volumes.write_series(tmp_path, change=change)).volume.array
    assert array[:, -1, 0].tolist() == [40 + number for number in range(len(array))]


def test_padding_is_kept_and_its_tag_too(tmp_path: Path) -> None:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            stored = np.frombuffer(ds.PixelData, "<i2").copy()
            stored[0] = ds.PixelPaddingValue = -2000
            ds.PixelData = stored.tobytes()

    source = read_series(volumes.write_series(tmp_path, change=change))
    assert set(source.volume.array[:, 0, 0].tolist()) == {-3024}
    assert source.datasets[0].PixelPaddingValue == -2000


def test_positions_rounded_to_a_tenth_of_the_spacing_are_a_volume(tmp_path: Path) -> None:
    def change(datasets: list[Dataset]) -> None:
        for ds in datasets:
            ds.ImagePositionPatient[2] = round(ds.ImagePositionPatient[2], 1)

    assert read_series(volumes.write_series(tmp_path, change=change)).volume.shape == volumes.SHAPE


# -- refusals -----------------------------------------------------------------------------------


def _set_on(index: int | None, **values: Any) -> Callable[[list[Dataset]], None]:
    """Set (or, with None, delete) attributes of one data set or all."""

    def change(datasets: list[Dataset]) -> None:
        for ds in datasets if index is None else [datasets[index]]:
            for keyword, value in values.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)

    return change


def _tilt(datasets: list[Dataset]) -> None:
    for number, ds in enumerate(datasets):
        ds.ImagePositionPatient[1] += 0.4 * number


def _stretch(datasets: list[Dataset]) -> None:
    for number, ds in enumerate(datasets):
        ds.ImagePositionPatient[2] += 0.03 * number**2


def _shift_one(datasets: list[Dataset]) -> None:
    datasets[5].ImagePositionPatient[0] += 3


def _repeat_position(datasets: list[Dataset]) -> None:
    datasets[4].ImagePositionPatient = datasets[5].ImagePositionPatient


def _repeat_instance(datasets: list[Dataset]) -> None:
    datasets[4].SOPInstanceUID = datasets[5].SOPInstanceUID


def _truncate(datasets: list[Dataset]) -> None:
    datasets[4].PixelData = datasets[4].PixelData[:100]


def _drop(datasets: list[Dataset]) -> None:
    del datasets[4]


def _keep_one(datasets: list[Dataset]) -> None:
    del datasets[1:]


_REFUSED: list[tuple[str, Callable[[list[Dataset]], None]]] = [
    ("input-too-few-slices", _keep_one),
    ("input-no-geometry", _set_on(4, ImagePositionPatient=None)),
    ("input-no-geometry", _set_on(4, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
    ("input-no-geometry", _set_on(4, PixelSpacing=[0, 0])),
    ("input-mixed-orientation", _set_on(4, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])),
    ("input-mixed-spacing", _set_on(4, PixelSpacing=[0.8, 0.9])),
    ("input-mixed-matrix", _set_on(4, Rows=35)),
    ("input-mixed-series", _set_on(4, SeriesInstanceUID=generate_uid())),
    ("input-mixed-frame-of-reference", _set_on(4, FrameOfReferenceUID=generate_uid())),
    ("input-mixed-frame-of-reference", _set_on(4, FrameOfReferenceUID=None)),
    ("input-duplicate-positions", _repeat_position),
    ("input-duplicate-instance", _repeat_instance),
    ("input-gantry-tilt", _tilt),
    ("input-shifted-slices", _shift_one),
    ("input-missing-slices", _drop),
    ("input-irregular-spacing", _stretch),
    ("input-localizer", _set_on(4, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
    ("input-colour", _set_on(4, SamplesPerPixel=3, PhotometricInterpretation="RGB")),
    ("input-colour", _set_on(None, PhotometricInterpretation="PALETTE COLOR")),
    ("input-multi-frame", _set_on(4, NumberOfFrames=2)),
    ("input-no-pixels", _set_on(4, PixelData=None)),
    ("input-no-rescale", _set_on(4, RescaleIntercept=None)),
    ("input-unreadable-pixels", _truncate),
    ("input-unreadable-pixels", _set_on(4, RescaleSlope=0)),
    ("input-no-pixels", _set_on(None, Rows=0)),
    ("input-no-pixels", _set_on(None, Columns=[])),
    ("input-unreadable", _set_on(4, NumberOfFrames=[1, 1])),
    ("input-unreadable-pixels", _set_on(4, RescaleSlope="1e38")),
    ("input-unreadable-pixels", _set_on(4, PixelRepresentation=[])),
    ("input-unreadable-pixels", _set_on(4, BitsStored=0)),
]


@pytest.mark.parametrize(("code", "change"), _REFUSED)
def test_what_is_no_volume_is_refused(
    tmp_path: Path, code: str, change: Callable[[list[Dataset]], None]
) -> None:
    with pytest.raises(InputError) as raised:
        read_series(volumes.write_series(tmp_path, change=change))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"\x28\x00\x30\x00DS", b"\x28\x00\x30\x00D\x09"),  # a VR that does not exist
        (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008\\1.2.1\0"),  # two transfer syntaxes
    ],
)
def test_damaged_elements_are_refused(tmp_path: Path, good: bytes, bad: bytes) -> None:
    files = volumes.write_series(tmp_path)
    assert files[4].read_bytes().count(good) == 1
    files[4].write_bytes(files[4].read_bytes().replace(good, bad))
    with pytest.raises(InputError) as raised:
        read_series(files)
    assert raised.value.code == "input-unreadable"


def test_a_damaged_patient_is_refused(tmp_path: Path) -> None:
    files = volumes.write_series(tmp_path)
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00P\x09"))
    with pytest.raises(InputError, match="damaged element") as raised:
        read_series(files)
    assert raised.value.code == "input-unreadable"


def test_the_refusal_names_the_instance_and_the_tag(tmp_path: Path) -> None:
    files = volumes.write_series(tmp_path, change=_set_on(4, ImagePositionPatient=None))
    uid = dcmread(files[4]).SOPInstanceUID
    with pytest.raises(InputError, match=rf"{uid}.*ImagePositionPatient"):
        read_series(files)


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning")
@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_truncated_compressed_pixels_are_refused(tmp_path: Path, syntax: str) -> None:
    options = SeriesOptions(transfer_syntax=syntax)
    files = volumes.write_series(tmp_path, options=options)
    whole = files[3].read_bytes()
    files[3].write_bytes(whole[:-40])
    with pytest.raises(InputError) as raised:
        read_series(files)
    # Where the cut falls decides how much of the file is left: none of it is taken for an image.
    assert raised.value.code in ("input-unreadable", "input-unreadable-pixels", "input-no-pixels")


def test_a_foreign_file_is_refused_without_its_name(tmp_path: Path) -> None:
    files = volumes.write_series(tmp_path)
    foreign = tmp_path / "DOE^JANE.dcm"
    foreign.write_text("no DICOM")
    with pytest.raises(InputError) as raised:
        read_series([*files, foreign])
    assert raised.value.code == "input-unreadable"
    assert "DOE" not in str(raised.value)


def test_a_series_without_frame_of_reference_is_a_volume_without_one(tmp_path: Path) -> None:
    files = volumes.write_series(tmp_path, change=_set_on(None, FrameOfReferenceUID=None))
    assert read_series(files).volume.frame_of_reference_uid is None


# -- files of other people ----------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("broken-geometry/gantrytilting/001", "input-gantry-tilt"),
        ("broken-geometry/notavolume/001", "input-duplicate-positions"),
        ("broken-geometry/sliceincrement/001", "input-missing-slices"),
        ("broken-geometry/sliceincrement/002", "input-gantry-tilt"),
        ("broken-geometry/sliceorientation/001", "input-mixed-orientation"),
        ("gantry-tilt-and-gaps", "input-gantry-tilt"),
        ("compressed/rgb/001", "input-colour"),
    ],
)
def test_broken_series_are_refused(shared_data: Path, folder: str, code: str) -> None:
    with pytest.raises(InputError) as raised:
        read_series(sorted((shared_data / "interop" / folder).glob("*.dcm")))
    assert raised.value.code == code


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["compressed", "compressed_j2k", "compressed_jpeg", "compressed_jpegls"]
)
def test_every_compression_gives_the_same_volume(shared_data: Path, name: str) -> None:
    folder = shared_data / "interop" / "compressed"
    expected = read_series(sorted((folder / "compressed_rle" / "001").glob("*.dcm"))).volume
    volume = read_series(sorted((folder / name / "001").glob("*.dcm"))).volume
    assert volume.geometry_equal(expected)
    np.testing.assert_array_equal(volume.array, expected.array)


@pytest.mark.shared
def test_the_real_ct_is_read(shared_data: Path) -> None:
    volume = read_series(sorted((shared_data / "ct-abdomen").glob("*.dcm"))).volume
    assert volume.shape == (160, 512, 512)
    assert volume.array.dtype == np.int16
    assert volume.array.min() == -2048  # the padding value of this scanner
    assert volume.spacing == pytest.approx((3.0, 1.03, 1.03))
