"""DICOM files, right ones and broken ones; the same for the same number. In each the patient is called `MARKER`."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random

from dicomgen import Geometry, make_series, make_uid
from enhanced import enhanced_image
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from node.scp import storage_sop_classes

#: Stands, repeated, wherever a seed has something of its patient. No log line, event or file name may have it.
MARKER = b"QZXJ"

_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "OtherPatientIDs")
_SMALL = Geometry(rows=8, columns=8, slices=2)
#: What stands at places where lengths, counts and values do.
_NUMBERS = (0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)
_TEXTS = (
    b"\x1b[31m", b"\n2026-01-01 [error] ", b"../../../../etc/passwd", b"\x00" * 8, b"NaN", b"1e999", b"-1", b"\\" * 64,
    b"\x1b$B\x1b(B", b"\xff\xfe\xfd", b"9" * 400, b"(a+)+$" * 9, b"%n%s", b"\xc3\x28",
)  # fmt: skip
_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)  # fmt: skip

#: SIZ of JPEG 2000, SOF of JPEG and JPEG-LS, first item of Pixel Data: where the numbers after them are.
_CODESTREAMS = (
    (b"\xff\x4f\xff\x51", 4, 44),
    (b"\xff\xf7", 2, 10),
    (b"\xff\xc3", 2, 10),
    (b"\xff\xc0", 2, 10),
    (b"\xe0\x7f\x10\x00", 8, 100),
    (b"\x28\x00\x08\x00", 8, 10),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A file as C-STORE carries it: what the request says, and the encoded data set."""

    name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes
    broken: tuple[str, ...] = ()


@cache
def seeds(folder: Path | None, most_bytes: int) -> tuple[Sample, ...]:
    """Generated files, and the small real ones below `folder`, with the patient's data replaced."""
    samples = list(_generated())
    if folder is not None:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            sample = _real(path) if path.stat().st_size <= most_bytes else None
            if sample is not None:
                samples.append(sample)
    return tuple(samples)


def make_sample(random: Random, originals: Sequence[Sample]) -> Sample:
    """One of `originals`, usually broken in one to eight places."""
    sample = random.choice(originals)
    if random.random() < 0.05:
        return sample
    for _ in range(random.choice((1, 1, 1, 1, 2, 4))):
        name, change = random.choice(_DAMAGE)
        data = change(random, sample.data)
        sample = replace(sample, data=data, broken=(*sample.broken, name))
    if random.random() < 0.03:
        name, change = random.choice(_EXCESS)
        data = change(random, sample.data)
        sample = replace(sample, data=data, broken=(*sample.broken, name))
    if random.random() < 0.05:
        syntax = random.choice(_TRANSFER_SYNTAXES)
        sample = replace(sample, transfer_syntax_uid=syntax, broken=(*sample.broken, "syntax"))
    if random.random() < 0.05:
        sample = _splice(random, sample, random.choice(originals))
    return sample


def file_of(sample: Sample) -> bytes:
    """The sample as a DICOM file (PS3.10 7.1)."""
    meta = b"".join(
        struct.pack("<HH2sH", 2, number, b"UI", len(value) + len(value) % 2)
        + value.encode()
        + b"\x00" * (len(value) % 2)
        for number, value in (
            (0x0002, sample.sop_class_uid),
            (0x0003, sample.sop_instance_uid),
            (0x0010, sample.transfer_syntax_uid),
        )
    )
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    return b"\x00" * 128 + b"DICM" + length + meta + sample.data


# -- seeds --------------------------------------------------------------------------------------


def _generated() -> Iterator[Sample]:
    ds = make_series(patient=9, geometry=_SMALL)[0]
    _name(ds)
    yield _sample("ct-explicit", ds, ExplicitVRLittleEndian)
    yield _sample("ct-implicit", ds, ImplicitVRLittleEndian)
    yield _sample("ct-big-endian", ds, ExplicitVRBigEndian)
    yield _deflated(_sample("ct-deflated", ds, ExplicitVRLittleEndian))
    enhanced = enhanced_image()
    _name(enhanced)
    yield _sample("ct-enhanced", enhanced, ExplicitVRLittleEndian)
    ds.compress(RLELossless, generate_instance_uid=False)
    yield _sample("ct-rle", ds, RLELossless)


