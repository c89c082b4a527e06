"""Data sets that lie, flood or nest: each is read or refused in little time, and nothing of it is repeated."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dicomgen import make_instance
from enhanced import enhanced_image
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from node.elements import Encoding
from node.errors import ReceiveError
from node.header import CANNOT_UNDERSTAND, UID_INVALID, read_header
from node.mentions import mentioned_uids

UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def encode(ds: Dataset) -> bytes:
    """The data set alone, in Explicit VR Little Endian."""
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, ds)
    return bytes(out.getvalue())


def refusal(data: bytes, syntax: str = ExplicitVRLittleEndian) -> ReceiveError:
    with pytest.raises(ReceiveError) as caught:
        read_header(syntax, data)
    return caught.value


@contextmanager
def soon(seconds: float = 5.0) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """In Explicit VR Little Endian; of the VRs with a length of four bytes only SQ and UN."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"SQ", b"UN"):
        return head + struct.pack("<xxI", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def with_element(new: bytes) -> bytes:
    """A right instance with one more element at its place."""
    encoded = encode(make_instance())
    position = 0
    tag = new[:4]
    while position < len(encoded) and _order(encoded[position : position + 4]) < _order(tag):
        long = encoded[position + 4 : position + 6] in (b"SQ", b"OW", b"OB", b"UN", b"UT")
        form, at = ("<I", position + 8) if long else ("<H", position + 6)
        (length,) = struct.unpack_from(form, encoded, at)
        position = at + struct.calcsize(form) + length
    return encoded[:position] + new + encoded[position:]


def _order(tag: bytes) -> tuple[int, ...]:
    return struct.unpack("<HH", tag)


@pytest.mark.parametrize("zeros", [True, False])
def test_a_deflated_flood_of_elements_is_refused(zeros: bool) -> None:
    """200 MB of elements of no length in 300 KB: 46 s and 2 GB when each was kept."""
    flood = b"\x00" * 8 if zeros else b"\x08\x00\x18\x00UI\x00\x00"
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = b"".join(packer.compress(flood * (1 << 17)) for _ in range(200)) + packer.flush()
    assert len(data) < 400_000
    with soon():
        assert refusal(data, DeflatedExplicitVRLittleEndian).status == CANNOT_UNDERSTAND


def test_a_flood_of_elements_in_a_sequence_of_undefined_length_is_refused() -> None:
    inner = b"\x09\x00\x10\x00SH\x00\x00" * 1_050_000
    sequence = b"\x08\x00\x40\x11SQ\x00\x00" + UNDEFINED + ITEM + UNDEFINED + inner
    data = sequence + ITEM_END + SEQUENCE_END + encode(make_instance())
    with soon(10):
        assert refusal(data).status == CANNOT_UNDERSTAND


def test_a_flood_of_functional_groups_costs_no_more_than_its_first() -> None:
    groups = (ITEM + b"\x00" * 4) * 500_000
    encoded = with_element(element(0x52009230, b"SQ", groups))
    frames = element(0x00280008, b"IS", b"500000")
    data = encoded.replace(b"\x28\x00\x10\x00US", frames + b"\x28\x00\x10\x00US")
    # What read_header asks of a multi-frame object that has no geometry of its own.
    data = data.replace(b"\x20\x00\x37\x00DS", b"\x20\x00\x38\x10DS", 1)
    with soon():
        assert read_header(ExplicitVRLittleEndian, data).header["NumberOfFrames"] == (500000,)


@pytest.mark.parametrize("tag", [0x00081140, 0x0018A001, 0x52009229])
@pytest.mark.parametrize("length", ["defined", "undefined"])
def test_ten_thousand_nested_sequences(tag: int, length: str) -> None:
    """Read where they are no business of ours, refused where they are; never a crash."""
    value = b""
    for _ in range(10_000):
        if length == "undefined":
            break
        inner = ITEM + struct.pack("<I", len(value)) + value
        value = element(0x00081140, b"SQ", inner)
    head = struct.pack("<HH2sxx", tag >> 16, tag & 0xFFFF, b"SQ")
    if length == "undefined":
        deeper = b"\x08\x00\x40\x11SQ\x00\x00" + UNDEFINED + ITEM + UNDEFINED
        new = head + UNDEFINED + ITEM + UNDEFINED + deeper * 10_000
        new += (ITEM_END + SEQUENCE_END) * 10_001
        with soon():
            assert refusal(with_element(new)).status == CANNOT_UNDERSTAND
        return
    new = element(tag, b"SQ", ITEM + struct.pack("<I", len(value)) + value)
    with soon():
        assert read_header(ExplicitVRLittleEndian, with_element(new)).sop_instance_uid


def test_a_flood_of_references_is_looked_at_for_seconds_at_most() -> None:
    data = b"\x08\x00\x18\x00" * 4_000_000
    with soon():
        assert mentioned_uids(data, len(data), Encoding(False, True)) == frozenset()


def test_a_number_of_odd_length_in_a_functional_group_is_refused() -> None:
    encoded = encode(enhanced_image())
    # Image Orientation (Patient) as four and a half doubles.
    broken = encoded.replace(b"\x20\x00\x37\x00DS", b"\x20\x00\x37\x00FD")
    assert broken != encoded
    assert refusal(broken).status == CANNOT_UNDERSTAND


@pytest.mark.parametrize(
    ("uid", "is_taken"),
    [
        ("1." + "2" * 62, True),
        ("1." + "2" * 63, False),
        ("1." + "2" * 500, False),
        ("../../../../etc/passwd", False),
        ("1.2/3", False),
        ("1.2\x1b[2J", False),
        ("1.2\n3", False),
        ("1.2\\1.3", False),
    ],
    ids=["64", "65", "502", "path", "slash", "escape", "newline", "two"],
)
def test_uids(uid: str, is_taken: bool) -> None:
    ds = make_instance()
    encoded = encode(ds)
    old = str(ds.SOPInstanceUID)
    padded = uid.encode() + b"\x00" * (len(uid) % 2)
    plain = element(0x00080018, b"UI", old.encode() + b"\x00" * (len(old) % 2))
    data = encoded.replace(plain, element(0x00080018, b"UI", padded))
    assert data != encoded
    if is_taken:
        assert read_header(ExplicitVRLittleEndian, data).sop_instance_uid == uid
        return
    error = refusal(data)
    assert error.status == UID_INVALID
    assert uid not in str(error)


def test_the_last_of_a_tag_that_comes_twice_counts_as_it_does_with_pydicom() -> None:
    twice = element(0x0008103E, b"LO", b"first ") + element(0x0008103E, b"LO", b"second")
    ds = make_instance()
    del ds.SeriesDescription
    encoded = encode(ds)
    at = encoded.index(b"\x08\x00\x70\x00LO")
    parsed = read_header(ExplicitVRLittleEndian, encoded[:at] + twice + encoded[at:])
    assert parsed.header["SeriesDescription"] == ("second",)


def test_an_unknown_vr_is_left_out_and_the_rest_is_read() -> None:
    encoded = encode(make_instance())
    data = encoded.replace(b"\x08\x00\x3e\x10LO", b"\x08\x00\x3e\x10ZZ")
    parsed = read_header(ExplicitVRLittleEndian, data)
    assert "SeriesDescription" not in parsed.header
    assert parsed.header["Modality"] == ("CT",)


def test_odd_values_are_data_and_long_ones_are_left_out() -> None:
    ds = make_instance()
    ds.SeriesDescription = "a\x1b[2J\n../../etc/passwd\x07"
    ds.add_new(0x00204000, "UN", b"x" * (1 << 20))
    parsed = read_header(ExplicitVRLittleEndian, encode(ds))
    assert "ImageComments" not in parsed.header
    assert parsed.header["SeriesDescription"] == ("a\x1b[2J\n../../etc/passwd\x07",)
    assert "\x1b" not in json.dumps(parsed.header)
