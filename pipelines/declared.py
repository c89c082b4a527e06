"""What an image declares of its pixels, held against what is there, before memory is found for it.

Rows, Columns, Number of Frames and Bits Allocated are one statement, the items of Pixel Data and the headers of the
codestreams in them another. Where they differ nobody knows which is true, and the image is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydicom import Dataset
from pydicom.uid import RLELossless

from pipelines.codestreams import Codestream, CodestreamError, read_codestream
from pipelines.errors import InputError, shown
from pipelines.fragments import FragmentsError, Frame, read_frames
from pipelines.reading import bomb, is_bomb

#: Of one frame that is compressed: 8192 x 8192. A slice of CT, MR or PET has a sixteenth of it at most.
MOST_PIXELS: Final = 1 << 26


def demand_true_sizes(ds: Dataset) -> None:
    """Refuse an image whose header and pixel data contradict each other in size or number.

    Raises
    ------
    InputError
        `input-declared-size`, naming the instance and the attribute; `input-decompression-bomb`.
    """
    frames = int(ds.get("NumberOfFrames") or 1)
    if _is_compressed(ds):
        _demand_true_frames(ds, frames)
        return
    packed = len(ds.PixelData)
    # Of one frame this is asked where it is read, with nothing allocated before.
    if frames != 1 and not 0 < _unpacked(ds, frames) <= packed:
        raise _contradiction(
            ds,
            f"Number of Frames (0028,0008) is {frames}, in {packed} bytes of Pixel Data (7FE0,0010)",
        )


def demand_true_series(datasets: Sequence[Dataset]) -> None:
    """Refuse slices that are small one by one and a bomb together.

    Raises
    ------
    InputError
        `input-decompression-bomb`.
    """
    packed = [ds for ds in datasets if _is_compressed(ds)]
    size = sum(len(ds.PixelData) for ds in packed)
    if is_bomb(size, sum(_unpacked(ds, 1) for ds in packed)):
        raise bomb("The series", size)


def _demand_true_frames(ds: Dataset, count: int) -> None:
    if ds.Rows * ds.Columns > MOST_PIXELS:
        raise _contradiction(
            ds,
            f"Rows (0028,0010) x Columns (0028,0011) is {ds.Rows} x {ds.Columns}: no slice has so many",
        )
    if is_bomb(len(ds.PixelData), _unpacked(ds, count)):
        raise bomb(f"Instance {shown(ds.SOPInstanceUID)}", len(ds.PixelData))
    extended = None
    if "ExtendedOffsetTable" in ds:
        extended = (ds.ExtendedOffsetTable, ds.get("ExtendedOffsetTableLengths") or b"")
    try:
        frames = read_frames(ds.PixelData, count, extended)
    except FragmentsError as error:
        raise _contradiction(ds, str(error)) from error
    for number, frame in enumerate(frames, start=1):
        _demand_true_frame(ds, number, frame)


def _demand_true_frame(ds: Dataset, number: int, frame: Frame) -> None:
    """A frame's codestream against the header."""
    where = f"frame {number} of Pixel Data (7FE0,0010)"
    try:
        found = read_codestream(
            frame.head,
            str(ds.file_meta.TransferSyntaxUID),
            length=frame.length,
            pixels=ds.Rows * ds.Columns,
        )
    except CodestreamError as error:
        raise _contradiction(ds, f"{where}: {error}") from error
    if found is None:
        return
    for said, name, is_true in _comparisons(ds, found):
        if not is_true:
            raise _contradiction(ds, f"{where} has {said} ({found.kind}), not its {name}")


def _comparisons(ds: Dataset, found: Codestream) -> Iterator[tuple[str, str, bool]]:
    """(what the codestream says, the attribute, whether they agree)."""
    if found.rows is not None:
        yield f"{found.rows} rows", f"Rows (0028,0010) {ds.Rows}", found.rows == ds.Rows
        columns = f"Columns (0028,0011) {ds.Columns}"
        yield f"{found.columns} columns", columns, found.columns == ds.Columns
    samples, allocated = int(ds.get("SamplesPerPixel") or 1), int(ds.get("BitsAllocated") or 0)
    yield (
        f"{found.samples} samples",
        f"Samples per Pixel (0028,0002) {samples}",
        found.samples == samples,
    )
    # A codestream of fewer bits than there is room for is common, and misleads no decoder.
    fits = found.precision <= allocated
    if ds.file_meta.TransferSyntaxUID == RLELossless:
        fits = found.precision == allocated
    yield f"{found.precision} bits", f"Bits Allocated (0028,0100) {allocated}", fits


def _is_compressed(ds: Dataset) -> bool:
    syntax = ds.file_meta.TransferSyntaxUID
    return bool(syntax.is_transfer_syntax and syntax.is_compressed)


def _unpacked(ds: Dataset, frames: int) -> int:
    """Bytes of the pixels that are declared."""
    bits: int = frames * ds.Rows * ds.Columns * int(ds.get("BitsAllocated") or 0)
    return -(-bits // 8)


def _contradiction(ds: Dataset, what: str) -> InputError:
    return InputError(
        f"Instance {shown(ds.SOPInstanceUID)} contradicts itself: {what}.",
        code="input-declared-size",
    )
