"""PDUs as they come off a connection, cut wherever the network cut them (PS3.8 9.3). No socket in here.

What a P-DATA-TF PDU carries is given on as it comes, as views of one buffer that is used again: neither a PDU nor a
message is ever whole in memory. At any other PDU the reader stops: it is for whoever knows the state machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

P_DATA_TF = 0x04
#: PS3.8 9.3.1: type, a reserved byte, length.
HEADER = struct.Struct(">BxI")
#: PS3.8 Table 9-23 and E.2: length, presentation context ID, message control header.
_ITEM = struct.Struct(">IBB")


class PduError(ValueError):
    """Bytes that are no PDU; the sentence repeats nothing of them."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A presentation data value, or a part of one.

    `value` is a view of the reader's buffer: it is another's when the next bytes are read.
    """

    context_id: int
    is_command: bool
    #: Whether the message's command set, or its data set, ends here.
    is_last: bool
    value: memoryview


class PduReader:
    """A buffer, and where in a PDU it is.

    Fill `room`, say `filled`, then take `fragments` until there are no more; and again.

    Parameters
    ----------
    size
        Bytes of the buffer.
    longest
        Bytes that a P-DATA-TF PDU may have.
    """

    def __init__(self, size: int, *, longest: int) -> None:
        self._buffer = memoryview(bytearray(size))
        self._longest = longest
        self.is_given_up = False
        #: What was read and not given out lies between them.
        self._start = self._end = 0
        #: Bytes that the P-DATA-TF PDU, and the value in it, still have.
        self._of_pdu = self._of_value = 0
        self._is_within_value = False
        self._context_id = self._control = 0

    @property
    def room(self) -> memoryview:
        """Where the next bytes go."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            # What is left is the beginning of something short.
            rest = self._end - self._start
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, rest
        return self._buffer[self._end :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `room`."""
        if not self.is_given_up:
            self._end += count

    @property
    def is_empty(self) -> bool:
        """Whether all that was read was given out."""
        return self._start == self._end

    @property
    def is_within(self) -> bool:
        """Whether a P-DATA-TF PDU has begun and not ended."""
        return self._of_pdu > 0

    @property
    def is_at_other(self) -> bool:
        """Whether what comes next is another PDU."""
        return not self._of_pdu and not self.is_empty and self._buffer[self._start] != P_DATA_TF

    @property
    def missing(self) -> int:
        """Bytes that must come yet of the PDU that has begun; 0 where none has, or its length is unknown."""
        held = self._end - self._start
        if not self._of_pdu and held < HEADER.size:
            return 0
        return max(0, (self._of_pdu or self._length) - held)

    @property
    def _length(self) -> int:
        return int(HEADER.unpack_from(self._buffer, self._start)[1]) + HEADER.size

    def fragments(self) -> Iterator[Fragment]:
        """What has come of P-DATA-TF PDUs; a value may come in parts.

        Raises
        ------
        PduError
            For what is no PDU.
        """
        while (fragment := self._next()) is not None:
            yield fragment

    def take(self, count: int) -> bytes:
        """So many bytes of what was read, as they are, for whoever reads on in another way; or as many as there are."""
        end = min(self._start + count, self._end)
        taken = bytes(self._buffer[self._start : end])
        self._start = end
        return taken

    def give_up(self) -> None:
        """Where a PDU ends is not known any more, or of no interest: whatever comes is dropped."""
        self.is_given_up = True
        self._start = self._end = self._of_pdu = self._of_value = 0

    def _next(self) -> Fragment | None:
        held = self._end - self._start
        if not self._of_pdu:
            if held < HEADER.size or self._buffer[self._start] != P_DATA_TF:
                return None
            _, length = HEADER.unpack_from(self._buffer, self._start)
            # PS3.8 Table 9-22: one presentation data value at least.
            if not _ITEM.size <= length <= self._longest:
                raise PduError(f"a P-DATA-TF PDU that says {length} bytes")
            self._start += HEADER.size
            self._of_pdu = length
            held -= HEADER.size
        if not self._is_within_value:
            if held < _ITEM.size:
                return None
            self._begin_value()
            held -= _ITEM.size
        if not held and self._of_value:
            return None
        return self._value(min(held, self._of_value))

    def _begin_value(self) -> None:
        length, self._context_id, self._control = _ITEM.unpack_from(self._buffer, self._start)
        # PS3.8 Table 9-23: the length counts context and control header, and not itself.
        self._of_value = length - 2
        rest = self._of_pdu - 4 - length
        if length < 2 or rest < 0 or 0 < rest < _ITEM.size:
            raise PduError("a presentation data value that does not fit its PDU")
        self._start += _ITEM.size
        self._of_pdu -= _ITEM.size
        self._is_within_value = True

    def _value(self, count: int) -> Fragment:
        value = self._buffer[self._start : self._start + count]
        self._start += count
        self._of_pdu -= count
        self._of_value -= count
        self._is_within_value = self._of_value > 0
        # PS3.8 E.2: bit 0 set is a command, bit 1 set is the last fragment.
        is_last = bool(self._control & 2) and not self._is_within_value
        return Fragment(self._context_id, bool(self._control & 1), is_last, value)


def encode_p_data(
    context_id: int, value: bytes, longest: int, *, is_command: bool, is_last: bool
) -> bytes:
    """P-DATA-TF PDUs that carry a value, as few as there can be (PS3.8 Tables 9-22 and 9-23).

    Parameters
    ----------
    longest
        Bytes that a PDU may have, its header not counted (PS3.8 D.1); 0: any number.
    is_last
        Whether the message's command set, or its data set, ends with it.
    """
    size = (longest or len(value) + _ITEM.size) - _ITEM.size
    view = memoryview(value)
    parts: list[bytes | memoryview] = []
    for start in range(0, max(1, len(value)), size):
        part = view[start : start + size]
        ends = is_last and start + size >= len(value)
        parts += (
            HEADER.pack(P_DATA_TF, len(part) + _ITEM.size),
            _ITEM.pack(len(part) + 2, context_id, is_command | ends << 1),
            part,
        )
    return b"".join(parts)
