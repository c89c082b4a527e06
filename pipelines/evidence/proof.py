"""No result leaves unproven: a SEG we wrote, read back from its bytes, says what the label map says.

The way back shares no code with the way out: the encoded bytes are parsed, bits unpacked and frames placed by
the Image Plane attributes that were written, and not by the source or by highdicom. A mask that is flipped,
shifted, reordered or numbered otherwise is found by its place in the patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from pipelines.errors import UnprovenError
from pipelines.result import AnalysisResult, SourceSeries
from storage.model import SegmentResidual

#: A source slice may miss the regular grid by a tenth of the spacing (`pipelines.geometry`), its centroid too.
PLACE_TOLERANCE = 0.1
#: Pixels by which a frame's corner may miss the grid.
CORNER_TOLERANCE = 0.5
#: Relative difference of volumes: Pixel Spacing and Spacing Between Slices are rounded to 16 characters.
VOLUME_TOLERANCE = 1e-3


@dataclass(slots=True, kw_only=True)
class _Tally:
    """Sums over the voxels of one segment."""

    voxels: int = 0
    differing: int = 0
    position_sum: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    segment_number: int
    #: Rows and columns of the frame.
    shape: tuple[int, int]
    #: The band of rows that holds all its voxels: bool, shape (rows of the band, columns).
    mask: NDArray[np.bool_]
    #: First row of the band.
    first_row: int
    #: Indices (row, column) -> LPS mm, as (origin, step of row, step of column).
    origin: NDArray[np.float64]
    row_step: NDArray[np.float64]
    column_step: NDArray[np.float64]


def prove(ds: Dataset, result: AnalysisResult, source: SourceSeries) -> tuple[SegmentResidual, ...]:
    """Encode a SEG and prove the bytes: `prove_encoded`."""
    return prove_encoded(encode(ds), result, source)


def encode(ds: Dataset) -> bytes:
    """The file (PS3.10) of a data set with file meta information."""
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def prove_encoded(
    encoded: bytes, result: AnalysisResult, source: SourceSeries
) -> tuple[SegmentResidual, ...]:
    """Read a SEG back from its encoding and compare it, in patient space, with the label map.

    Parameters
    ----------
    encoded
        The file of a BINARY Segmentation.
    result
        What it was made of.
    source
        The series on whose grid `result.label_map` lies.

    Returns
    -------
    tuple of SegmentResidual
        One per segment of the result, in its order.

    Raises
    ------
    UnprovenError
        Naming the segment and how far off it is.
    """
    written = dcmread(BytesIO(encoded))
    numbers = {str(item.TrackingID): int(item.SegmentNumber) for item in written.SegmentSequence}
    by_number = {
        numbers[item.label]: item.number for item in result.segments if item.label in numbers
    }
    if len(by_number) != len(written.SegmentSequence):
        raise UnprovenError("The SEG describes segments that the result does not have.")
    if written.FrameOfReferenceUID != (
        source.volume.frame_of_reference_uid or written.FrameOfReferenceUID
    ):
        raise UnprovenError("The SEG lies in another Frame of Reference than its source.")
    read = {number: _Tally() for number in (item.number for item in result.segments)}
    for frame in _frames(written):
        if frame.segment_number not in by_number:
            raise UnprovenError(
                f"A frame belongs to segment {frame.segment_number}, which is not described."
            )
        _add_frame(read[by_number[frame.segment_number]], frame, by_number, result)
    expected = _expected(result)
    voxel_ml = _voxel_ml(written)
    residuals = tuple(
        _residual(segment.label, read[segment.number], expected[segment.number], (voxel_ml, result))
        for segment in result.segments
    )
    for residual in residuals:
        _demand_close(residual, result)
    return residuals


def _frames(ds: Dataset) -> Iterator[_Frame]:
    """The frames, each with its bits and its own place."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    orientation = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64
    )
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=np.float64)
    pixels, shape = bytes(ds.PixelData), (int(ds.Rows), int(ds.Columns))
    if len(ds.PerFrameFunctionalGroupsSequence) != int(ds.NumberOfFrames):
        raise UnprovenError("The SEG has not one functional group per frame.")
    for index, groups in enumerate(ds.PerFrameFunctionalGroupsSequence):
        identification = groups.get("SegmentIdentificationSequence") or (
            shared.SegmentIdentificationSequence
        )
        mask, first_row = _band(pixels, index, shape)
        yield _Frame(
            segment_number=int(identification[0].ReferencedSegmentNumber),
            shape=shape,
            mask=mask,
            first_row=first_row,
            origin=np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64),
            row_step=orientation[3:] * spacing[0],
            column_step=orientation[:3] * spacing[1],
        )


