"""An object of ours as its receiver has it: parsed from its bytes, pixels decoded by pydicom, frame by frame.

The way back shares no code with the way out. Frames are placed by the Image Plane attributes that were written, and
not by the source or by highdicom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.filereader import data_element_generator
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag, Tag
from pydicom.uid import RLELossless

from pipelines.errors import UnprovenError

#: What pydicom and its plug-ins raise on pixels that are cut, damaged or of another size.
_DECODE_ERRORS = (ValueError, RuntimeError, EOFError, OSError)


#: PS3.5 7.1.1: the length of what a delimiter ends; tag and length of that delimiter.
_UNDEFINED_LENGTH = 0xFFFFFFFF
_DELIMITER_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """One object, read from its file."""

    #: All of it but for Pixel Data.
    ds: Dataset
    #: The file; it is not copied.
    encoded: bytes
    #: Where in it the value of Pixel Data is, and where that ends; the same where there is none.
    pixels: tuple[int, int]

    @property
    def pixel_data(self) -> memoryview:
        """The value of Pixel Data: native frames, or the items of compressed ones."""
        start, end = self.pixels
        return memoryview(self.encoded)[start:end]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFrame:
    """One frame of a Segmentation.

    Attributes
    ----------
    segment_number
        Referenced Segment Number (0062,000B) of a BINARY Segmentation; None of LABELMAP.
    values
        Stored values, unsigned integers, shape (rows, columns).
    origin, row_step, column_step
        Indices (row, column) -> LPS mm: place of the first pixel, and how far apart rows and columns lie; shape (3,).
    """

    segment_number: int | None
    values: NDArray[Any]
    origin: NDArray[np.float64]
    row_step: NDArray[np.float64]
    column_step: NDArray[np.float64]


def read_back(encoded: bytes) -> Written:
    """Parse a file, its Pixel Data left where it is."""
    file = BytesIO(encoded)
    ds = dcmread(file, stop_before_pixels=True)
    rest = data_element_generator(file, is_implicit_VR=False, is_little_endian=True, defer_size=0)
    element = next(rest, None)
    start = end = 0
    if isinstance(element, RawDataElement):
        start = element.value_tell
        # What has no length ends before a delimiter (PS3.5 A.4).
        is_open = element.length == _UNDEFINED_LENGTH
        end = file.tell() - _DELIMITER_LENGTH if is_open else start + element.length
    return Written(ds=ds, encoded=encoded, pixels=(start, end))


class Groups:
    """Items of functional groups, each distinct one parsed once: frames of a slice, or of a segment, share theirs."""

    def __init__(self) -> None:
        self._known: dict[tuple[BaseTag, bytes], Dataset] = {}

    def first(self, groups: Dataset, keyword: str) -> Dataset | None:
        """The first item of a functional group of a frame, None where the frame does not have it."""
        tag = Tag(keyword)
        if tag not in groups:
            return None
        element = groups.get_item(tag)
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            key = (tag, element.value)
            if key not in self._known:
                # Beside the data set: there it stays encoded, and is told from others by that.
                items = convert_raw_data_element(element, ds=groups).value
                if not items:
                    return None
                self._known[key] = items[0]
            return self._known[key]
        return element.value[0] if element is not None and element.value else None

    def encoding(self, groups: Dataset, keyword: str) -> bytes:
        """A functional group of a frame as it is encoded: what tells it from others without parsing it."""
        element = groups.get_item(Tag(keyword)) if Tag(keyword) in groups else None
        if isinstance(element, RawDataElement):
            return element.value or b""
        return repr(element).encode()


def written_frames(written: Written) -> Iterator[WrittenFrame]:
    """The frames of a Segmentation, each with its values and its own place; one at a time in memory.

    Raises
    ------
    UnprovenError
        When frames, their functional groups and Pixel Data do not fit each other.
    """
    ds = written.ds
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64
    )
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=np.float64)
    if len(ds.PerFrameFunctionalGroupsSequence) != int(ds.NumberOfFrames):
        raise UnprovenError("The SEG has not one functional group per frame.")
    decoded, known = _decoded(written), Groups()
    for groups in ds.PerFrameFunctionalGroupsSequence:
        of_segment = known.first(groups, "SegmentIdentificationSequence")
        of_segment = of_segment or known.first(shared, "SegmentIdentificationSequence")
        place = known.first(groups, "PlanePositionSequence")
        if place is None:
            raise UnprovenError("A frame of the SEG has no PlanePositionSequence.")
        yield WrittenFrame(
            segment_number=int(of_segment.ReferencedSegmentNumber) if of_segment else None,
            values=next(decoded),
            origin=np.array(place.ImagePositionPatient, dtype=np.float64),
            row_step=orientation[3:] * spacing[0],
            column_step=orientation[:3] * spacing[1],
        )


def _decoded(written: Written) -> Iterator[NDArray[Any]]:
    """Stored values, frame by frame; shape (rows, columns)."""
    ds, syntax = written.ds, written.ds.file_meta.TransferSyntaxUID
    try:
        yield from _compressed(written) if syntax.is_compressed else _native(written)
    except _DECODE_ERRORS as error:
        raise UnprovenError(
            f"Pixel Data of the SEG cannot be decoded as {ds.NumberOfFrames} frames ({syntax.name}): {error}"
        ) from error


def _options(ds: Dataset) -> dict[str, Any]:
    return {
        "rows": ds.Rows,
        "columns": ds.Columns,
        "samples_per_pixel": ds.SamplesPerPixel,
        "photometric_interpretation": ds.PhotometricInterpretation,
        "pixel_representation": ds.PixelRepresentation,
        "bits_allocated": ds.BitsAllocated,
        "bits_stored": ds.BitsStored,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if ds.BitsAllocated <= 8 else "OW",
    }


def _compressed(written: Written) -> Iterator[NDArray[Any]]:
    ds, syntax = written.ds, written.ds.file_meta.TransferSyntaxUID
    options = _options(ds) | {"number_of_frames": int(ds.NumberOfFrames)}
    if syntax == RLELossless and ds.BitsAllocated == 1:
        # PS3.5 8.2.2: a pixel of one bit is a byte in RLE; pydicom 3.0 reads bytes only when told so.
        options |= {"bits_allocated": 8, "bits_stored": 8}
    items = BytesIO(written.encoded)
    items.seek(written.pixels[0])
    for values, _ in get_decoder(syntax).iter_array(items, raw=True, **options):
        yield values


def _native(written: Written) -> Iterator[NDArray[Any]]:
    """PS3.5 8.1.1: frames of single bits are not padded to bytes, so as many are decoded as end on one."""
    ds, pixels = written.ds, int(written.ds.Rows) * int(written.ds.Columns)
    decoder, options = get_decoder(ds.file_meta.TransferSyntaxUID), _options(ds)
    bits, count = pixels * int(ds.BitsAllocated), int(ds.NumberOfFrames)
    together = 8 // gcd(8, bits)
    for first in range(0, count, together):
        some = min(together, count - first)
        part = written.pixel_data[first * bits // 8 : -(-(first + some) * bits // 8)]
        if len(part) * 8 < some * bits:
            raise ValueError("it is shorter than its frames")
        values, _ = decoder.as_array(part, raw=True, **options | {"number_of_frames": some})
        yield from values.reshape(some, int(ds.Rows), int(ds.Columns))
