"""The header of a received data set: what is read, what is refused, and with which status."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from dicomgen import make_instance
from enhanced import SLICES, enhanced_image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.errors import InvalidDicomError
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SegmentationStorage,
)
from received import series

from node.elements import Encoding, read_elements
from node.errors import ReceiveError
from node.header import (
    CANNOT_UNDERSTAND,
    TRUNCATED,
    UID_INVALID,
    UID_MISSING,
    ParsedHeader,
    read_header,
)
from node.plane import plane_of
from node.preference import Preference


def encode(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set alone, as a C-STORE request carries it."""
    stream = BytesIO()
    from pydicom.filebase import DicomIO  # noqa: PLC0415

    out = DicomIO(stream)
    out.is_implicit_VR = syntax == ImplicitVRLittleEndian
    out.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(out, ds)
    encoded = stream.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(encoded) + deflater.flush()
    return encoded


def split(path: Path) -> tuple[str, bytes]:
    """Transfer syntax and data set of a file."""
    content = path.read_bytes()
    meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
    return str(meta.TransferSyntaxUID), content[144 + meta.FileMetaInformationGroupLength :]


def refusal(data: bytes, syntax: str = ExplicitVRLittleEndian) -> ReceiveError:
    with pytest.raises(ReceiveError) as caught:
        read_header(syntax, data)
    return caught.value


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
     DeflatedExplicitVRLittleEndian],
)  # fmt: skip
def test_the_same_header_in_every_encoding(syntax: str) -> None:
    ds = make_instance(instance=3)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    parsed = read_header(syntax, encode(ds, syntax))
    assert parsed.sop_instance_uid == ds.SOPInstanceUID
    assert parsed.sop_class_uid == ds.SOPClassUID
    assert parsed.series_instance_uid == ds.SeriesInstanceUID
    assert parsed.study_instance_uid == ds.StudyInstanceUID
    assert not parsed.is_evidence
    header = parsed.header
    assert header["ImageType"] == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert header["InstanceNumber"] == (3,)
    assert header["ImagePositionPatient"] == (-12.0, -12.0, -94.0)
    assert header["PixelSpacing"] == (1.5, 1.5)
    assert header["Rows"] == (16,)
    assert header["PixelRepresentation"] == (1,)
    assert header["PatientName"] == ("Test^Patient1",)
    assert header["StudyDate"] == ("20260102",)
    assert "PixelData" not in header
    assert "ReferringPhysicianName" not in header, "empty values say nothing"
    json.dumps(header, allow_nan=False)


def test_what_no_rule_wants_is_left_out() -> None:
    ds = make_instance()
    ds.add_new(0x00091001, "LO", "private")
    ds.ReferencedImageSequence = Sequence([Dataset()])
    ds.ImageComments = "x" * 1025
    ds.PatientComments = "x" * 1024
    ds.add_new(0x00420011, "OB", b"\x00" * 5000)
    header = read_header(ExplicitVRLittleEndian, encode(ds)).header
    assert "ImageComments" not in header
    assert header["PatientComments"] == ("x" * 1024,)
    assert "ReferencedImageSequence" not in header
    assert "EncapsulatedDocument" not in header
    assert all(keyword and keyword.isidentifier() for keyword in header)


@pytest.mark.parametrize(
    ("term", "codec"),
    [("ISO_IR 192", "utf-8"), ("ISO_IR 100", "latin-1"), ("ISO_IR 144", "iso8859-5"),
     ("ISO_IR 13", "shift_jis"), ("GB18030", "gb18030")],
)  # fmt: skip
def test_text_in_the_character_set_of_the_data_set(term: str, codec: str) -> None:
    text = {"ISO_IR 144": "Люди", "ISO_IR 13": "ﾔﾏﾀﾞ", "GB18030": "王小东"}.get(term, "Müller")
    ds = make_instance()
    ds.SpecificCharacterSet = term
    ds.add_new(0x00081030, "LO", "X" * len(text.encode(codec)))
    encoded = encode(ds).replace(b"X" * len(text.encode(codec)), text.encode(codec))
    assert read_header(ExplicitVRLittleEndian, encoded).header["StudyDescription"] == (text,)


