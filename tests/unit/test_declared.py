"""Images whose header says one size and whose pixel data says another: refused, soon and without memory for either."""

from __future__ import annotations

import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import volumes
from dicomgen import Geometry, make_series, save_all
from enhanced import enhanced_image
from pydicom import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pipelines.errors import InputError
from pipelines.fragments import FragmentsError, read_frames
from pipelines.series import read_series
from pipelines.training.phantoms.spect_dicom import SPECT_SERIES, nm_image

SMALL = Geometry(rows=64, columns=64, slices=3)
Change = Callable[[bytes], bytes]


def refusal(files: list[Path]) -> InputError:
    """How the series is refused: in no time, and with memory for the files alone."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as raised:
            read_series(files)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.monotonic() - started < 5
    # numpy tells tracemalloc what it allocates, touched or not.
    assert most < 50 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KB"
    return raised.value


def compressed(
    tmp_path: Path,
    syntax: UID,
    change: Change,
    header: Callable[[Dataset], object] = lambda ds: None,
) -> list[Path]:
    """A series whose frames were compressed and then changed."""
    datasets = make_series(geometry=SMALL)
    for ds in datasets:
        if syntax in (JPEGBaseline8Bit, JPEGLosslessSV1):
            ds.file_meta.TransferSyntaxUID = syntax
            frame = b""
        else:
            ds.compress(syntax, generate_instance_uid=False)
            frame = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = encapsulate([change(frame)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        header(ds)
    return save_all(datasets, tmp_path)


def put(at: int, form: str, *values: int) -> Change:
    """Other numbers at a place."""
    packed = struct.pack(form, *values)
    return lambda frame: frame[:at] + packed + frame[at + len(packed) :]


def after(marker: bytes, offset: int, form: str, *values: int) -> Change:
    """Other numbers after a marker."""
    return lambda frame: put(frame.index(marker) + offset, form, *values)(frame)


def jpeg(*segments: bytes) -> Change:
    """A JPEG codestream of these segments, up to its first scan, and a scan of nothing."""
    said = (
        b"\xff\xd8"
        + b"".join(segments)
        + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
        + b"\x00" * 99
    )
    return lambda frame: said + b"\xff\xd9"


def sof(rows: int, columns: int, *, bits: int = 8, samples: int = 1, marker: int = 0xC0) -> bytes:
    """A frame header (ISO 10918-1 B.2.2)."""
    components = b"".join(bytes((number + 1, 0x11, 0)) for number in range(samples))
    body = struct.pack(">BHHB", bits, rows, columns, samples) + components
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def rle(*segments: bytes) -> Change:
    """An RLE frame (PS3.5 G.4)."""
    starts = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    header = struct.pack("<I", len(segments)) + struct.pack(f"<{len(starts)}I", *starts)
    return lambda frame: header.ljust(64, b"\0") + b"".join(segments)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_what_is_true_is_read(tmp_path: Path, syntax: UID) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    files = compressed(packed, syntax, lambda frame: frame)
    expected = read_series(save_all(make_series(geometry=SMALL), plain)).volume.array
    np.testing.assert_array_equal(read_series(files).volume.array, expected)


@pytest.mark.parametrize(
    ("syntax", "change", "said"),
    [
        # ISO 15444-1 A.5.1: Xsiz and Ysiz are at byte 8, the tile's size at 24.
        (JPEG2000Lossless, put(8, ">2I8x2I", 60000, 60000, 60000, 60000), "60000 rows"),
        (JPEG2000Lossless, put(8, ">2I", 2**32 - 1, 64), "tiles"),
        (JPEG2000Lossless, put(24, ">2I", 0, 0), "no size"),
        (JPEG2000Lossless, put(8, ">2I8x2I", 10**6, 10**6, 1, 1), "tiles"),
        (JPEG2000Lossless, put(40, ">H", 16384), "16384 samples"),
        (JPEG2000Lossless, put(42, ">B", 37), "38 bits"),
        (JPEG2000Lossless, put(43, ">BB", 255, 255), "subsampled"),
        (JPEG2000Lossless, lambda frame: frame[:20], "ends in its header"),
        (JPEG2000Lossless, lambda frame: b"\xff\xd8" + frame, "no JPEG 2000"),
        (JPEGLSLossless, after(b"\xff\xf7", 5, ">2H", 65535, 65535), "65535 rows"),
        (JPEGLSLossless, after(b"\xff\xf7", 9, ">B", 255), "255 samples"),
        (
            JPEGLSLossless,
            lambda frame: frame[:2] + b"\xff\xf8\x00\x0c\x04\x03" + b"\x00\xff\xff" * 2 + b"\0" + frame[2:],
            "twice",
        ),
        (JPEGBaseline8Bit, jpeg(sof(65535, 65535)), "65535 rows"),
        (JPEGBaseline8Bit, jpeg(sof(64, 0)), "0 columns"),
        (JPEGBaseline8Bit, jpeg(sof(64, 64), sof(65535, 65535)), "two frame headers"),
        (JPEGBaseline8Bit, jpeg(), "no frame header"),
        (JPEGBaseline8Bit, jpeg(b"\xff\xe0\x00\x02" * 10**6, sof(64, 64)), "no frame header"),
        (JPEGBaseline8Bit, jpeg(b"\xff\xde\x00\x02"), "something else"),
        (JPEGBaseline8Bit, jpeg(sof(64, 64, samples=3)), "3 samples"),
        # ITU-T T.871 10.1: the version, after the identifier; one decoder ends the process of any but 1.
        (JPEGBaseline8Bit, jpeg(b"\xff\xe0\x00\x10JFIF\0\x02\x02" + b"\0" * 7, sof(64, 64)), "JFIF"),
        (JPEGLosslessSV1, jpeg(sof(64, 64, bits=32, marker=0xC3)), "32 bits"),
        (RLELossless, rle(b"\x81\x00" * 1000000, b"\x81\x00" * 1000000), "RLE segment 1"),
        (RLELossless, rle(b"\x81\x00" * 32, b""), "RLE segment 2"),
        (RLELossless, rle(b"\x81\x00" * 32), "8 bits"),
        (RLELossless, put(0, "<I", 2**32 - 1), "no segments"),
        (RLELossless, put(8, "<I", 2**31), "RLE segment 1"),
    ],
)  # fmt: skip
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, syntax: UID, change: Change, said: str
) -> None:
    error = refusal(compressed(tmp_path, syntax, change))
    assert error.code == "input-declared-size"
    assert said in str(error)
    # Who must act knows where to look, and nobody learns whose it was.
    assert "(0028," in str(error) or "(7FE0,0010)" in str(error)
    assert "Patient" not in str(error)


def test_a_header_of_another_size_is_refused(tmp_path: Path) -> None:
    def grow(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 8000

    error = refusal(compressed(tmp_path, JPEG2000Lossless, lambda frame: frame, grow))
    assert error.code == "input-declared-size"
    assert "Rows (0028,0010) 8000" in str(error)


def test_a_size_that_both_declare_has_its_bound(tmp_path: Path) -> None:
    def grow(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 60000

    change = put(8, ">2I8x2I", 60000, 60000, 60000, 60000)
    error = refusal(compressed(tmp_path, JPEG2000Lossless, change, grow))
    assert error.code == "input-declared-size"
    assert "60000 x 60000" in str(error)


def test_slices_that_unpack_to_gigabytes_together_are_a_bomb(tmp_path: Path) -> None:
    def grow(ds: Dataset) -> None:
        ds.Rows = ds.Columns = 8000

    change = put(8, ">2I8x2I", 8000, 8000, 8000, 8000)
    error = refusal(compressed(tmp_path, JPEG2000Lossless, change, grow))
    assert error.code == "input-decompression-bomb"


def test_an_rle_decoder_that_panics_is_a_refusal(tmp_path: Path) -> None:
    # As long as a segment of 4096 pixels may be, and twice as many pixels.
    files = compressed(tmp_path, RLELossless, rle(b"\x81\x00" * 64, b"\x81\x00" * 64))
    assert refusal(files).code == "input-unreadable-pixels"


def test_a_table_of_two_frames_in_an_image_of_one_is_a_refusal(tmp_path: Path) -> None:
    def split(ds: Dataset) -> None:
        frame = next(generate_frames(ds.PixelData, number_of_frames=1))
        ds.PixelData = with_table([frame, frame], [0, len(frame) + 8])

    files = compressed(tmp_path, RLELossless, lambda frame: frame, split)
    assert refusal(files).code in ("input-declared-size", "input-unreadable-pixels")


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [2_000_000_000, 12, 0, -5])
def test_a_number_of_frames_that_lies_is_refused(tmp_path: Path, frames: int) -> None:
    ds = nm_image(volumes.make_volume("axial"), seed=7, options=SPECT_SERIES)
    ds.NumberOfFrames = frames
    if "SliceVector" in ds:
        del ds.SliceVector
    path = tmp_path / "nm.dcm"
    ds.save_as(path, enforce_file_format=True)
    error = refusal([path])
    assert error.code in ("input-declared-size", "input-too-few-slices")


def packed_frames() -> tuple[Dataset, list[bytes]]:
    """An enhanced image in RLE, and its frames."""
    ds = enhanced_image()
    ds.compress(RLELossless, generate_instance_uid=False)
    return ds, list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))


def with_table(frames: list[bytes], table: list[int]) -> bytes:
    """Encapsulated, with a Basic Offset Table of our own."""
    without = encapsulate(frames, has_bot=False)
    return struct.pack(f"<HHI{len(table)}I", 0xFFFE, 0xE000, 4 * len(table), *table) + without[8:]


def starts(frames: list[bytes]) -> list[int]:
    """Where the items of frames begin."""
    return [sum(len(frame) + 8 for frame in frames[:n]) for n in range(len(frames))]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda table: [table[0], table[2], table[1], *table[3:]],
        lambda table: table[:-1],
        lambda table: [*table[:-1], 2**32 - 1],
        lambda table: [0] * len(table),
        lambda table: [offset + 2 for offset in table],
    ],
)
def test_offsets_that_point_elsewhere_are_refused(
    tmp_path: Path, wrong: Callable[[list[int]], list[int]]
) -> None:
    ds, frames = packed_frames()
    ds.PixelData = with_table(frames, wrong(starts(frames)))
    path = tmp_path / "enhanced.dcm"
    ds.save_as(path, enforce_file_format=True)
    error = refusal([path])
    assert error.code == "input-declared-size"
    assert "Basic Offset Table" in str(error)


@pytest.mark.parametrize("wrong", ["swapped", "long", "short", "none", ""])
def test_the_extended_offset_table_is_true_or_refused(tmp_path: Path, wrong: str) -> None:
    ds, frames = packed_frames()
    ds.PixelData, table, lengths = encapsulate_extended(frames)
    if wrong == "swapped":
        table = table[8:16] + table[:8] + table[16:]
    elif wrong == "long":
        lengths = struct.pack("<Q", 2**63) + lengths[8:]
    elif wrong == "short":
        table = table[:-8]
    ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = table, lengths
    if wrong == "none":
        del ds.ExtendedOffsetTableLengths
    path = tmp_path / "enhanced.dcm"
    ds.save_as(path, enforce_file_format=True)
    if wrong:
        error = refusal([path])
        assert error.code == "input-declared-size"
        assert "(7FE0,0001)" in str(error)
    else:
        assert read_series([path]).volume.array.shape[0] == len(frames)


def test_frames_of_several_fragments() -> None:
    one, two = b"\xff\xd8" + b"a" * 20 + b"\xff\xd9", b"\xff\xd8" + b"b" * 30 + b"\xff\xd9"
    pieces = [one[:10], one[10:], two[:10], two[10:20], two[20:]]
    whole = [(one, len(one)), (two, len(two))]
    by_end = encapsulate(pieces, has_bot=False)
    by_table = with_table(pieces, [0, starts(pieces)[2]])
    for data in (by_end, by_table):
        assert [(f.head, f.length) for f in read_frames(data, 2)] == whole
    assert [f.head for f in read_frames(by_end, 1)] == [one + two]
    assert len(read_frames(encapsulate(pieces), 5)) == 5
    for data, count in ((by_end, 3), (by_end, 6), (by_table, 3), (b"", 1), (by_end[:-9] + b"x", 1)):
        with pytest.raises(FragmentsError):
            read_frames(data, count)
