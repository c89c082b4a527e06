"""PDUs as bytes, right ones: what `wire` breaks (PS3.8 9.3, PS3.7 E.1).

None of the node's code, and none of pynetdicom's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

RELEASE_RQ = struct.pack(">BxI4x", 0x05, 4)
ABORT = struct.pack(">BxIxxBB", 0x07, 4, 0, 0)

ECHO_RQ, STORE_RQ = 0x0030, 0x0001
_NO_DATA_SET = 0x0101


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One PDU of the node: its type, and the DIMSE status it carries, if any."""

    pdu_type: int
    status: int | None = None


def pdu(pdu_type: int, body: bytes) -> bytes:
    """A PDU with its true length."""
    return struct.pack(">BxI", pdu_type, len(body)) + body


def item(item_type: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU (PS3.8 9.3.2)."""
    return struct.pack(">BxH", item_type, len(body)) + body


def associate_rq(
    contexts: Sequence[tuple[str, str]],
    *,
    called: bytes = b"OSTEONODE",
    calling: bytes = b"FUZZ",
    user_items: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; the contexts get the IDs 1, 3, 5 ... (PS3.8 9.3.2.2)."""
    body = struct.pack(">Hxx16s16s32x", 1, called.ljust(16), calling.ljust(16))
    body += item(0x10, APPLICATION_CONTEXT.encode())
    for number, (abstract, syntax) in enumerate(contexts):
        names = item(0x30, abstract.encode()) + item(0x40, syntax.encode())
        body += item(0x20, bytes((2 * number + 1, 0, 0, 0)) + names)
    user = item(0x51, struct.pack(">I", 16382)) + item(0x52, b"1.2.3.4") + user_items
    return pdu(0x01, body + item(0x50, user))


def value(context_id: int, control: int, content: bytes) -> bytes:
    """A presentation data value (PS3.8 Table 9-23, E.2)."""
    return struct.pack(">IBB", len(content) + 2, context_id, control) + content


def data(*values: bytes) -> bytes:
    """A P-DATA-TF."""
    return pdu(0x04, b"".join(values))


def element(number: int, content: bytes) -> bytes:
    """An element of a command set."""
    return struct.pack("<HHI", 0, number, len(content)) + content


def uid(text: str) -> bytes:
    """A UID of an even number of bytes."""
    return text.encode() + b"\x00" * (len(text) % 2)


def command(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """A command set with its group length."""
    body = b"".join(element(*pair) for pair in elements)
    return element(0x0000, struct.pack("<I", len(body))) + body


def echo_rq() -> list[tuple[int, bytes]]:
    """A C-ECHO-RQ (PS3.7 Table 9.3-12)."""
    return [
        (0x0002, uid(VERIFICATION)),
        (0x0100, struct.pack("<H", ECHO_RQ)),
        (0x0110, struct.pack("<H", 7)),
        (0x0800, struct.pack("<H", _NO_DATA_SET)),
    ]


def store_rq(sop_instance_uid: str, sop_class_uid: str = CT) -> list[tuple[int, bytes]]:
    """A C-STORE-RQ (PS3.7 Table 9.3-1)."""
    return [
        (0x0002, uid(sop_class_uid)),
        (0x0100, struct.pack("<H", STORE_RQ)),
        (0x0110, struct.pack("<H", 9)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1)),
        (0x1000, uid(sop_instance_uid)),
    ]


def read_answers(received: bytes) -> list[Answer]:
    """What the node said, PDU by PDU; the last may be cut off where it hung up.

    Raises
    ------
    ValueError
        When it said what is no PDU.
    """
    answers = []
    position = 0
    while position + 6 <= len(received):
        pdu_type, length = struct.unpack_from(">BxI", received, position)
        if pdu_type not in (0x02, 0x03, 0x04, 0x06, 0x07) or length > 1 << 20:
            raise ValueError(f"the node sent a PDU of type {pdu_type:#x} and {length} bytes")
        body = received[position + 6 : position + 6 + length]
        if len(body) == length:
            answers.append(Answer(pdu_type=pdu_type, status=_status(pdu_type, body)))
        position += 6 + length
    return answers


def _status(pdu_type: int, body: bytes) -> int | None:
    if pdu_type != 0x04:
        return None
    position = 6  # one value, one command: nothing else is answered to what is sent here
    while position + 8 <= len(body):
        _, number, length = struct.unpack_from("<HHI", body, position)
        if number == 0x0900:
            return int.from_bytes(body[position + 8 : position + 10], "little")
        position += 8 + length
    raise ValueError("the node sent a response without a status")
