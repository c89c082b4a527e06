"""PDUs, cut in any way: what is read is what was written, and what is none is told."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.pdus import PduError, PduReader

#: Presentation context ID, message control header, value.
Value = tuple[int, int, bytes]
RELEASE = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))


def p_data(values: Iterable[Value]) -> bytes:
    items = b"".join(
        struct.pack(">IBB", len(value) + 2, context, control) + value
        for context, control, value in values
    )
    return struct.pack(">BxI", 4, len(items)) + items


def make_reader(size: int = 64) -> PduReader:
    return PduReader(size, longest=500)


def read(reader: PduReader, stream: bytes, cuts: Iterable[int]) -> list[Value | bytes]:
    """All that is in a stream that comes in pieces of so many bytes, values put together again."""
    found: list[Value | bytes] = []
    value = b""
    sizes = iter(cuts)
    while stream:
        count = min(next(sizes, len(stream)), len(stream), len(reader.room))
        assert count, "there is no room"
        reader.room[:count] = stream[:count]
        reader.filled(count)
        stream = stream[count:]
        while True:
            for part in reader.fragments():
                value += part.value
                if part.is_last:
                    found.append((part.context_id, part.is_command | 2, value))
                    value = b""
            if not reader.is_at_other:
                break
            # As many bytes as it has: the rest of them comes from the stream itself.
            held = reader.take(len(RELEASE))
            missing = len(RELEASE) - len(held)
            found.append(held + stream[:missing])
            stream = stream[missing:]
    return found


values = st.tuples(st.integers(0, 255), st.sampled_from((2, 3)), st.binary(max_size=100))
pdus = st.one_of(st.just(RELEASE), st.lists(values, min_size=1, max_size=4))


@given(st.lists(pdus, max_size=8), st.lists(st.integers(1, 70)), st.integers(56, 400))
def test_any_split_gives_what_was_written(
    written: list[bytes | list[Value]], cuts: list[int], size: int
) -> None:
    stream = b"".join(pdu if isinstance(pdu, bytes) else p_data(pdu) for pdu in written)
    expected: list[Value | bytes] = []
    for pdu in written:
        expected += [pdu] if isinstance(pdu, bytes) else pdu
    reader = make_reader(size)
    assert read(reader, stream, cuts) == expected
    assert not reader.is_within
    assert reader.missing == 0


@given(st.binary(max_size=300), st.lists(st.integers(1, 70)))
def test_junk_is_told_or_waited_for(junk: bytes, cuts: list[int]) -> None:
    reader = make_reader()
    with contextlib.suppress(PduError):
        read(reader, b"\x04" + junk, cuts)
    # It neither gives out nor keeps more than came.
    assert len(reader.take(500)) <= len(junk) + 1


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (struct.pack(">BxI", 4, 501), "says 501 bytes"),
        (struct.pack(">BxI", 4, 0), "says 0 bytes"),
        (struct.pack(">BxI", 4, 5), "says 5 bytes"),
        (struct.pack(">BxI", 4, 0xFFFFFFFF), "says 4294967295 bytes"),
        (struct.pack(">BxIIBB", 4, 10, 1, 1, 0), "does not fit"),
        (struct.pack(">BxIIBB", 4, 10, 7, 1, 0), "does not fit"),
        (struct.pack(">BxIIBB", 4, 10, 0xFFFFFFFF, 1, 0), "does not fit"),
        # Five bytes are left behind the value: no other can be in there.
        (struct.pack(">BxIIBB", 4, 11, 2, 1, 0), "does not fit"),
    ],
)
def test_what_is_no_pdu_is_told(stream: bytes, reason: str) -> None:
    with pytest.raises(PduError, match=reason):
        read(make_reader(), stream, [])


def test_an_empty_value_may_be_the_last() -> None:
    stream = p_data([(1, 0, b"abc"), (1, 2, b"")])
    assert read(make_reader(), stream, []) == [(1, 2, b"abc")]


def test_what_is_missing_is_known() -> None:
    reader = make_reader()
    stream = p_data([(1, 2, bytes(100))])
    for count, missing in ((1, 0), (5, 106), (30, 76)):
        reader.room[:count] = stream[:count]
        reader.filled(count)
        stream = stream[count:]
        assert all(not part.is_last for part in reader.fragments())
        assert reader.missing == missing


def test_another_pdu_is_left_where_it_is() -> None:
    reader = make_reader()
    reader.room[:14] = RELEASE + b"more"
    reader.filled(14)
    assert list(reader.fragments()) == []
    assert reader.is_at_other
    assert reader.missing == 0
    assert reader.take(2) == RELEASE[:2]
    assert reader.take(99) == RELEASE[2:] + b"more"
    assert reader.is_empty
