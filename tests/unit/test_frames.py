"""Pixel Data as a stream: the same bytes however it is read."""

from __future__ import annotations

import math
from io import SEEK_CUR, SEEK_END

import numpy as np
import pytest

from pipelines.evidence.frames import FrameStream, listed, values_by_slice

CONTENT = bytes(range(1, 24))


def _stream() -> FrameStream:
    """23 bytes in pieces of 5."""
    return FrameStream(
        lambda index: CONTENT[5 * index : 5 * index + 5], starts=range(0, 23, 5), length=23
    )


def test_an_odd_length_is_padded() -> None:
    stream = _stream()
    assert stream.read() == CONTENT + b"\x00"
    assert stream.read() == stream.read(7) == b""
    assert stream.seek(0, SEEK_END) == 24


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 24, 100])
def test_any_size_of_reading_gives_the_same(size: int) -> None:
    stream = _stream()
    parts = [stream.read(size) for _ in range(math.ceil(24 / size))]
    assert b"".join(parts) == CONTENT + b"\x00"
    assert stream.tell() == 24


def test_it_may_be_read_anywhere_and_again() -> None:
    stream = _stream()
    for start in (22, 0, 13, 4, 23):
        stream.seek(start)
        assert stream.read(3) == (CONTENT + b"\x00")[start : start + 3]
    stream.seek(3)
    assert stream.seek(4, SEEK_CUR) == 7
    assert stream.readable()
    assert stream.seekable()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_of_slices_are_those_that_are_there(dtype: type) -> None:
    rng = np.random.default_rng(5)
    labels = np.repeat(rng.integers(0, 7, (9, 6, 4)), 3, axis=2).astype(dtype)
    labels[4] = 0
    labels[6] = 5
    found = values_by_slice(labels)
    for plane, values in zip(labels, found, strict=True):
        assert values.tolist() == [value for value in np.unique(plane) if value]
    table = listed([values.tolist() for values in found])
    assert table.shape == (9, 1, max(len(values) for values in found))
    for row, values in zip(table, found, strict=True):
        assert [value for value in row[0] if value] == values.tolist()
