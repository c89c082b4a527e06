"""No result leaves unproven: a SEG we wrote, read back from its bytes, says what the label map says.

A mask that is flipped, shifted, reordered or numbered otherwise is found by its place in the patient, in every form:
BINARY and LABELMAP, native and compressed. What is read, and how, is `readback`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import UnprovenError
from pipelines.evidence.readback import Written, WrittenFrame, read_back, written_frames
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
    """Read a SEG back from its encoding and compare it with the label map: `prove_written`."""
    return prove_written(read_back(encoded), result, source)


def prove_written(
    written: Written, result: AnalysisResult, source: SourceSeries
) -> tuple[SegmentResidual, ...]:
    """Compare a SEG that was read back, in patient space, with the label map. One frame at a time is in memory.

    Parameters
    ----------
    written
        A BINARY or LABELMAP Segmentation, native or compressed.
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
    ds = written.ds
    by_number = _numbers(ds, result)
    if ds.FrameOfReferenceUID != (source.volume.frame_of_reference_uid or ds.FrameOfReferenceUID):
        raise UnprovenError("The SEG lies in another Frame of Reference than its source.")
    read = {segment.number: _Tally() for segment in result.segments}
    planes: dict[tuple[float, ...], int] = {}
    for frame in written_frames(written):
        place = tuple(frame.origin)
        if place not in planes:
            planes[place] = _plane_index(frame, result)
        plane = result.label_map.array[planes[place]]
        if frame.segment_number is None:
            _add_labels(read, frame, by_number, plane)
        else:
            _add_segment(read, frame, by_number, plane)
    expected = _expected(result)
    residuals = tuple(
        _residual(
            segment.label, read[segment.number], expected[segment.number], (_voxel_ml(ds), result)
        )
        for segment in result.segments
    )
    for residual in residuals:
        _demand_close(residual, result)
    return residuals


def _numbers(ds: Dataset, result: AnalysisResult) -> dict[int, int]:
    """Segment Number -> number in the result, by Tracking ID; of LABELMAP with the background."""
    wanted = {segment.label: segment.number for segment in result.segments}
    found: dict[int, int] = {}
    for item in ds.SegmentSequence:
        # PS3.3 C.8.20.2.3: all values of a label map are described, those that are no segment too.
        if ds.SegmentationType == "LABELMAP" and item.SegmentNumber == 0:
            found[0] = 0
        elif item.get("TrackingID") in wanted:
            found[int(item.SegmentNumber)] = wanted[item.TrackingID]
    if len(found) != len(ds.SegmentSequence):
        raise UnprovenError("The SEG describes segments that the result does not have.")
    return found


def _add_segment(
    read: Mapping[int, _Tally],
    frame: WrittenFrame,
    by_number: Mapping[int, int],
    plane: NDArray[Any],
) -> None:
    """A frame of one segment."""
    number = by_number.get(frame.segment_number or 0)
    if number is None:
        raise UnprovenError(
            f"A frame belongs to segment {frame.segment_number}, which is not described."
        )
    read[number].differing += int(np.count_nonzero(frame.values != (plane == number)))
    _add_voxels(read[number], np.flatnonzero(frame.values != 0), frame)


def _add_labels(
    read: Mapping[int, _Tally],
    frame: WrittenFrame,
    by_number: Mapping[int, int],
    plane: NDArray[Any],
) -> None:
    """A frame of all segments."""
    undescribed = [int(value) for value in np.unique(frame.values) if int(value) not in by_number]
    if undescribed:
        raise UnprovenError(f"The SEG holds the value {undescribed[0]}, which is not described.")
    table = np.zeros(max(by_number) + 1, plane.dtype)
    for number, value in by_number.items():
        table[number] = value
    labels = table[frame.values]
    off = labels != plane
    for number in np.unique(np.concatenate([labels[off], plane[off]])):
        if number:
            read[int(number)].differing += int(np.count_nonzero((labels == number) & off)) + int(
                np.count_nonzero((plane == number) & off)
            )
    inside = np.flatnonzero(labels)
    order = np.argsort(labels.ravel()[inside], kind="stable")
    numbers, starts = np.unique(labels.ravel()[inside][order], return_index=True)
    for number, part in zip(numbers, np.split(inside[order], starts[1:]), strict=True):
        _add_voxels(read[int(number)], part, frame)


def _add_voxels(tally: _Tally, inside: NDArray[np.int64], frame: WrittenFrame) -> None:
    """Voxels of one segment in one frame, as indices into its pixels."""
    columns = frame.values.shape[1]
    row_sum = int((inside // columns).sum())
    tally.voxels += inside.size
    tally.position_sum += (
        inside.size * frame.origin
        + row_sum * frame.row_step
        + (int(inside.sum()) - columns * row_sum) * frame.column_step
    )


def _plane_index(frame: WrittenFrame, result: AnalysisResult) -> int:
    """The slice of the label map that a frame covers, by the places of its corners."""
    inverse = np.linalg.inv(result.label_map.affine)
    last_row, last_column = (size - 1 for size in frame.values.shape)
    places = [(row, column) for row in (0, last_row) for column in (0, last_column)]
    corners = np.array(
        [frame.origin + row * frame.row_step + column * frame.column_step for row, column in places]
    )
    indices = corners @ inverse[:3, :3].T + inverse[:3, 3]
    plane = round(float(indices[0, 0]))
    misses = np.abs(indices - [(plane, row, column) for row, column in places]).max(axis=0)
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
