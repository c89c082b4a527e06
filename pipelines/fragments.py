"""The items of encapsulated Pixel Data -> frames (PS3.5 A.4): `read_frames`.

Only where frames begin and end is asked, and whether all that says so agrees: the number of frames, the items and the
offset tables. A table that points elsewhere would show one frame in another's place.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

_ITEM: Final = b"\xfe\xff\x00\xe0"
_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
#: EOI of JPEG and JPEG-LS, EOC of JPEG 2000; a pad may follow.
_END: Final = b"\xff\xd9"
#: Bytes of a frame that hold the header of its codestream.
_HEAD: Final = 1 << 18


class FragmentsError(ValueError):
    """Items that are not the frames they should be; the sentence has nothing of the patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The first 256 KB of a compressed frame, and its length in bytes."""

    head: bytes
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fragment:
    """The value of an item; `start` is the place of its tag, counted from the end of the Basic Offset Table."""

    start: int
    value: memoryview


def read_frames(
    pixel_data: bytes, count: int, extended: tuple[bytes, bytes] | None = None
) -> list[Frame]:
    """The frames of encapsulated Pixel Data.

    Parameters
    ----------
    pixel_data
        Value of Pixel Data (7FE0,0010), from the item of the Basic Offset Table on.
    count
        Number of Frames (0028,0008).
    extended
        Extended Offset Table (7FE0,0001) and Extended Offset Table Lengths (7FE0,0002), where there are any.

    Raises
    ------
    FragmentsError
        Items, tables and number contradict each other.
    """
    try:
        table, fragments = _items(memoryview(pixel_data))
    except struct.error as error:
        raise FragmentsError("an item of Pixel Data (7FE0,0010) is cut off") from error
    if not 0 < count <= len(fragments):
        raise FragmentsError(
            f"Number of Frames (0028,0008) is {count}, in {len(fragments)} fragments of Pixel Data"
        )
    if extended is not None:
        _demand_extended(extended, count, fragments)
    if count == 1 and len(table) < 2:
        # All of them, wherever the table says that they begin.
        groups = [fragments]
    elif table:
        groups = _by_table(table, count, fragments)
    elif len(fragments) == count:
        groups = [[fragment] for fragment in fragments]
    else:
        groups = _by_end(count, fragments)
    return [_frame(group) for group in groups]


def _items(data: memoryview) -> tuple[tuple[int, ...], list[_Fragment]]:
    """The Basic Offset Table and the fragments."""
    values: list[_Fragment] = []
    at = first = 0
    while at < len(data):
        tag, length = struct.unpack_from("<4sI", data, at)
        if tag == _DELIMITER:
            break
        if tag != _ITEM or at + 8 + length > len(data):
            raise FragmentsError("Pixel Data (7FE0,0010) has something else than whole items")
        values.append(_Fragment(start=at - first, value=data[at + 8 : at + 8 + length]))
        at += 8 + length
        first = first or at
    if not values:
        raise FragmentsError("Pixel Data (7FE0,0010) has no items")
    table, *fragments = values
    if len(table.value) % 4:
        raise FragmentsError("the Basic Offset Table has a part of an offset")
    return struct.unpack(f"<{len(table.value) // 4}I", table.value), fragments


def _demand_extended(
    extended: tuple[bytes, bytes], count: int, fragments: Sequence[_Fragment]
) -> None:
    """PS3.3 C.7.6.3.1.8: a fragment for each frame, its place and its length, the pad left out."""
    if any(len(table) != 8 * count for table in extended) or len(fragments) != count:
        raise FragmentsError(f"the Extended Offset Table (7FE0,0001) has not {count} frames")
    places, lengths = (struct.unpack(f"<{count}Q", table) for table in extended)
    for fragment, place, length in zip(fragments, places, lengths, strict=True):
        if place != fragment.start or not 0 <= len(fragment.value) - length <= 1:
            raise FragmentsError(
                "the Extended Offset Table (7FE0,0001) points elsewhere than at the frames"
            )


def _by_table(
    table: Sequence[int], count: int, fragments: Sequence[_Fragment]
) -> list[list[_Fragment]]:
    starts = {fragment.start for fragment in fragments}
    ordered = table[0] == 0 and all(one < following for one, following in pairwise(table))
    if len(table) != count or not ordered or not starts.issuperset(table):
        raise FragmentsError(f"the Basic Offset Table does not say where {count} frames begin")
    begins = set(table)
    groups: list[list[_Fragment]] = []
    for fragment in fragments:
        if fragment.start in begins:
            groups.append([])
        groups[-1].append(fragment)
    return groups


def _by_end(count: int, fragments: Sequence[_Fragment]) -> list[list[_Fragment]]:
    """Several fragments a frame and no table: a frame ends where its codestream does."""
    groups: list[list[_Fragment]] = [[]]
    for fragment in fragments:
        groups[-1].append(fragment)
        if _END in bytes(fragment.value[-10:]):
            groups.append([])
    if groups.pop() or len(groups) != count:
        raise FragmentsError(
            f"Number of Frames (0028,0008) is {count}, but {len(groups)} end in Pixel Data"
        )
    return groups


def _frame(fragments: Sequence[_Fragment]) -> Frame:
    head = b""
    for fragment in fragments:
        if len(head) >= _HEAD:
            break
        head += fragment.value[: _HEAD - len(head)]
    return Frame(head=head, length=sum(len(fragment.value) for fragment in fragments))