def _band(pixels: bytes, index: int, shape: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
    """The rows of a frame from its first byte that is not zero to its last, and where they start."""
    rows, columns = shape
    start, end = index * rows * columns, (index + 1) * rows * columns
    if len(pixels) * 8 < end:
        raise UnprovenError("Pixel Data of the SEG is shorter than its frames.")
    filled = np.flatnonzero(np.frombuffer(pixels[start // 8 : -(-end // 8)], np.uint8))
    if not filled.size:
        return np.zeros((0, columns), bool), 0
    # In bits from the frame's start; the first and last byte may belong to its neighbours too.
    first = max(0, int(filled[0]) * 8 - start % 8) // columns
    last = min(rows, -(-((int(filled[-1]) + 1) * 8 - start % 8) // columns))
    bits = _bits(pixels, start + first * columns, (last - first) * columns)
    return bits.reshape(last - first, columns), first


def _bits(pixels: bytes, start: int, count: int) -> NDArray[np.bool_]:
    """PS3.5 8.1.1: one bit a pixel, least significant first, frames not padded to bytes."""
    first, last = start // 8, -(-(start + count) // 8)
    bits = np.unpackbits(np.frombuffer(pixels[first:last], np.uint8), bitorder="little")
    return bits[start % 8 : start % 8 + count].astype(bool)


def _add_frame(
    tally: _Tally, frame: _Frame, by_number: dict[int, int], result: AnalysisResult
) -> None:
    in_rows, in_columns = (np.count_nonzero(frame.mask, axis=axis) for axis in (1, 0))
    voxels = int(in_rows.sum())
    tally.voxels += voxels
    tally.position_sum += (
        voxels * frame.origin
        + (in_rows @ np.arange(frame.first_row, frame.first_row + in_rows.size)) * frame.row_step
        + (in_columns @ np.arange(in_columns.size)) * frame.column_step
    )
    # Voxels of the label map outside the band are missing in the frame: `voxels_off` counts them.
    band = slice(frame.first_row, frame.first_row + len(frame.mask))
    plane = result.label_map.array[_plane_index(frame, result), band]
    tally.differing += int(
        np.count_nonzero(frame.mask != (plane == by_number[frame.segment_number]))
    )


def _plane_index(frame: _Frame, result: AnalysisResult) -> int:
    """The slice of the label map that a frame covers, by the places of its corners."""
    inverse = np.linalg.inv(result.label_map.affine)
    last_row, last_column = frame.shape[0] - 1, frame.shape[1] - 1
    corners = np.array(
        [
            frame.origin + row * frame.row_step + column * frame.column_step
            for row in (0, last_row)
            for column in (0, last_column)
        ]
    )
    indices = corners @ inverse[:3, :3].T + inverse[:3, 3]
    plane = round(float(indices[0, 0]))
    wanted = np.array(
        [(plane, row, column) for row in (0, last_row) for column in (0, last_column)]
    )
    misses = np.abs(indices - wanted).max(axis=0)
    inside = 0 <= plane < result.label_map.array.shape[0]
    # Rounding of the direction cosines tells at the far corner: half a pixel, or twice a plane's own tolerance.
    if not inside or misses[0] > 2 * PLACE_TOLERANCE or misses[1:].max() > CORNER_TOLERANCE:
        raise UnprovenError(
            f"A frame of the SEG at {np.round(frame.origin, 2).tolist()} mm does not lie on the grid of the label map."
        )
    return plane


def _expected(result: AnalysisResult) -> dict[int, _Tally]:
    """The same sums from the label map and its affine."""
    count = len(result.segments) + 1
    voxels, sums = np.zeros(count), np.zeros((count, 3))
    for index, plane in enumerate(result.label_map.array):
        inside = np.flatnonzero(plane)
        rows, columns = np.divmod(inside, plane.shape[1])
        labels = plane.ravel()[inside]
        here = np.bincount(labels, minlength=count)
        voxels += here
        sums[:, 0] += here * index
        sums[:, 1] += np.bincount(labels, weights=rows, minlength=count)
        sums[:, 2] += np.bincount(labels, weights=columns, minlength=count)
    affine: NDArray[Any] = result.label_map.affine
    positions = sums @ affine[:3, :3].T + voxels[:, None] * affine[:3, 3]
    return {
        number: _Tally(voxels=int(voxels[number]), position_sum=positions[number])
        for number in range(1, count)
    }


def _voxel_ml(ds: Dataset) -> float:
    measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return float(np.prod([*measures.PixelSpacing, measures.SpacingBetweenSlices])) / 1000.0


def _residual(
    label: str, read: _Tally, expected: _Tally, scale: tuple[float, AnalysisResult]
) -> SegmentResidual:
    written_ml, result = scale
    volume_ml = expected.voxels * float(result.label_map.voxel_volume) / 1000.0
    apart = 0.0
    if read.voxels and expected.voxels:
        apart = float(
            np.linalg.norm(
                read.position_sum / read.voxels - expected.position_sum / expected.voxels
            )
        )
    return SegmentResidual(
        label=label,
        voxels=expected.voxels,
        voxels_off=read.voxels - expected.voxels,
        voxels_differing=read.differing,
        volume_ml=volume_ml,
        volume_off_ml=read.voxels * written_ml - volume_ml,
        centroid_off_mm=apart,
    )


def _demand_close(residual: SegmentResidual, result: AnalysisResult) -> None:
    spacing = result.label_map.spacing
    tolerance = PLACE_TOLERANCE * spacing[0] + CORNER_TOLERANCE * min(spacing[1:])
    if (
        residual.voxels_off
        or residual.voxels_differing
        or abs(residual.volume_off_ml) > VOLUME_TOLERANCE * residual.volume_ml
        or residual.centroid_off_mm > tolerance
    ):
        raise UnprovenError(
            f"Segment {residual.label!r}, read back, is off by {residual.voxels_off} voxels "
            f"({residual.voxels_differing} of {residual.voxels} in another place), {residual.volume_off_ml:.3f} mL and "
            f"{residual.centroid_off_mm:.2f} mm."
        )
