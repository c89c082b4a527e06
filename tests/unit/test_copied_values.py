"""Values of the study that no person wrote, in the objects that repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
import volumes
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from pipelines.errors import InputError
from pipelines.evidence.create import create_evidence
from pipelines.evidence.proof import encode
from pipelines.evidence.refusal import create_refusal_sr
from pipelines.series import read_series

ANSI = b"\x1b[31mRED\x1b]0;x\x07"
TAKEN_OVER = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientComments",
              "StudyDescription", "Manufacturer", "SoftwareVersions")  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def series(folder: Path, values: dict[str, bytes]) -> list[Path]:
    """A series in Implicit VR, where a value of any VR may be longer than 64 KB."""
    paths = volumes.write_series(folder)
    for path in paths:
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        for keyword, raw in values.items():
            tag = Tag(tag_for_keyword(keyword) or 0)
            padded = raw + b" " * (len(raw) % 2)
            ds[tag] = RawDataElement(tag, None, len(padded), padded, 0, True, True)
        ds.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return paths


def objects_of(folder: Path, values: dict[str, bytes]) -> list[Dataset]:
    """SEG, SR and a refusal on a series that has these values, as they are read again."""
    source = read_series(series(folder, values))
    encoded = [item.encoded for item in create_evidence(volumes.make_request(source))]
    encoded.append(encode(create_refusal_sr(volumes.make_refusal([source.datasets]))))
    return [dcmread(BytesIO(one)) for one in encoded]


def texts(ds: Dataset, keyword: str) -> Sequence[str]:
    """All values of an attribute, in the object and in its equipment."""
    items = (ds, *ds.ContributingEquipmentSequence)
    return [str(item[keyword].value or "") for item in items if keyword in item]


@pytest.mark.parametrize("raw", [ANSI, b"A\x00\x00B", b"A\r\n2026 [error] B\x9b", b"\x08\x7f"])
def test_no_object_takes_over_a_control_character(tmp_path: Path, raw: bytes) -> None:
    for ds in objects_of(tmp_path, dict.fromkeys(TAKEN_OVER, raw)):
        for keyword in TAKEN_OVER:
            for text in texts(ds, keyword):
                # Comments have lines.
                lines = "\r\n" if keyword == "PatientComments" else ""
                assert all(c.isprintable() or c in lines for c in text), (ds.Modality, keyword)
        assert ds.PatientID.startswith(raw.decode("latin-1")[:1].strip("\x1b\x08"))


@pytest.mark.parametrize("length", [2000, 1 << 20])
def test_a_value_as_long_as_nobody_writes_is_emptied_and_the_object_stays_readable(
    tmp_path: Path, length: int
) -> None:
    for ds in objects_of(tmp_path, dict.fromkeys(TAKEN_OVER, b"X" * length)):
        # Above 65534 bytes an element turns into one of unknown VR (PS3.5 6.2.2), which no PACS matches.
        assert not [element.keyword for element in ds if element.VR == "UN"]
        for keyword in TAKEN_OVER:
            if length > 10240 or keyword != "PatientComments":
                assert not any("XX" in text for text in texts(ds, keyword))
        assert "PatientID" in ds


def test_what_a_hospital_writes_is_taken_over_as_it_is(tmp_path: Path) -> None:
    name = b"A" * 70 + b"^../../etc/passwd^$(id)=B=C"
    values = {
        "PatientName": name,
        "AccessionNumber": b"ACC-2026-0001-OF-SITE-4",
        "PatientID": b"<script>&'\"",
    }
    for ds in objects_of(tmp_path, values):
        assert str(ds.PatientName) == name.decode()
        assert ds.AccessionNumber == "ACC-2026-0001-OF-SITE-4"
        assert ds.PatientID == "<script>&'\""
    source = read_series(sorted(tmp_path.glob("*.dcm")))
    assert str(source.datasets[0].PatientName) == name.decode()


@pytest.mark.parametrize("raw", [b"A\r\nB", ANSI, b"X" * 2000, b"\0" * 8, b"99999999", b"20260230"])
def test_a_date_that_is_none_is_emptied(tmp_path: Path, raw: bytes) -> None:
    dates = ("PatientBirthDate", "StudyDate", "StudyTime")
    for ds in objects_of(tmp_path, dict.fromkeys(dates, raw)):
        assert [ds[keyword].value or "" for keyword in dates] == ["", "", ""]


@pytest.mark.parametrize("raw", [b"A" * 70000, b"1.2\\1.3", b"../../etc"])
def test_a_frame_of_reference_that_is_none_is_refused(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(InputError) as raised:
        read_series(series(tmp_path, {"FrameOfReferenceUID": raw}))
    assert raised.value.code == "input-unreadable"
