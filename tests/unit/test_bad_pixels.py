"""Files that declare more than they hold, or other than they are: what the door of the pipelines makes of them."""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from dicomgen import Geometry, make_series, save_all
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.cli.local import find_series
from pipelines.errors import InputError, shown
from pipelines.reading import read_file
from pipelines.series import read_series

SMALL = Geometry(rows=16, columns=16, slices=3)


def refusal(files: list[Path], most_mb: int = 300) -> InputError:
    """How the series is refused, soon and without much memory."""
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as raised:
        read_series(files)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < most_mb * 1024, "KB"
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


def test_a_deflated_file_is_read_as_the_plain_one(tmp_path: Path) -> None:
    plain = series(tmp_path / "plain", lambda ds: None)
    files = series(tmp_path / "deflated", lambda ds: None)
    for file in files:
        _deflate(file, _packed(_data_set(file)))
    expected, read = read_series(plain), read_series(files)
    np.testing.assert_array_equal(read.volume.array, expected.volume.array)
    assert read.datasets[0].PatientName == expected.datasets[0].PatientName
    assert "PixelData" not in read_file(files[0], stop_before_pixels=True)


def test_a_deflated_file_of_gigabytes_is_refused_as_it_is_read(tmp_path: Path) -> None:
    files = series(tmp_path, lambda ds: None)
    # A private element, after which nothing comes; 320 MB in 320 KB.
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(b"\xe1\x7f\x10\x10OB\0\0" + b"\xfe\xff\xff\xff")
    zeros = b"\0" * (1 << 24)
    packed += b"".join(packer.compress(zeros) for _ in range(20)) + packer.flush()
    _deflate(files[1], packed)
    assert refusal(files, 400).code == "input-decompression-bomb"
    with pytest.raises(InputError):
        read_file(files[1], stop_before_pixels=True)


def test_a_deflated_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path, lambda ds: None)
    packed = _packed(_data_set(files[1]))
    _deflate(files[1], packed[: len(packed) // 2])
    assert refusal(files).code == "input-unreadable"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_number_of_frames_that_is_no_number_is_refused(tmp_path: Path) -> None:
    files = series(tmp_path, lambda ds: setattr(ds, "NumberOfFrames", 1))
    for file in files:
        whole = b"\x28\x00\x08\x00IS\x02\x001 "
        assert whole in file.read_bytes()
        file.write_bytes(file.read_bytes().replace(whole, whole[:-4] + b"\x04\x001e99"))
        file.write_bytes(file.read_bytes().replace(b"\x04\x001e99", b"\x06\x001e9999"))
    assert refusal(files).code == "input-unreadable"


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_uid_that_is_a_name_is_not_repeated(tmp_path: Path, keyword: str) -> None:
    files = series(tmp_path, lambda ds: None)
    for file in files:
        uid = str(dcmread(file)[keyword].value)
        name = b"DOE^JANE".ljust(len(uid), b"^")
        file.write_bytes(file.read_bytes().replace(uid.encode(), name))
    error = refusal(files)
    assert error.code == "input-unreadable"
    assert "DOE" not in str(error)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_number_that_is_a_name_is_not_repeated(tmp_path: Path) -> None:
    def change(ds: Dataset) -> None:
        # Of CT it is asked for before; of MR only when the values are.
        ds.Modality, ds.RescaleSlope, ds.RescaleIntercept = "MR", "12345678", "0"

    files = series(tmp_path, change)
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"12345678", b"DOE^JANE"))
    error = refusal(files)
    assert error.code in ("input-unreadable-pixels", "input-unreadable")
    assert "DOE" not in str(error)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_folder_with_broken_files_is_searched_to_its_end(tmp_path: Path) -> None:
    """`osteonode pipelines run` on files of this machine, which no listener has looked at."""
    files = series(tmp_path, lambda ds: setattr(ds, "NumberOfFrames", 1234567))
    files[0].write_bytes(files[0].read_bytes().replace(b"1234567", b"1e99999"))
    _deflate(files[1], b"\xff" * 400)
    (found,) = find_series(tmp_path)
    assert set(found.files.values()) == {files[2]}


def test_what_is_shown_of_a_value_is_short_and_printable() -> None:
    assert shown("MONOCHROME2") == "MONOCHROME2"
    assert shown("a\x1b[2J\n\x00\u202e") == r"a\x1b[2J\n\x00\u202e"
    assert len(shown("x" * (1 << 20))) < 100


def _data_set(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def _packed(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _deflate(path: Path, packed: bytes) -> None:
    """Put this in place of the data set, as Deflated Explicit VR Little Endian."""
    meta = read_file_meta_info(path)
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stream = BytesIO()
    write_file_meta_info(stream, meta)
    path.write_bytes(bytes(128) + b"DICM" + stream.getvalue() + packed)
