"""What a compressed frame says of its own size, read from its first bytes: `read_codestream`.

A decoder finds memory for what the codestream declares, before it sees that nothing of it is there. So this is asked
first; nothing is decoded here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)

_HIGH_THROUGHPUT: Final = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203))
_SOC_SIZ: Final = b"\xff\x4f\xff\x51"
_JP2: Final = b"\x00\x00\x00\x0cjP  "
#: ISO 10918-1 B.1.1.3: SOF0 to SOF15 without DHT, JPG and DAC; ISO 14495-1 C.1.1: SOF55.
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SOS: Final = 0xDA
#: Without a length, hierarchical, or an end: none stands between SOI and SOS of one image.
_OUT_OF_PLACE: Final = frozenset((0x00, 0x01, *range(0xD0, 0xDA), 0xDC, 0xDE, 0xDF))
#: Far more marker segments, boxes and tiles than a frame has; each costs a decoder time and memory.
_MOST_SEGMENTS: Final = 1000
_MOST_TILES: Final = 4096


class CodestreamError(ValueError):
    """A frame that is not what its transfer syntax says; the sentence has nothing of the patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """What it declares.

    Attributes
    ----------
    kind
        Of codestream, and the place in it that says so.
    rows, columns
        Pixels; None where the codestream does not say (RLE).
    samples
        Per pixel.
    precision
        Bits of a sample.
    """

    kind: str
    rows: int | None
    columns: int | None
    samples: int
    precision: int


def read_codestream(
    frame: bytes, transfer_syntax_uid: str, *, length: int, pixels: int
) -> Codestream | None:
    """Size and depth as the codestream declares them; None of a compression that is not known here.

    Parameters
    ----------
    frame
        The fragments of one frame, joined; the beginning is enough.
    length
        Bytes of the whole frame.
    pixels
        Rows x Columns; RLE itself has no size, but the lengths of its segments must allow this one.

    Raises
    ------
    CodestreamError
        The frame is no such codestream.
    """
    try:
        if transfer_syntax_uid in (*JPEG2000TransferSyntaxes, *_HIGH_THROUGHPUT):
            return _jpeg_2000(frame)
        if transfer_syntax_uid in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
            return _jpeg(frame)
        if transfer_syntax_uid in RLETransferSyntaxes:
            return _rle(frame, length, pixels)
    except (struct.error, IndexError) as error:
        raise CodestreamError("the frame ends in its header") from error
    return None


def _jpeg_2000(frame: bytes) -> Codestream:
    """ISO 15444-1 A.5.1: the SIZ marker segment is the first after SOC."""
    at = _codestream_of_jp2(frame) if frame.startswith(_JP2) else 0
    if frame[at : at + 4] != _SOC_SIZ:
        raise CodestreamError("the frame is no JPEG 2000 codestream")
    columns, rows, left, top, *tiles, samples = struct.unpack_from(">8IH", frame, at + 8)
    width, height, tiles_left, tiles_top = tiles
    if not width or not height or left >= columns or top >= rows:
        raise CodestreamError("the image or its tiles have no size (JPEG 2000 SIZ)")
    count = -(-(columns - tiles_left) // width) * -(-(rows - tiles_top) // height)
    if not 0 < count <= _MOST_TILES:
        raise CodestreamError(f"the image has {count} tiles (JPEG 2000 SIZ)")
    depth, *spacing = frame[at + 42 : at + 45]
    if spacing != [1, 1]:
        raise CodestreamError("the first component is subsampled (JPEG 2000 SIZ)")
    return Codestream(
        kind="JPEG 2000 SIZ",
        rows=rows - top,
        columns=columns - left,
        samples=samples,
        precision=(depth & 0x7F) + 1,
    )


def _codestream_of_jp2(frame: bytes) -> int:
    """Where the codestream starts in a JP2 file (ISO 15444-1 I.4), which no frame should be and some are."""
    at = 0
    for _ in range(_MOST_SEGMENTS):
        length, kind = struct.unpack_from(">I4s", frame, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", frame, at + 8)
            head = 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    raise CodestreamError("the JP2 file has no codestream")


def _jpeg(frame: bytes) -> Codestream:
    """ISO 10918-1 B.2.2, ISO 14495-1 C.2.2: one frame header stands before the first scan."""
    if frame[:2] != b"\xff\xd8":
        raise CodestreamError("the frame is no JPEG codestream")
    found: Codestream | None = None
    at = 2
    for _ in range(_MOST_SEGMENTS):
        while frame[at] == 0xFF and frame[at + 1] == 0xFF:
            at += 1
        prefix, marker, length = struct.unpack_from(">BBH", frame, at)
        if prefix != 0xFF or marker in _OUT_OF_PLACE or length < 2:
            raise CodestreamError("the JPEG codestream has something else before its first scan")
        if marker == _SOS:
            break
        _demand_known(marker, frame[at + 4 : at + 10])
        if marker in _SOF:
            if found is not None:
                raise CodestreamError("the JPEG codestream has two frame headers")
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            found = Codestream(
                kind=f"JPEG SOF{marker - 0xC0}",
                rows=rows,
                columns=columns,
                samples=samples,
                precision=precision,
            )
        at += 2 + length
    if found is None:
        raise CodestreamError("the JPEG codestream has no frame header before its first scan")
    return found


def _demand_known(marker: int, beginning: bytes) -> None:
    """What a decoder makes too much of; `beginning` is of the marker segment's parameters."""
    # ISO 14495-1 C.2.4.1.4: LSE of type 4 has other dimensions.
    if marker == 0xF8 and beginning[:1] == b"\x04":
        raise CodestreamError("the JPEG-LS codestream gives its dimensions twice (LSE)")
    # ITU-T T.871 10.1: version 1. GDCM throws libjpeg's warning of another one through C: the process ends.
    if marker == 0xE0 and beginning.startswith(b"JFIF\0") and beginning[5:] != b"\x01":
        raise CodestreamError("the JPEG codestream is JFIF of an unknown version")


def _rle(frame: bytes, length: int, pixels: int) -> Codestream:
    """PS3.5 Annex G: a segment for each byte of a pixel, whose length bounds what it can hold."""
    count, *starts = struct.unpack_from("<16I", frame)
    starts, ends = starts[:count], [*starts[1:count], length]
    if not 1 <= count <= 15 or starts[0] != 64:
        raise CodestreamError("the RLE header has no segments (PS3.5 G.5)")
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        packed = end - start
        # G.3.1: two bytes stand for 1 to 128; a pad of one byte, and a few that say nothing, are no harm.
        if not pixels <= 64 * (packed + 1) <= 128 * (pixels + 128):
            raise CodestreamError(
                f"RLE segment {number} of {packed} bytes cannot be the {pixels} pixels of a frame"
            )
    return Codestream(kind="RLE header", rows=None, columns=None, samples=1, precision=8 * count)