def _name(ds: Dataset) -> None:
    ds.PatientName = "QZXJ^QZXJQZXJ"
    ds.PatientID = "QZXJQZXJ"
    # No year of ours: what says it in a log line would not be this.
    ds.PatientComments = "QZXJ " * 10


def _sample(name: str, ds: Dataset, syntax: str) -> Sample:
    stream = BytesIO()
    implicit = syntax == ImplicitVRLittleEndian
    little = syntax != ExplicitVRBigEndian
    plain = Dataset(ds)
    if not little:
        # pydicom writes words as they are.
        plain.PixelData = bytes(ds.PixelData)
    plain.save_as(
        stream, implicit_vr=implicit, little_endian=little, enforce_file_format=False
    )  # the data set alone
    return Sample(
        name=name,
        sop_class_uid=ds.SOPClassUID,
        sop_instance_uid=ds.SOPInstanceUID,
        transfer_syntax_uid=syntax,
        data=stream.getvalue(),
    )


def _deflated(sample: Sample) -> Sample:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = packer.compress(sample.data) + packer.flush()
    syntax = str(DeflatedExplicitVRLittleEndian)
    return replace(sample, name="ct-deflated", transfer_syntax_uid=syntax, data=data)


def _real(path: Path) -> Sample | None:
    """A file of other people, or None when it is no DICOM file that C-STORE could carry."""
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(BytesIO(content), stop_before_pixels=True, force=True)
            meta = ds.file_meta
            names = [ds.get_item(keyword) for keyword in _PATIENT if keyword in ds]
            sample = Sample(
                name=path.name,
                sop_class_uid=str(meta.MediaStorageSOPClassUID),
                sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
                transfer_syntax_uid=str(meta.TransferSyntaxUID),
                data=b"",
            )
    except Exception:  # files that are known to be broken: whatever pydicom makes of them
        return None
    for element in names:
        raw = element.value if element is not None else None
        if isinstance(raw, bytes) and raw.strip():
            content = content.replace(raw, (MARKER * len(raw))[: len(raw)])
    # What the node offers no presentation context for never comes by C-STORE.
    if sample.sop_class_uid not in storage_sop_classes():
        return None
    length = int.from_bytes(content[140:144], "little")
    return replace(sample, data=content[144 + length :])


# -- damage -------------------------------------------------------------------------------------


def _place(random: Random, data: bytes) -> int:
    """Where to break: the header more often than pixels."""
    return random.randrange(min(len(data), random.choice((200, 2000, 1 << 30))) + 1)