def test_numbers_that_are_none_stay_text() -> None:
    ds = make_instance()
    encoded = encode(ds).replace(b"120 ", b"1,20")
    assert read_header(ExplicitVRLittleEndian, encoded).header["KVP"] == ("1,20",)


def test_a_number_beyond_all_numbers_stays_text() -> None:
    element = b"\x20\x00\x02\x10IS\x90\x01" + b"9" * 400
    encoded = element + encode(make_instance())
    header = read_header(ExplicitVRLittleEndian, encoded).header
    assert header["ImagesInAcquisition"] == ("9" * 400,)


def test_a_null_inside_a_text_is_no_null_in_the_index() -> None:
    encoded = encode(make_instance()).replace(b"CT whole body", b"CT\x00whole body")
    header = read_header(ExplicitVRLittleEndian, encoded).header
    assert header["StudyDescription"] == ("CT\ufffdwhole body",)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [(b"nan     ", ("nan",)), (b"1.5\\abcd", (1.5, "abcd")), (b"        ", None)],
)
def test_odd_geometry_of_an_enhanced_object_is_kept(
    spacing: bytes, expected: tuple[object, ...] | None
) -> None:
    ds = make_instance()
    del ds.ImageOrientationPatient, ds.PixelSpacing
    ds.NumberOfFrames = 1
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.625]
    shared.PlaneOrientationSequence = Sequence([])
    shared.PixelMeasuresSequence = Sequence([measures])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    encoded = encode(ds)
    assert b"0.5\\0.625 " in encoded
    encoded = encoded.replace(b"0.5\\0.625 ", spacing.ljust(10))
    header = read_header(ExplicitVRLittleEndian, encoded).header
    assert header.get("PixelSpacing") == expected
    json.dumps(header, allow_nan=False)


