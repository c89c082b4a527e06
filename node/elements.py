"""Where the top-level elements of an encoded data set lie (PS3.5 7.1): one pass, nothing decoded, nothing copied.

pydicom makes an object of every element and of every nested one, which costs a CT header 2 ms; the index needs
places and lengths. What is odd but readable is read as pydicom reads it; what is cut off raises.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from typing import NamedTuple, TypeAlias

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.valuerep import VR

PIXEL_DATA_GROUP = 0x7FE00000
#: Float Pixel Data (7FE0,0008), the first pixel data there can be; before it come offsets and lengths of frames.
_FIRST_PIXEL_DATA = 0x7FE00008

_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_ITEM_DELIMITATION = 0xFFFEE00D
_SEQUENCE_DELIMITATION = 0xFFFEE0DD
#: PS3.5 7.1.2: VRs whose length takes four bytes, after two reserved ones.
_LONG = frozenset(
    vr.encode()
    for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
)
#: VRs as they are written, and as they are called.
_KNOWN = {vr.encode(): vr.value for vr in VR if len(vr) == 2}
#: Sequences deeper than this are an attack or a mistake; real ones nest to about ten.
_MAX_DEPTH = 64
#: Top-level elements before pixel data; the dictionary has 5,000, and files with many private ones a few hundred.
_MAX_ELEMENTS = 20_000
#: Elements and items inside sequences of undefined length: 10,000 frames of a hundred. Looked at in a second or two.
_MAX_NESTED = 1_000_000


class UnreadableError(ValueError):
    """Bytes that are no data set."""


class BeyondError(Exception):
    """What is in memory of a data set does not suffice."""


class TruncatedError(UnreadableError):
    """A data set whose end is missing."""


class Element(NamedTuple):
    """A top-level element: its tag, and where its value lies in the data set."""

    tag: int
    #: None in Implicit VR.
    vr: str | None
    #: Where the element begins, where its value begins, and where it ends.
    head: int
    start: int
    end: int


@dataclass(slots=True)
class _Bounds:
    """Where the data set ends, and what may still be looked at: a few bytes can say more than there is time for."""

    limit: int
    nested: int = _MAX_NESTED

    def spend(self) -> None:
        self.nested -= 1
        if self.nested < 0:
            raise UnreadableError(f"Sequences have more than {_MAX_NESTED} items and elements.")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written (PS3.5 Annex A)."""

    is_implicit: bool
    is_little: bool

    @property
    def order(self) -> str:
        """Byte order as `struct` has it."""
        return "<" if self.is_little else ">"


#: By byte order: the head of an element in Explicit VR, in Implicit VR, and a length of four bytes.
_STRUCTS = {
    order: tuple(struct.Struct(order + code).unpack_from for code in ("HH2sH", "HHI", "I"))
    for order in "<>"
}


@lru_cache(maxsize=8192)
def dictionary(tag: int) -> tuple[str, str]:
    """Keyword and VR (the first, where there is a choice) of a standard tag, or two empty strings."""
    keyword = keyword_for_tag(tag)
    return (keyword, dictionary_VR(tag).partition(" ")[0]) if keyword else ("", "")


