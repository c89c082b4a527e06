"""UIDs that a data set mentions, at any depth: what an object refers to, and what it was once called.

Found by their tags in the encoded bytes, without reading sequences. What looks like an element in the middle of
another's value does no harm: only UIDs that we gave count.
"""

from __future__ import annotations

from typing import Literal

from node.elements import Encoded, Encoding

#: Attributes that hold them.
_TAGS = (
    (
        0x0008,
        0x0018,
    ),  # SOP Instance UID: its own, and before a coercion (Original Attributes Sequence)
    (
        0x0008,
        0x1155,
    ),  # Referenced SOP Instance UID: source images, evidence, predecessors, key objects ...
    (0x0018, 0x1002),  # Device UID
    (0x0020, 0x000E),  # Series Instance UID: its own, and of Referenced Series Sequence
    (0x0040, 0xA124),  # UID of a content item: tracking, observer
    (0x0062, 0x0021),  # Tracking UID
)
#: Bytes before pixel data that are looked at: of larger headers nearly all are frames' geometry.
MOST_SCANNED = 16 * 1024 * 1024
#: Places of one tag that are looked at: as many as UIDs fit in there.
MOST_PLACES = 300_000
_LONGEST = 64


def mentioned_uids(
    data: Encoded, end: int, encoding: Encoding, *, start: int = 0
) -> frozenset[str]:
    """UIDs in the attributes above.

    Parameters
    ----------
    start, end
        Where the data set begins, and where its pixel data does.
    """
    order: Literal["little", "big"] = "little" if encoding.is_little else "big"
    end = min(end, start + MOST_SCANNED)
    found = set()
    for group, number in _TAGS:
        tag = group.to_bytes(2, order) + number.to_bytes(2, order)
        at = data.find(tag, start, end)
        places = 0
        while at >= 0 and places < MOST_PLACES:
            places += 1
            found.add(_value(data, at + 4, order))
            at = data.find(tag, at + 4, end)
    return frozenset(uid.decode("ascii", "replace") for uid in found if uid[:1].isdigit())


def _value(data: Encoded, at: int, order: Literal["little", "big"]) -> bytes:
    """What stands after a tag: VR and length in Explicit VR, a length of four bytes in Implicit VR (PS3.5 7.1)."""
    if data[at : at + 2] == b"UI":
        length = int.from_bytes(data[at + 2 : at + 4], order)
    else:
        length = int.from_bytes(data[at : at + 4], order)
    return data[at + 4 : at + 4 + length].rstrip(b"\0 ") if length <= _LONGEST else b""