def test_geometry_of_an_enhanced_object_is_its_first_frames() -> None:
    ds = make_instance()
    del ds.ImageOrientationPatient, ds.ImagePositionPatient, ds.PixelSpacing
    ds.NumberOfFrames = 2
    ds.PixelData = ds.PixelData * 2
    shared, first, second = Dataset(), Dataset(), Dataset()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    for item, z in ((first, 1.0), (second, 3.0)):
        position = Dataset()
        position.ImagePositionPatient = [0, 0, z]
        item.PlanePositionSequence = Sequence([position])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    ds.PerFrameFunctionalGroupsSequence = Sequence([first, second])
    ds["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    header = read_header(ExplicitVRLittleEndian, encode(ds)).header
    assert header["NumberOfFrames"] == (2,)
    assert header["ImageOrientationPatient"] == (1, 0, 0, 0, 1, 0)
    assert header["ImagePositionPatient"] == (0, 0, 1)
    assert header["PixelSpacing"] == (0.5, 0.5)


def test_kernel_and_thickness_of_an_enhanced_object_can_be_asked_for() -> None:
    ds = make_instance()
    del ds.ImageOrientationPatient, ds.ImagePositionPatient, ds.PixelSpacing, ds.SliceThickness
    ds.NumberOfFrames = 1
    shared, reconstruction, measures, exposure = Dataset(), Dataset(), Dataset(), Dataset()
    reconstruction.ConvolutionKernel, reconstruction.ReconstructionAlgorithm = "Br36f", "ITERATIVE"
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 1.5
    exposure.KVP = 120
    shared.CTReconstructionSequence = Sequence([reconstruction])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.CTXRayDetailsSequence = Sequence([exposure])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    header = read_header(ExplicitVRLittleEndian, encode(ds)).header
    assert header["ConvolutionKernel"] == ("Br36f",)
    assert header["ReconstructionAlgorithm"] == ("ITERATIVE",)
    assert (header["SliceThickness"], header["KVP"]) == ((1.5,), (120.0,))
    assert header["ImageType"] == tuple(ds.ImageType)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("orientation", ["axial", "coronal", "sagittal"])
def test_an_enhanced_image_has_all_that_rules_prefer_by(orientation: str, modality: str) -> None:
    ds = enhanced_image(orientation, modality)
    header = read_header(ExplicitVRLittleEndian, encode(ds)).header
    enhanced = replace(series("e", modality=modality), header=header, facts={"frames": len(SLICES)})
    assert plane_of(header) == orientation
    assert header["SliceThickness"] == (2.5,)
    assert header["ImageType"][0] == "ORIGINAL"
    preference = Preference([f"plane = {orientation}"])
    for other in (series("o", slices=10), series("o", slices=10, SliceThickness=(1.0,))):
        assert preference.best([other, enhanced]) is enhanced
        assert preference.judge(enhanced, other).holds


def test_where_an_nm_image_lies_is_what_its_detector_says() -> None:
    ds = make_instance()
    del ds.ImageOrientationPatient, ds.ImagePositionPatient
    ds.NumberOfFrames = 1
    detector = Dataset()
    detector.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    detector.ImagePositionPatient = [0, 0, 7]
    ds.DetectorInformationSequence = Sequence([detector])
    header = read_header(ExplicitVRLittleEndian, encode(ds)).header
    assert header["ImageOrientationPatient"] == (1, 0, 0, 0, 0, -1)
    assert header["ImagePositionPatient"] == (0, 0, 7)


def test_our_evidence_is_recognised_by_its_equipment() -> None:
    ds = make_instance()
    ds.SOPClassUID = SegmentationStorage
    other, ours = Dataset(), Dataset()
    other.Manufacturer, ours.Manufacturer = "Somebody", "OsteoNode"
    ds.ContributingEquipmentSequence = Sequence([other])
    assert not read_header(ExplicitVRLittleEndian, encode(ds)).is_evidence
    ds.ContributingEquipmentSequence = Sequence([other, ours])
    assert read_header(ExplicitVRLittleEndian, encode(ds)).is_evidence


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
)
def test_a_missing_uid_is_named(keyword: str) -> None:
    ds = make_instance()
    delattr(ds, keyword)
    error = refusal(encode(ds))
    assert error.status == UID_MISSING
    assert keyword in str(error)


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "1.2/3", "1.2.3\\1.2.4", "1.2.x", "1" * 66, "1.2\x00.3", "~root"]
)
def test_a_uid_with_other_characters_is_refused_and_not_repeated(uid: str) -> None:
    ds = make_instance()
    encoded = encode(ds)
    value = uid.encode() + b"\x00" * (len(uid) % 2)
    # As raw bytes: pydicom does not write such a UID.
    old = str(ds.SOPInstanceUID).encode()
    start = encoded.index(old)
    end = start + len(old) + len(old) % 2
    data = encoded[: start - 2] + len(value).to_bytes(2, "little") + value + encoded[end:]
    error = refusal(data)
    assert error.status == UID_INVALID
    assert "(0008,0018) SOPInstanceUID" in str(error)
    assert uid not in str(error)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_cut_off_anywhere_is_refused(syntax: str) -> None:
    encoded = encode(make_instance(), syntax)
    # A cut between two elements leaves a data set that is whole, if short.
    whole = set()
    if syntax != DeflatedExplicitVRLittleEndian:
        encoding = Encoding(is_implicit=syntax == ImplicitVRLittleEndian, is_little=True)
        whole = {element.end for element in read_elements(encoded, encoding)}
    for size in set(range(1, len(encoded) - 1)) - whole:
        assert refusal(encoded[:size], syntax).status == TRUNCATED, size


