"""Pixel Data of a Segmentation, made of the label map frame by frame as it is written.

A SEG of a hundred segments is a hundred times a bit per voxel: more than the label map itself. So Pixel Data is a
stream, which pydicom copies to its file piece by piece: native frames are at no time in memory as a whole, and
compressed ones once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET, BufferedIOBase
from itertools import accumulate
from math import gcd
from struct import pack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import itemize_frame
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, RLELossless


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """The frames of a Segmentation, in their order.

    Attributes
    ----------
    labels
        The label map; uint8 or uint16, shape (slices, rows, columns).
    slices
        Of each frame: the slice of the label map it shows.
    segments
        Of each frame of a BINARY Segmentation: the value of the label map that is set in it, of the same type. Empty
        for LABELMAP.
    table
        Of LABELMAP: value of the label map -> stored value; shape (values,), uint8 or uint16.
    """

    labels: NDArray[Any]
    slices: NDArray[np.int64]
    segments: NDArray[Any]
    table: NDArray[Any]

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Stored values of one frame, an unsigned integer each; shape (rows, columns)."""
        plane: NDArray[Any] = self.labels[self.slices[index]]
        if self.segments.size:
            mask: NDArray[np.bool_] = plane == self.segments[index]
            return mask.view(np.uint8)
        if self.table.dtype == plane.dtype and np.array_equal(
            self.table, np.arange(len(self.table))
        ):
            return plane
        values: NDArray[Any] = self.table[plane]
        return values


class FrameStream(BufferedIOBase):
    """A stream of bytes that are made when they are read (PS3.5 8.1.1), of even length (PS3.5 8.1.2)."""

    def __init__(
        self, piece: Callable[[int], bytes], *, starts: Sequence[int], length: int
    ) -> None:
        """Read `length` bytes, made of pieces; `starts` says at which byte each begins."""
        self._piece, self._starts, self._length = piece, starts, length
        self._position = 0
        self._current = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        start = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._padded}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._padded if size is None or size < 0 else min(self._padded, self._position + size)
        parts = []
        while self._position < end:
            part = self._at(self._position, end - self._position)
            parts.append(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def _padded(self) -> int:
        return self._length + self._length % 2

    def _at(self, position: int, most: int) -> bytes:
        """Bytes from a position on, as far as the piece there goes."""
        if position >= self._length:
            return b"\x00"
        index = bisect_right(self._starts, position) - 1
        if self._current[0] != index:
            self._current = (index, self._piece(index))
        start = position - self._starts[index]
        return self._current[1][start : start + most]


def set_pixel_data(ds: Dataset, frames: Frames, transfer_syntax_uid: UID) -> None:
    """Give a Segmentation that has everything else its Pixel Data, Rows and Columns.

    Parameters
    ----------
    ds
        A Segmentation with file meta information, Bits Allocated and one functional group per frame.
    frames
        In the order of the functional groups.
    transfer_syntax_uid
        Explicit VR Little Endian, RLE Lossless or JPEG-LS Lossless.
    """
    _, ds.Rows, ds.Columns = frames.labels.shape
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    if transfer_syntax_uid.is_encapsulated:
        ds.add_new("PixelData", "OB", _encapsulated(_encoded(frames, transfer_syntax_uid)))
        ds["PixelData"].is_undefined_length = True
        return
    # PS3.5 8.2: OW where Bits Allocated is above 8.
    vr = "OB" if ds.BitsAllocated <= 8 else "OW"
    ds.add_new("PixelData", vr, _packed(frames) if ds.BitsAllocated == 1 else _native(frames))


def _encoded(frames: Frames, transfer_syntax_uid: UID) -> Iterator[bytes]:
    """Each frame compressed. PS3.5 8.2.2: in RLE a pixel of one bit is a byte too."""
    _, rows, columns = frames.labels.shape
    bits = frames[0].itemsize * 8
    # GDCM, which pydicom prefers and is eight times as fast, ends the process on an odd number of pixels.
    plugin = "pylibjpeg" if transfer_syntax_uid == RLELossless and rows * columns % 2 else ""
    encoder = get_encoder(transfer_syntax_uid)
    for index in range(len(frames)):
        yield encoder.encode(
            np.ascontiguousarray(frames[index]),
            encoding_plugin=plugin,
            rows=rows,
            columns=columns,
            number_of_frames=1,
            samples_per_pixel=1,
            photometric_interpretation="MONOCHROME2",
            pixel_representation=0,
            bits_allocated=bits,
            bits_stored=bits,
        )


def _encapsulated(encoded: Iterable[bytes]) -> FrameStream:
    """PS3.5 A.4: an item per frame, after the table of where each begins."""
    items = [item for frame in encoded for item in itemize_frame(frame)]
    offsets = list(accumulate(map(len, items), initial=0))
    # An offset is of four bytes; a table may be empty.
    table = offsets[:-1] if offsets[-1] < 1 << 32 else []
    pieces = [*itemize_frame(pack(f"<{len(table)}L", *table)), *items]
    *starts, length = accumulate(map(len, pieces), initial=0)
    return FrameStream(pieces.__getitem__, starts=starts, length=length)


def _packed(frames: Frames) -> FrameStream:
    """PS3.5 8.1.1: one bit a pixel, least significant first, frames not padded to bytes."""
    pixels = int(np.prod(frames.labels.shape[1:]))
    # So many frames together end on a byte.
    together = 8 // gcd(8, pixels)

    def piece(index: int) -> bytes:
        first = index * together
        some = [frames[at].ravel() for at in range(first, min(len(frames), first + together))]
        bits = some[0] if together == 1 else np.concatenate(some)
        return np.packbits(bits, bitorder="little").tobytes()

    length = -(-len(frames) * pixels // 8)
    return FrameStream(piece, starts=range(0, length, together * pixels // 8), length=length)


def _native(frames: Frames) -> FrameStream:
    def piece(index: int) -> bytes:
        plane = frames[index]
        return plane.astype(plane.dtype.newbyteorder("<"), copy=False).tobytes()

    step = len(piece(0))
    length = len(frames) * step
    return FrameStream(piece, starts=range(0, length, step), length=length)


def values_by_slice(labels: NDArray[Any]) -> list[NDArray[Any]]:
    """Values other than 0 of each slice of a label map, ascending.

    A run of equal values in a row of pixels counts once: segments are of one piece, more or less, and a label map has
    thousands of pixels to a run.
    """
    found = []
    for plane in labels:
        flat = plane.ravel()
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        values = np.unique(np.append(flat[starts], flat[:1]))
        found.append(values[values > 0])
    return found


def listed(values: Sequence[Sequence[int]]) -> NDArray[np.uint16]:
    """Each slice as one row of pixels that lists its values; shape (slices, 1, most values of a slice)."""
    table = np.zeros((len(values), 1, max(1, *(len(some) for some in values), 1)), np.uint16)
    for row, some in zip(table, values, strict=True):
        row[0, : len(some)] = some
    return table
