"""Conversations with the node's port: right ones, and right ones that were broken. The same for the same number.

`make_conversation` draws from a `random.Random`: from a seed in a campaign, from hypothesis in a test, which then
finds the shortest one that fails.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from fuzz import pdus

#: A node that says nothing for this long after the peer is done has hung.
HANG_S = 5.0

#: SOP Instance UID and encoded data set.
MakeData = Callable[[Random], tuple[str, bytes]]

_LENGTHS = (0, 1, 2, 3, 5, 0x7F, 0x80, 0xFFFF, 0x10000, 0xFFFFF, 0x100001, 0x7FFFFFFF, 0xFFFFFFFF)
_BYTES = (0x00, 0x01, 0x0A, 0x1B, 0x2F, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
_TITLES = (
    b"", b" " * 16, b"\x00" * 16, b"A\nB", b"\x1b[2J\x1b]0;x\x07", b"../../etc/passwd", b"\xff\xfe", b"A\\B", b"%s%n",
    b"'; DROP TABLE --",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What is sent, write by write, and how it ends."""

    pieces: tuple[bytes, ...]
    #: What was done to it; nothing when it is a right one.
    broken: tuple[str, ...] = ()
    #: Each is to be answered 0x0000, if nothing is broken.
    messages: int = 0
    #: Whether it waits for the answer to its A-ASSOCIATE-RQ, as PS3.8 Table 9-10 has it.
    is_patient: bool = True
    #: Whether it ends, when all messages were answered, with an A-RELEASE-RQ that is to be answered.
    is_released: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the node took it."""

    kind: str
    statuses: tuple[int, ...] = ()
    #: What it must not have done; empty when all is well.
    fault: str = ""


def make_conversation(random: Random, make_data: MakeData) -> Conversation:
    """A few messages on one association, in any split, and then usually damage.

    Parameters
    ----------
    make_data
        SOP Instance UID and encoded data set (CT, Explicit VR Little Endian) of a right instance.
    """
    conversation = right_conversation(random, make_data, random.randrange(4))
    if random.random() >= 0.15:
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            conversation = random.choice(_DAMAGE)(random, conversation)
        if random.random() < 0.1:
            conversation = replace(
                conversation, is_patient=False, broken=("impatient",), is_released=False
            )
    return _segmented(random, conversation)


def right_conversation(random: Random, make_data: MakeData, messages: int) -> Conversation:
    """An association as the standard has it."""
    said = [pdus.associate_rq([(pdus.VERIFICATION, pdus.EXPLICIT), (pdus.CT, pdus.EXPLICIT)])]
    for _ in range(messages):
        if random.random() < 0.4:
            said.append(pdus.data(pdus.value(1, 3, pdus.command(pdus.echo_rq()))))
        else:
            sop_instance_uid, encoded = make_data(random)
            command = pdus.command(pdus.store_rq(sop_instance_uid))
            said += _in_pdus(random, _split(random, 1, command), _split(random, 0, encoded))
    said.append(pdus.RELEASE_RQ)
    return Conversation(pieces=tuple(said), messages=messages, is_released=True)


def _split(random: Random, control: int, content: bytes) -> list[bytes]:
    """Fragments of a message: a few anywhere, or very many, empty ones among them."""
    count = random.choice((0, 0, 1, 2, 5, 40))
    cuts = sorted(random.randrange(len(content) + 1) for _ in range(count))
    ends = [*cuts, len(content)]
    starts = [0, *cuts]
    last = len(ends) - 1
    return [
        pdus.value(3, control | (2 if index == last else 0), content[start:end])
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


def _in_pdus(random: Random, command: list[bytes], content: list[bytes]) -> list[bytes]:
    """Fragments in P-DATA-TF PDUs, one each or several together, command and data set in one as well."""
    said: list[bytes] = []
    waiting: list[bytes] = []
    for fragment in command + content:
        waiting.append(fragment)
        if random.random() < 0.5:
            said.append(pdus.data(*waiting))
            waiting = []
    return [*said, pdus.data(*waiting)] if waiting else said


def _segmented(random: Random, conversation: Conversation) -> Conversation:
    """How TCP may bring what follows the first PDU: PDU by PDU, all at once, or cut anywhere."""
    way = random.randrange(3)
    if way == 0 or not conversation.pieces:
        return conversation
    first, *between, last = (*conversation.pieces, b"")[: len(conversation.pieces) + 1]
    if conversation.is_released:
        *between, last = between
    whole = b"".join(between)
    count = random.randrange(12) if way == 2 else 0
    cuts = sorted(random.randrange(len(whole) + 1) for _ in range(count))
    ends = [*cuts, len(whole)]
    parts = (first, *(whole[a:b] for a, b in zip([0, *cuts], ends, strict=True)), last)
    return replace(conversation, pieces=tuple(part for part in parts if part))


# -- damage -------------------------------------------------------------------------------------


def _change(conversation: Conversation, what: str, *pieces: bytes) -> Conversation:
    broken = (*conversation.broken, what)
    return replace(conversation, pieces=pieces, broken=broken, is_released=False)


def _in_one(
    what: str, change: Callable[[Random, bytes], bytes]
) -> Callable[[Random, Conversation], Conversation]:
    """Damage to one PDU."""

    def damage(random: Random, conversation: Conversation) -> Conversation:
        pieces = list(conversation.pieces)
        if pieces:
            at = random.randrange(len(pieces))
            pieces[at] = change(random, pieces[at])
        return _change(conversation, what, *pieces)

    return damage


def _flip(random: Random, said: bytes) -> bytes:
    buffer = bytearray(said)
    for _ in range(random.choice((1, 1, 2, 8)) if buffer else 0):
        at = random.randrange(len(buffer))
        buffer[at] = random.choice(_BYTES) if random.random() < 0.5 else random.randrange(256)
    return bytes(buffer)


def _lie(random: Random, said: bytes) -> bytes:
    """Another length of the PDU."""
    return said[:2] + struct.pack(">I", random.choice(_LENGTHS)) + said[6:]


def _lie_inside(random: Random, said: bytes) -> bytes:
    """Another length of the first value of a P-DATA-TF, of an item anywhere else."""
    if said[:1] == b"\x04":
        return said[:6] + struct.pack(">I", random.choice(_LENGTHS)) + said[10:]
    at = random.randrange(74, max(75, len(said) - 2))
    return said[:at] + struct.pack(">H", random.choice(_LENGTHS) & 0xFFFF) + said[at + 2 :]


def _header(random: Random, said: bytes) -> bytes:
    """Another presentation context ID or message control header."""
    at = random.choice((10, 11))
    return said[:at] + bytes((random.choice((0, 1, 2, 3, 4, 5, 7, 255)),)) + said[at + 1 :]


def _retype(random: Random, said: bytes) -> bytes:
    return bytes((random.randrange(12) if random.random() < 0.8 else 0xEE,)) + said[1:]


def _cut(random: Random, said: bytes) -> bytes:
    return said[: random.randrange(len(said) + 1)]


def _rearrange(random: Random, conversation: Conversation) -> Conversation:
    """A PDU that is missing, comes twice, or comes elsewhere."""
    pieces = list(conversation.pieces)
    if not pieces:
        return conversation
    at = random.randrange(len(pieces))
    moved = pieces.pop(at) if random.random() < 0.7 else pieces[at]
    if random.random() < 0.6:
        pieces.insert(random.randrange(len(pieces) + 1), moved)
    return _change(conversation, "rearranged", *pieces)


def _insert(random: Random, conversation: Conversation) -> Conversation:
    """A PDU or bytes of nobody in between."""
    inserted = random.choice(
        (
            pdus.ABORT,
            pdus.RELEASE_RQ,
            pdus.pdu(0x04, b""),
            pdus.pdu(0x06, b"\x00" * 4),
            pdus.pdu(0x02, random.randbytes(80)),
            struct.pack(">BxI", 0x04, 0xFFFFFFF0),
            b"\x00" * 64,
            random.randbytes(random.randrange(200)),
            pdus.data(pdus.value(3, random.randrange(256), random.randbytes(40))),
            pdus.data(pdus.value(random.randrange(256), 2, b"")),
            pdus.data(*[pdus.value(3, 0, b"")] * 500),
        )
    )
    pieces = list(conversation.pieces)
    pieces.insert(random.randrange(len(pieces) + 1), inserted)
    return _change(conversation, "inserted", *pieces)


def _command(random: Random, conversation: Conversation) -> Conversation:
    """A command set with an element that is wrong, missing, doubled or too long."""
    elements = random.choice((pdus.echo_rq(), pdus.store_rq("1.2.3")))
    at = random.randrange(len(elements))
    number, content = elements[at]
    changed = random.choice(
        (
            [],
            [(number, b"")],
            [(number, content), (number, random.randbytes(4))],
            [(number, random.randbytes(random.choice((1, 2, 3, 64, 5000))))],
            [(number, content + b"\x1b[2J\n" * random.choice((1, 20, 2000)))],
            [(random.randrange(0x10000), content)],
            [(0x0100, struct.pack("<H", random.randrange(0x10000)))],
        )
    )
    elements[at : at + 1] = changed
    encoded = pdus.command(elements)
    if random.random() < 0.2:
        encoded = _flip(random, encoded)
    context_id = random.choice((1, 3))
    pieces = list(conversation.pieces)
    said = pdus.data(pdus.value(context_id, 3, encoded))
    pieces.insert(random.randrange(1, len(pieces) + 1) if pieces else 0, said)
    return _change(conversation, "command", *pieces)


def _association(random: Random, conversation: Conversation) -> Conversation:
    """Another A-ASSOCIATE-RQ: odd titles, odd items, very many contexts."""
    odd_uid = random.choice(("", "1.2.3", "1." * 32, "9" * 300, "../../x", "A\nB\x1b[31m", pdus.CT))
    contexts = [(pdus.VERIFICATION, pdus.EXPLICIT), (pdus.CT, pdus.EXPLICIT)]
    if random.random() < 0.5:
        contexts = [*contexts, (odd_uid, pdus.EXPLICIT), (pdus.CT, odd_uid)][random.randrange(3) :]
    if random.random() < 0.2:
        contexts = contexts * 60 if random.random() < 0.5 else []
    odd_item = pdus.item(random.randrange(0x50, 0x60), random.randbytes(random.randrange(60)))
    first = pdus.associate_rq(
        contexts[:127],
        called=random.choice((*_TITLES, b"OSTEONODE", b"OSTEONODE")),
        calling=random.choice(_TITLES),
        user_items=random.choice((b"", odd_item, odd_item * 50)),
    )
    return _change(conversation, "association", first, *conversation.pieces[1:])


_DAMAGE: tuple[Callable[[Random, Conversation], Conversation], ...] = (
    _in_one("flipped", _flip),
    _in_one("flipped", _flip),
    _in_one("length", _lie),
    _in_one("length inside", _lie_inside),
    _in_one("header", _header),
    _in_one("type", _retype),
    _in_one("cut", _cut),
    _rearrange,
    _insert,
    _command,
    _association,
)


# -- the peer -----------------------------------------------------------------------------------


def converse(port: int, conversation: Conversation) -> Outcome:
    """Say it all, say that nothing more comes, and hear the node out."""
    try:
        received, ended = _exchange(port, conversation)
    except ValueError as error:
        return Outcome(kind="nonsense", fault=str(error))
    if not ended:
        return Outcome(kind="hung", fault=f"no end of the connection within {HANG_S:g} s")
    try:
        answers = pdus.read_answers(received)
    except ValueError as error:
        return Outcome(kind="nonsense", fault=str(error))
    statuses = tuple(answer.status for answer in answers if answer.status is not None)
    outcome = Outcome(kind=_kind([answer.pdu_type for answer in answers]), statuses=statuses)
    right = (0,) * conversation.messages
    if not conversation.broken and (statuses != right or outcome.kind != "released"):
        said = f"{outcome.kind}, statuses {statuses}"
        return replace(outcome, fault=f"a right conversation of {len(right)} messages: {said}")
    return outcome


def _exchange(port: int, conversation: Conversation) -> tuple[bytes, bool]:
    """What the node said, and whether it hung up in time."""
    heard = _Heard()
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The node may hang up first, and what it has not read then resets the connection.
        with contextlib.suppress(OSError):
            for index, piece in enumerate(conversation.pieces):
                if conversation.is_released and index == len(conversation.pieces) - 1:
                    heard.until(connection, lambda: heard.messages() >= conversation.messages)
                connection.sendall(piece)
                if index == 0 and conversation.is_patient and _asks(piece):
                    heard.until(connection, lambda: len(heard.received) > 6)
            if not conversation.is_released:
                connection.shutdown(socket.SHUT_WR)
        heard.until(connection, lambda: False)
    return heard.received, heard.is_over


@dataclass(slots=True)
class _Heard:
    """What the node says on one connection."""

    received: bytes = b""
    is_over: bool = False

    def messages(self) -> int:
        """DIMSE messages so far."""
        return sum(answer.pdu_type == 0x04 for answer in pdus.read_answers(self.received))

    def is_last_word(self) -> bool:
        """Whether it rejected, released or aborted."""
        return any(a.pdu_type in (0x03, 0x06, 0x07) for a in pdus.read_answers(self.received))

    def until(self, connection: socket.socket, is_enough: Callable[[], bool]) -> None:
        """Listen until that, the end of the connection, or too long."""
        deadline = time.monotonic() + HANG_S
        try:
            while not is_enough() and not self.is_over and time.monotonic() < deadline:
                some = connection.recv(65536)
                self.received += some
                # PS3.8 9.2.3, Sta13: after the last word it is the peer that closes the connection.
                self.is_over = not some or self.is_last_word()
        except TimeoutError:
            pass
        except ConnectionError:
            self.is_over = True


def _asks(piece: bytes) -> bool:
    """Whether it is a whole A-ASSOCIATE-RQ."""
    return piece[:1] == b"\x01" and len(piece) == 6 + int.from_bytes(piece[2:6], "big")


def _kind(types: list[int]) -> str:
    for pdu_type, kind in ((0x07, "aborted"), (0x06, "released"), (0x03, "rejected")):
        if pdu_type in types:
            return kind
    return "closed" if types else "closed unheard"