def _flip(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + bytes((random.randrange(256),)) + data[at + 1 :]


def _number(random: Random, data: bytes) -> bytes:
    form = random.choice(("<H", "<I", ">H", ">I"))
    size = struct.calcsize(form)
    at = _place(random, data)
    value = random.choice(_NUMBERS) & (256**size - 1)
    return data[:at] + struct.pack(form, value) + data[at + size :]


def _text(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    text = random.choice(_TEXTS)
    return data[:at] + text + data[at + len(text) :]


def _insert(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + random.choice((*_TEXTS, random.randbytes(8))) + data[at:]


def _remove(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + random.choice((1, 2, 4, 8, 100)) :]


def _repeat(random: Random, data: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at : at + random.choice((4, 8, 40, 400))] * 2 + data[at:]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: _place(random, data)]


def _value(random: Random, data: bytes) -> bytes:
    """The value of a whole element, in Explicit VR Little Endian: its length goes with it."""
    starts = [at for at in range(0, min(len(data) - 8, 3000), 2) if data[at + 4 : at + 6].isupper()]
    if not starts:
        return data
    at = random.choice(starts)
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    text = random.choice(_TEXTS) * random.choice((1, 1, 30))
    text += b" " * (len(text) % 2)
    return data[: at + 6] + struct.pack("<H", len(text)) + text + data[at + 8 + length :]


def _vr(random: Random, data: bytes) -> bytes:
    starts = [at for at in range(0, min(len(data) - 8, 3000), 2) if data[at + 4 : at + 6].isupper()]
    if not starts:
        return data
    at = random.choice(starts) + 4
    vr = random.choice((b"UN", b"SQ", b"OB", b"ZZ", b"US", b"DS", b"UI", b"\x00\x00", b"AT", b"PN"))
    return data[:at] + vr + data[at + 2 :]


def _codestream(random: Random, data: bytes) -> bytes:
    """Another size in the header of a codestream, or in the first item of Pixel Data and the table in it."""
    marker, first, last = random.choice(_CODESTREAMS)
    at = data.rfind(marker)
    if at < 0:
        return data
    at += random.randrange(first, last)
    form = random.choice((">H", ">I", "<I"))
    value = random.choice(_NUMBERS) & (256 ** struct.calcsize(form) - 1)
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def _element_start(random: Random, data: bytes) -> int:
    starts = [at for at in range(0, min(len(data) - 8, 3000), 2) if data[at + 4 : at + 6].isupper()]
    return random.choice(starts) if starts else 0


def _long(random: Random, data: bytes) -> bytes:
    """A text of 1 MB, in the VR and at the place where it is worst."""
    at = _element_start(random, data)
    tag = data[at : at + 4] if random.random() < 0.5 else b"\x10\x00\x00\x40"
    vr = random.choice((b"UT", b"UC", b"UN", b"UR"))
    text = (random.choice(_TEXTS) * (1 << 20))[: 1 << 20]
    return data[:at] + tag + vr + struct.pack("<xxI", len(text)) + text + data[at:]


def _nested(random: Random, data: bytes) -> bytes:
    """10,000 sequences in each other, of undefined length, which may end or not."""
    at, depth = _element_start(random, data), 10_000
    deeper = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * random.choice(
        (depth, depth - 1, 0)
    )
    return data[:at] + deeper * depth + ends + data[at:]


def _splice(random: Random, sample: Sample, other: Sample) -> Sample:
    at, where = _place(random, sample.data), _place(random, other.data)
    data = sample.data[:at] + other.data[where:]
    return replace(sample, data=data, broken=(*sample.broken, "spliced"))


_DAMAGE: tuple[tuple[str, Callable[[Random, bytes], bytes]], ...] = (
    ("flipped", _flip),
    ("flipped", _flip),
    ("number", _number),
    ("number", _number),
    ("text", _text),
    ("inserted", _insert),
    ("removed", _remove),
    ("repeated", _repeat),
    ("cut", _cut),
    ("value", _value),
    ("value", _value),
    ("vr", _vr),
    ("codestream", _codestream),
    ("codestream", _codestream),
)
#: Large ones, now and then.
_EXCESS: tuple[tuple[str, Callable[[Random, bytes], bytes]], ...] = (
    ("long", _long),
    ("nested", _nested),
)


@cache
def _right() -> tuple[bytes, bytes, bytes, bytes]:
    """A CT instance in Explicit VR Little Endian, and the UIDs in it that are another's in another one."""
    ds = make_series(patient=7, geometry=_SMALL)[0]
    _name(ds)
    uids = [make_uid("right", kind).ljust(64, "0") for kind in ("study", "series", "instance")]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = uids
    sample = _sample("right", ds, ExplicitVRLittleEndian)
    study, series, instance = (uid.encode() for uid in uids)
    return sample.data, study, series, instance


def make_right(random: Random) -> tuple[str, bytes]:
    """SOP Instance UID and data set of a right instance that nobody else sends."""
    data, study, series, instance = _right()
    new = [f"1.2.826.0.1.3680043.8.498.{random.randrange(10**30, 10**31)}" for _ in range(3)]
    for old, uid in zip((study, series, instance), new, strict=True):
        data = data.replace(old, uid.encode().ljust(64, b"\x00"))
    return new[2], data
