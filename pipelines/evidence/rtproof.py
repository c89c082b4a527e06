"""A structure set, read back and filled, holds the voxels of the label map.

The way back shares no code with the way out: contours are placed by their own millimetres and filled line by line
(even-odd rule at the centres of pixels), whatever image they claim to lie on; that is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from pipelines.errors import UnprovenError
from pipelines.evidence.proof import PLACE_TOLERANCE, encode
from pipelines.result import AnalysisResult, Segment, SourceSeries
from storage.model import SegmentResidual

#: Voxels that may differ: none. Lines run half way between centres, and their coordinates are rounded to 1 um.
DIFFERING_TOLERANCE = 0
#: Pixels by which all points of a contour may leave their plane.
_FLAT = 0.02

_Filled = dict[int, NDArray[np.bool_]]


@dataclass(slots=True, kw_only=True)
class _Tally:
    """Sums over the voxels of one segment, from its contours."""

    voxels: int = 0
    differing: int = 0
    #: Of places, LPS mm.
    found: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    expected: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


def prove_rtstruct(
    ds: Dataset, result: AnalysisResult, source: SourceSeries
) -> tuple[SegmentResidual, ...]:
    """Encode a structure set and prove the bytes: `prove_encoded_rtstruct`."""
    return prove_encoded_rtstruct(encode(ds), result, source)


def prove_encoded_rtstruct(
    encoded: bytes, result: AnalysisResult, source: SourceSeries
) -> tuple[SegmentResidual, ...]:
    """Fill the contours of a structure set and compare them, in patient space, with the label map.

    Tolerance: no voxel may differ; the centroid may be off by as much as a slice may miss its place on the regular
    grid (a tenth of the spacing).

    Parameters
    ----------
    encoded
        The file of an RT Structure Set.
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
    frame = source.volume.frame_of_reference_uid or written.FrameOfReferenceUID
    if written.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID != frame:
        raise UnprovenError("The RTSTRUCT lies in another Frame of Reference than its source.")
    names = {int(item.ROINumber): str(item.ROIName) for item in written.StructureSetROISequence}
    contours = {
        names[int(item.ReferencedROINumber)]: item.ContourSequence
        for item in written.ROIContourSequence
    }
    if unknown := contours.keys() - {segment.label for segment in result.segments}:
        raise UnprovenError(f"The RTSTRUCT has ROIs that the result does not have: {unknown}.")
    residuals = tuple(
        _compare(segment, contours.get(segment.label, ()), result, source)
        for segment in result.segments
    )
    for residual in residuals:
        _demand_close(residual, float(result.label_map.spacing[0]))
    return residuals


def _compare(
    segment: Segment, contours: Any, result: AnalysisResult, source: SourceSeries
) -> SegmentResidual:
    labels, affine = result.label_map.array, result.label_map.affine
    filled, depths = _fill(contours, result, source)
    tally = _Tally()
    expected = 0
    for index, plane in enumerate(labels):
        truth = plane == segment.number
        if not truth.any() and index not in filled:
            continue
        mask = filled.get(index, np.zeros(plane.shape, bool))
        tally.voxels += int(np.count_nonzero(mask))
        expected += int(np.count_nonzero(truth))
        tally.differing += int(np.count_nonzero(mask != truth))
        tally.found += _places(mask, depths.get(index, index), affine)
        tally.expected += _places(truth, index, affine)
    apart = 0.0
    if tally.voxels and expected:
        apart = float(np.linalg.norm(tally.found / tally.voxels - tally.expected / expected))
    voxel_ml = float(result.label_map.voxel_volume) / 1000
    return SegmentResidual(
        label=segment.label,
        voxels=expected,
        voxels_off=tally.voxels - expected,
        voxels_differing=tally.differing,
        volume_ml=expected * voxel_ml,
        volume_off_ml=(tally.voxels - expected) * voxel_ml,
        centroid_off_mm=apart,
    )


