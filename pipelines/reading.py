"""A DICOM file -> a data set, with no more memory than the file gives reason for: `read_file`."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipelines.errors import InputError

#: What reading a damaged or foreign file raises, or its elements when they are parsed.
READ_ERRORS: Final = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)
#: What unpacks to more than both is a bomb: a volume compresses 3 times, lossily 30 times.
MOST_UNPACKED: Final = 256 << 20
MOST_EXPANSION: Final = 100

_PIECE: Final = 1 << 20
_PIXEL_DATA: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_UID: Final = re.compile(r"[0-9.]{1,64}")


def read_file(
    path: Path, *, stop_before_pixels: bool = False, only: Sequence[str] | None = None
) -> Dataset:
    """Read a file, Deflated Explicit VR Little Endian (PS3.5 A.5) as well.

    Parameters
    ----------
    path
        With a preamble (PS3.10 7.1).
    stop_before_pixels
        Leave out Pixel Data and what follows.
    only
        Keywords of what is wanted; None is all.

    Raises
    ------
    InputError
        `input-decompression-bomb`, of a deflated data set.
    Exception
        One of `READ_ERRORS`.
    """
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return _read_deflated(path, meta, stop_before_pixels=stop_before_pixels, only=only)
    tags = list(only) if only is not None else None
    with _Bounded(path) as file:
        return dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=tags)


def is_uid(value: object) -> bool:
    """PS3.5 9.1, as far as the listener asks too. What is none may be anything, a name as well."""
    return _UID.fullmatch(str(value)) is not None


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether so many bytes unpack to so many as no image does."""
    return unpacked > MOST_UNPACKED and unpacked > MOST_EXPANSION * packed


def bomb(who: str, packed: int) -> InputError:
    """The refusal; `who` begins the sentence."""
    return InputError(
        f"{who} would unpack from {packed} bytes to more than {MOST_UNPACKED >> 20} MB and {MOST_EXPANSION} times "
        "its size: no image does.",
        code="input-decompression-bomb",
    )


class _Bounded(io.BufferedReader):
    """A file that is never asked for more than it has: Python finds memory first for an element that says 2 GB."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.path.getsize(path)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size <= _PIECE:
            return super().read(size)
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _read_deflated(
    path: Path, meta: FileMetaDataset, *, stop_before_pixels: bool, only: Sequence[str] | None
) -> Dataset:
    content = path.read_bytes()
    # PS3.10 7.1: the group length of the file meta information ends at byte 144.
    packed = memoryview(content)[144 + int.from_bytes(content[140:144], "little") :]
    ds = read_dataset(
        BytesIO(b"".join(_inflated(packed))),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=_is_pixel_data if stop_before_pixels else None,
        specific_tags=None if only is None else [Tag(keyword) for keyword in only],
    )
    ds.file_meta = meta
    return ds


def _inflated(packed: memoryview) -> Iterator[bytes]:
    """A raw deflate stream in pieces (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked, rest = 0, bytes(packed)
    while not inflater.eof:
        piece = inflater.decompress(rest, _PIECE)
        rest = inflater.unconsumed_tail
        if not piece:
            raise zlib.error("the stream ends in the middle")
        unpacked += len(piece)
        # Held against what was read of it: a bomb is seen where it begins to be one.
        if is_bomb(len(packed) - len(rest), unpacked):
            raise bomb("The data set, which is deflated,", len(packed))
        yield piece


def _is_pixel_data(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag in _PIXEL_DATA