def test_a_cut_element_is_named() -> None:
    encoded = encode(make_instance())
    assert "(7FE0,0010) PixelData" in str(refusal(encoded[:-2]))
    middle = encoded.index(b"CT whole body") + 4
    assert "(0008,1030) StudyDescription" in str(refusal(encoded[:middle]))


def test_cut_encapsulated_pixel_data_is_refused() -> None:
    ds = make_instance()
    ds.PixelData = encapsulate([b"\xff\x4f" + b"\x11" * 300])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    encoded = encode(ds)
    assert read_header(JPEG2000Lossless, encoded).sop_instance_uid == ds.SOPInstanceUID
    without_delimiter = encoded[:-8]
    assert read_header(JPEG2000Lossless, without_delimiter).sop_class_uid == ds.SOPClassUID
    assert refusal(encoded[:-20], JPEG2000Lossless).status == TRUNCATED


def test_cut_pixel_data_after_an_offset_table_is_refused() -> None:
    ds = make_instance()
    ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(
        [b"\xff\x4f" + b"\x11" * 300]
    )
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    encoded = encode(ds)
    assert "ExtendedOffsetTable" not in read_header(JPEG2000Lossless, encoded).header
    assert refusal(encoded[:-20], JPEG2000Lossless).status == TRUNCATED


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", b"\x89PNG\r\n\x1a\n" * 40, b"\xff" * 999]
)
def test_what_is_no_data_set_is_refused(data: bytes) -> None:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        assert refusal(data, syntax).status >> 12 == 0xC


def test_endless_nesting_is_refused() -> None:
    head = encode(make_instance())[:-600]
    nested = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    error = refusal(nested * 5000 + head)
    assert error.status == CANNOT_UNDERSTAND


def test_a_small_stream_that_inflates_to_much_costs_little() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    ds = make_instance()
    encoded = encode(ds)
    pixels = encoded.index(b"\xe0\x7f\x10\x00")
    length = 200 * 1024 * 1024
    data = deflater.compress(encoded[: pixels + 8] + length.to_bytes(4, "little"))
    for _ in range(200):
        data += deflater.compress(b"\x00" * 1024 * 1024)
    data += deflater.flush()
    assert len(data) < 1 << 20
    parsed = read_header(DeflatedExplicitVRLittleEndian, data)
    assert parsed.sop_instance_uid == ds.SOPInstanceUID


# -- against pydicom ----------------------------------------------------------------------------


def _read_both(path: Path) -> tuple[ParsedHeader, Dataset] | None:
    try:
        syntax, data = split(path)
        parsed = read_header(syntax, data)
    except (AttributeError, InvalidDicomError, ReceiveError):
        return None
    return parsed, dcmread(path, stop_before_pixels=True)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_values_are_those_pydicom_reads() -> None:
    compared = 0
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*.dcm")):
        both = _read_both(path) if path.stat().st_size < 1 << 20 else None
        if both is None:
            continue
        parsed, ds = both
        assert parsed.sop_instance_uid == ds.SOPInstanceUID
        for keyword, values in parsed.header.items():
            if keyword not in ds or ds[keyword].VR in ("DS", "IS", "PN", "OB", "US or SS"):
                continue
            value = ds[keyword].value
            expected = list(value) if ds[keyword].VM > 1 else [value]
            assert [str(v) for v in values] == [str(v).strip() for v in expected], (path, keyword)
            compared += 1
    assert compared > 1000


def test_a_ct_header_is_read_in_little_time(
    benchmark_timer: Callable[[Callable[[], object]], float],
) -> None:
    encoded = encode(make_instance())
    # Half a millisecond on a quiet machine; the bound leaves room for a busy one.
    assert benchmark_timer(lambda: read_header(ExplicitVRLittleEndian, encoded)) < 0.005


@pytest.fixture
def benchmark_timer() -> Callable[[Callable[[], object]], float]:
    """Seconds a call takes, the best of many."""

    def measure(call: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(100):
            began = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - began)
        return best

    return measure