def _fill(
    contours: Any, result: AnalysisResult, source: SourceSeries
) -> tuple[_Filled, Mapping[int, float]]:
    """Slice index -> its filled contours, and the (fractional) index at which they lie."""
    inverse = np.linalg.inv(result.label_map.affine)
    shape = result.label_map.array.shape
    crossings: dict[int, NDArray[np.int64]] = {}
    depths: dict[int, float] = {}
    for item in contours:
        points = np.array(item.ContourData, np.float64).reshape(-1, 3)
        if len(points) != item.NumberOfContourPoints:
            raise UnprovenError("A contour has another number of points than it says.")
        indices = points @ inverse[:3, :3].T + inverse[:3, 3]
        depth = float(indices[:, 0].mean())
        plane = _demand_plane(indices[:, 0], depth, item, source)
        depths[plane] = depth
        # One column more: a contour may run along the last pixel's outer edge.
        crossed = crossings.setdefault(plane, np.zeros((shape[1], shape[2] + 1), np.int64))
        _cross(crossed, indices[:, 1], indices[:, 2])
    filled = {
        plane: np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1 for plane, crossed in crossings.items()
    }
    return filled, depths


def _demand_plane(
    depths: NDArray[np.float64], depth: float, item: Dataset, source: SourceSeries
) -> int:
    """The slice on which a contour lies; its image must be that one."""
    plane = round(depth)
    flat = np.abs(depths - depth).max() <= _FLAT
    inside = 0 <= plane < len(source.datasets)
    if not inside or not flat or abs(depth - plane) > 2 * PLACE_TOLERANCE:
        raise UnprovenError(
            f"A contour of the RTSTRUCT at slice {depth:.2f} does not lie on a slice of its source."
        )
    reference = item.ContourImageSequence[0]
    uid, frame = reference.ReferencedSOPInstanceUID, reference.get("ReferencedFrameNumber")
    right = uid == source.datasets[plane].SOPInstanceUID
    if source.frame_numbers:
        right = right and frame == source.frame_numbers[plane]
    if not right:
        raise UnprovenError(f"A contour of the RTSTRUCT on slice {plane} names another image.")
    return plane


def _cross(
    crossed: NDArray[np.int64], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> None:
    """Count, for each row of pixel centres, the first pixel right of where a closed line crosses it."""
    next_rows, next_columns = np.roll(rows, -1), np.roll(columns, -1)
    # An end belongs to the edge below it, so that a corner on a row of centres is crossed once.
    ends = np.clip(
        np.ceil([np.minimum(rows, next_rows), np.maximum(rows, next_rows)]), 0, len(crossed)
    )
    starts, counts = ends[0].astype(np.int64), (ends[1] - ends[0]).astype(np.int64)
    edge = np.repeat(np.arange(len(rows)), counts)
    at = starts[edge] + np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    slope = (next_columns - columns)[edge] / (next_rows - rows)[edge]
    where = columns[edge] + (at - rows[edge]) * slope
    first = np.clip(np.ceil(where), 0, crossed.shape[1] - 1).astype(np.int64)
    np.add.at(crossed, (at, first), 1)


def _places(
    mask: NDArray[np.bool_], depth: float, affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The sum of the places of a slice's voxels, LPS mm."""
    rows, columns = np.nonzero(mask)
    sums = np.array([depth * len(rows), rows.sum(), columns.sum()], np.float64)
    total: NDArray[np.float64] = affine[:3, :3] @ sums + len(rows) * affine[:3, 3]
    return total


def _demand_close(residual: SegmentResidual, slice_spacing: float) -> None:
    if (
        residual.voxels_differing > DIFFERING_TOLERANCE
        or residual.centroid_off_mm > PLACE_TOLERANCE * slice_spacing
    ):
        raise UnprovenError(
            f"Segment {residual.label!r}, filled from its contours, is off by {residual.voxels_off} voxels "
            f"({residual.voxels_differing} of {residual.voxels} in another place) and "
            f"{residual.centroid_off_mm:.2f} mm."
        )
