"""The DICOM file format around a received data set (PS3.10 7.1): preamble, prefix, file meta information."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset

#: Who wrote the file (0002,0012), and who speaks on the network (PS3.7 D.3.3.2). A UUID under 2.25; never change it.
IMPLEMENTATION_CLASS_UID = "2.25.165229150303090044052251119675970055473"
#: 16 characters at most.
IMPLEMENTATION_VERSION_NAME = "OSTEONODE_0_1"

#: Ours takes some hundred bytes.
_LONGEST_META = 1 << 16
_PREAMBLE = b"\x00" * 128 + b"DICM"
_VERSION = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
_GROUP_LENGTH = struct.Struct("<HH2sHI")
_SHORT = struct.Struct("<HH2sH")


def encode_file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str
) -> bytes:
    """Everything of a DICOM file that comes before the data set.

    Parameters
    ----------
    source_ae
        AE title of who sent the instance (0002,0016).

    References
    ----------
    PS3.10 Table 7.1-1; always Explicit VR Little Endian.
    """
    meta = _VERSION + b"".join(
        (
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _element(0x0016, b"AE", source_ae),
        )
    )
    return _PREAMBLE + _GROUP_LENGTH.pack(0x0002, 0x0000, b"UL", 4, len(meta)) + meta


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        # PS3.5 6.2: UIDs are padded with NULL, other strings with a space.
        value += b"\x00" if vr == b"UI" else b" "
    return _SHORT.pack(0x0002, number, vr, len(value)) + value


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHead:
    """What comes before the data set of a file."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Source Application Entity Title (0002,0016); empty in what was made here.
    source_ae: str
    #: Bytes before the data set.
    length: int


def read_head(file: BinaryIO) -> FileHead:
    """Read preamble, prefix and file meta information; the file stands at the data set then.

    Raises
    ------
    InvalidDicomError
        When there is none.
    """
    start = file.read(144)
    if len(start) < 144 or start[128:132] != b"DICM":
        raise InvalidDicomError("no DICOM file")
    (length,) = struct.unpack_from("<I", start, 140)
    if length > _LONGEST_META:
        raise InvalidDicomError("file meta information of impossible length")
    meta = file.read(length)
    try:
        ds = read_dataset(BytesIO(meta), False, True)
        return FileHead(
            sop_class_uid=str(ds[0x0002, 0x0002].value),
            sop_instance_uid=str(ds[0x0002, 0x0003].value),
            transfer_syntax_uid=str(ds[0x0002, 0x0010].value),
            source_ae=str(ds.get("SourceApplicationEntityTitle", "")),
            length=144 + length,
        )
    except (KeyError, ValueError, EOFError, struct.error, NotImplementedError) as error:
        raise InvalidDicomError("damaged file meta information") from error
