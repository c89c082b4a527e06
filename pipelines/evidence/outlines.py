"""Outlines in the SR: TID 1410 groups, for viewers that draw nothing from a SEG and list nothing without a place.

OHIF (seen with 3.13.2) opens a report as an empty black view if one group of its Imaging Measurements has no spatial
coordinates, and those of TID 1411 and 1501 have none. It merges groups of the same Tracking Unique Identifier: a
planar group beside each makes it go to a slice, draw the line and label it with the first five of measurements and
finding site. The planar group has none of these, else each would be listed twice; the other stays complete for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom.sr import (
    GraphicTypeValues,
    ImageRegion,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.evidence.keyslices import Contour, polygons
from pipelines.evidence.request import EvidenceRequest, statements
from pipelines.result import AnalysisResult

#: Number and Tracking Identifier of the group that concerns no single segment.
WHOLE: Final = 0
WHOLE_RESULT: Final = "Whole result"
#: A slice will do on which a segment has this share of its largest area.
_NEARLY_LARGEST: Final = 0.9
#: Points of one outline: Graphic Data (0070,0022) is FL, whose explicit length has 16 bits (PS3.5 7.1.2).
_MOST_POINTS: Final = 4096
#: OHIF takes a line of four or five points for a rectangle that a user drew, and asks whether to edit it.
_RECTANGLE_POINTS: Final = 5


def outline_slices(result: AnalysisResult) -> dict[int, int]:
    """The slice on which each segment is outlined: few on any one, for their labels hide each other.

    Each segment chooses among the slices where it has at least 90 % of its largest area the one with the fewest
    outlines so far, of those the one where it is largest; segments with the least choice come first. The whole result
    (all segments together, number 0) chooses last, if anything is said of it.

    Parameters
    ----------
    result
        Segments and their label map, axes (slice, row, column).

    Returns
    -------
    dict
        Segment number, 0 for the whole result -> index on axis 0; by increasing number, the whole result last. What has
        no voxel is left out.
    """
    count = len(result.segments) + 1
    areas = np.array(
        [np.bincount(plane[plane > 0], minlength=count) for plane in result.label_map.array]
    )
    if any(item.segment_number is None for item in statements(result)):
        areas[:, WHOLE] = areas.sum(axis=1)
    choices = {
        int(number): np.flatnonzero(areas[:, number] >= _NEARLY_LARGEST * areas[:, number].max())
        for number in np.flatnonzero(areas.any(axis=0))
    }
    outlines = np.zeros(len(areas), np.int64)
    chosen = {}
    for number in sorted(choices, key=lambda n: (n == WHOLE, choices[n].size, n)):
        index = min(choices[number], key=lambda index: (outlines[index], -areas[index, number]))
        outlines[index] += 1
        chosen[number] = int(index)
    return {number: chosen[number] for number in sorted(chosen, key=lambda n: (n == WHOLE, n))}


def planar_groups(
    request: EvidenceRequest, images: Sequence[Dataset]
) -> dict[int, PlanarROIMeasurementsAndQualitativeEvaluations]:
    """TID 1410 for each segment that has voxels, and for the whole result if anything is said of it.

    A segment of several parts is outlined around the part that is largest on that slice; holes are left out. The
    whole result is framed by a box around all that is segmented on its slice.

    Parameters
    ----------
    request
        The result and its source.
    images
        The source's slices, in the order of the label map's first axis.

    Returns
    -------
    dict
        Segment number, 0 for the whole result -> group, in the order of `outline_slices`.
    """
    frames, labels = request.source.frame_numbers, request.result.label_map.array
    groups = {}
    for number, index in outline_slices(request.result).items():
        image = SourceImageForRegion(
            referenced_sop_class_uid=images[index].SOPClassUID,
            referenced_sop_instance_uid=images[index].SOPInstanceUID,
            referenced_frame_numbers=[frames[index]] if frames else None,
        )
        plane = labels[index]
        line = _outline(plane == number) if number else _box(plane > 0)
        region = ImageRegion(
            graphic_type=GraphicTypeValues.POLYLINE,
            # PS3.3 C.18.6.1.2: the corner of the first pixel is (0, 0), its centre (0.5, 0.5).
            graphic_data=_drawable(line) + 0.5,
            source_image=image,
        )
        groups[number] = _group(request, number, region)
    return groups


def _group(
    request: EvidenceRequest, number: int, region: ImageRegion
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    uid = request.tracking_uid(number)
    if number == WHOLE:
        return PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=uid, identifier=WHOLE_RESULT),
            referenced_region=region,
        )
    segment = request.result.segments[number - 1]
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid, identifier=segment.label),
        referenced_region=region,
        finding_category=segment.spec.category.to_code(),
        finding_type=segment.spec.type.to_code(),
    )


def _outline(mask: NDArray[np.bool_]) -> Contour:
    """The line that encloses most."""
    return max((lines[0] for lines in polygons(mask)), key=_area)


def _box(mask: NDArray[np.bool_]) -> Contour:
    """Around all pixels of a mask, and a pixel away where the image has one."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = (max(inside[0] - 1.5, -0.5) for inside in (rows, columns))
    bottom, right = (
        min(inside[-1] + 1.5, size - 0.5)
        for inside, size in zip((rows, columns), mask.shape, strict=True)
    )
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])


def _area(line: Contour) -> float:
    (x, y), (x_next, y_next) = line[:-1].T, line[1:].T
    return abs(float(np.sum(x * y_next - x_next * y))) / 2


def _drawable(line: Contour) -> Contour:
    """The same closed line with fewer points, if there are too many to encode, or more, if it is one of a pixel."""
    step = -(-len(line) // _MOST_POINTS)
    if step > 1:
        return np.concatenate([line[:-1:step], line[:1]])
    if len(line) > _RECTANGLE_POINTS:
        return line
    between = (line[:-1] + line[1:]) / 2
    return np.concatenate([np.stack([line[:-1], between], axis=1).reshape(-1, 2), line[:1]])