def name(tag: int) -> str:
    """A tag as people write it, e.g. `(0028,0010) Rows`."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary(tag)[0]}".rstrip()


#: An encoded data set: in memory, or a file of which only what is looked at is in memory.
Encoded: TypeAlias = bytes | mmap


def read_elements(
    data: Encoded,
    encoding: Encoding,
    *,
    start: int = 0,
    size: int | None = None,
    is_complete: bool = True,
) -> list[Element]:
    """The elements before pixel data, in the order they come.

    Parameters
    ----------
    start
        Where the data set begins in `data`.
    size
        Where it ends, which may be beyond what there is of `data`.
    is_complete
        False for the beginning of a data set: then it may end anywhere.

    Raises
    ------
    UnreadableError
        For bytes that are no data set; `TruncatedError` for one that ends too early, pixel data included.
    BeyondError
        Where more of it must be looked at than there is of `data`.
    """
    elements: list[Element] = []
    limit = len(data) if size is None else size
    try:
        for count, element in enumerate(_walk(data, start, encoding, 0, _Bounds(limit))):
            if count >= _MAX_ELEMENTS:
                raise UnreadableError(f"The data set has more than {_MAX_ELEMENTS} elements.")
            if element.tag >= _FIRST_PIXEL_DATA:
                break
            if element.tag < PIXEL_DATA_GROUP:
                elements.append(element)
    except TruncatedError:
        if is_complete:
            raise
    except struct.error as error:
        raise BeyondError from error
    if limit > len(data) and elements and elements[-1].end > len(data):
        raise BeyondError
    return elements


def _walk(  # noqa: C901 - the cases of PS3.5 7.1, each once
    data: Encoded, position: int, encoding: Encoding, depth: int, bounds: _Bounds
) -> Iterator[Element]:
    """Elements from `position`; in an item of undefined length the last one is its delimitation item."""
    if depth > _MAX_DEPTH:
        raise UnreadableError(f"Sequences are nested deeper than {_MAX_DEPTH}.")
    limit = bounds.limit
    is_implicit = encoding.is_implicit
    explicit, implicit, long_length = _STRUCTS[encoding.order]
    tag = 0
    while position + 8 <= limit:
        head = position
        start = position + 8
        vr: bytes | None = None
        if is_implicit:
            group, number, length = implicit(data, position)
        else:
            group, number, vr, length = explicit(data, position)
            if group == 0xFFFE or (vr not in _KNOWN and not (vr.isalpha() and vr.isupper())):
                # Items have no VR (PS3.5 7.5); some writers leave it out of private elements as well.
                vr = None
                group, number, length = implicit(data, position)
            elif vr in _LONG:
                if start + 4 > limit:
                    break
                (length,) = long_length(data, start)
                start += 4
        tag = group << 16 | number
        if length != _UNDEFINED_LENGTH:
            end = start + length
        elif group == PIXEL_DATA_GROUP >> 16:
            end = _skip_fragments(data, start, limit, encoding)
        else:
            # PS3.5 6.2.2: the content of UN with undefined length is Implicit VR Little Endian.
            inner = Encoding(True, True) if vr == b"UN" else encoding
            end = _skip_sequence(data, start, inner, depth, bounds)
        if end > limit:
            raise TruncatedError(f"{name(tag)} says {length} bytes, but {limit - start} are left.")
        yield Element(tag, _KNOWN.get(vr) or vr.decode() if vr else None, head, start, end)
        position = end
    if data[position:limit].strip(b"\x00"):
        raise TruncatedError(f"The data set ends in the element after {name(tag)}.")


def _skip_sequence(
    data: Encoded, position: int, encoding: Encoding, depth: int, bounds: _Bounds
) -> int:
    """Where a sequence of undefined length ends (PS3.5 7.5.2)."""
    limit = bounds.limit
    item = struct.Struct(encoding.order + "HHI").unpack_from
    while position + 8 <= limit:
        group, number, length = item(data, position)
        tag = group << 16 | number
        position += 8
        if tag == _SEQUENCE_DELIMITATION:
            return position
        if tag != _ITEM:
            raise UnreadableError(f"{name(tag)} stands where an item of a sequence should.")
        bounds.spend()
        if length != _UNDEFINED_LENGTH:
            position += length
            continue
        for element in _walk(data, position, encoding, depth + 1, bounds):
            bounds.spend()
            position = element.end
            if element.tag == _ITEM_DELIMITATION:
                break
        else:
            break
    raise TruncatedError("The data set ends in the middle of a sequence.")


def _skip_fragments(data: Encoded, position: int, limit: int, encoding: Encoding) -> int:
    """Where encapsulated pixel data ends (PS3.5 A.4)."""
    item = struct.Struct(encoding.order + "HHI").unpack_from
    while position + 8 <= limit:
        group, number, length = item(data, position)
        tag = group << 16 | number
        position += 8
        if tag == _SEQUENCE_DELIMITATION:
            return position
        if tag != _ITEM:
            raise UnreadableError(f"{name(tag)} stands where a fragment of pixel data should.")
        position += length
    # Some writers leave out the delimitation item; every fragment is there all the same.
    if position != limit:
        raise TruncatedError("(7FE0,0010) PixelData ends in the middle of a fragment.")
    return position
