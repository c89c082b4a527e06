"""Files that declare more than they hold, or other than they are: what the door of the pipelines makes of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from dicomgen import Geometry, make_series, save_all
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from pipelines.errors import InputError, shown
from pipelines.series import read_series

SMALL = Geometry(rows=16, columns=16, slices=3)


def refusal(files: list[Path]) -> InputError:
    """How the series is refused, soon and without much memory."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as raised:
        read_series(files)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "KB"
    return raised.value


def series(tmp_path: Path, change: Callable[[Dataset], object]) -> list[Path]:
    """A series of which every instance was changed."""
    datasets = make_series(geometry=SMALL)
    for ds in datasets:
        change(ds)
    return save_all(datasets, tmp_path)


def test_a_multi_frame_image_of_two_gigabytes_that_is_not_there_is_refused(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 65535
        ds.PixelRepresentation = 1

    assert refusal(series(tmp_path, change)).code == "input-unreadable-pixels"


@pytest.mark.parametrize("length", [b"\xff\xff\xff\x7f", b"\xfe\xff\xff\xff"])
def test_an_element_that_says_gigabytes_is_refused_without_memory_for_them(
    tmp_path: Path, length: bytes
) -> None:
    files = series(tmp_path, lambda ds: None)
    for file in files:
        content = file.read_bytes()
        whole = b"\x08\x00\x70\x00LO\x04\x00Test"
        assert whole in content
        file.write_bytes(content.replace(whole, b"\x08\x00\x70\x00UN\x00\x00" + length))
    assert refusal(files).code in ("input-unreadable", "input-unreadable-pixels", "input-no-pixels")


def test_a_deflated_file_that_does_not_inflate_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path, lambda ds: None)
    _deflate(files[1], b"\xff" * 400)
    assert refusal(files).code == "input-unreadable"


def test_what_is_shown_of_a_value_is_short_and_printable() -> None:
    assert shown("MONOCHROME2") == "MONOCHROME2"
    assert shown("a\x1b[2J\n\x00\u202e") == r"a\x1b[2J\n\x00\u202e"
    assert len(shown("x" * (1 << 20))) < 100


def _deflate(path: Path, packed: bytes) -> None:
    """Put this in place of the data set, as Deflated Explicit VR Little Endian."""
    ds = dcmread(path, stop_before_pixels=True)
    meta = ds.file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = BytesIO()
    empty = Dataset()
    empty.file_meta = meta
    empty.save_as(stream, enforce_file_format=False)
    content = stream.getvalue()
    end = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:end] + packed)
