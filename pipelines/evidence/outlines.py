"""Outlines in the SR: a TID 1410 group beside each TID 1411 group, for viewers that draw none from a SEG.

OHIF opens a report of TID 1411 groups as an empty black view: it neither draws nor lists what is tied to a segment
only. It merges groups of the same Tracking Unique Identifier, so a planar group beside each makes it go to a slice,
draw the outline and label it with the first five of: measurements, finding site. The planar group has none of these,
else each would be listed twice; TID 1411 stays complete for all others.
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
from pydicom import Dataset

from pipelines.evidence.keyslices import Contour, polygons
from pipelines.evidence.request import EvidenceRequest
from pipelines.result import AnalysisResult

#: A slice will do on which a segment has this share of its largest area.
_NEARLY_LARGEST: Final = 0.9
#: Points of one outline: Graphic Data (0070,0022) is FL, whose explicit length has 16 bits (PS3.5 7.1.2).
_MOST_POINTS: Final = 4096
#: OHIF takes a line of four or five points for a rectangle that a user drew, and asks whether to edit it.
_RECTANGLE_POINTS: Final = 5


def outline_slices(result: AnalysisResult) -> dict[int, int]:
    """The slice on which each segment is outlined: few on any one, for their labels hide each other.

    Each segment chooses among the slices where it has at least 90 % of its largest area the one with the fewest
    outlines so far, of those the one where it is largest; segments with the least choice come first.

    Parameters
    ----------
    result
        Segments and their label map, axes (slice, row, column).

    Returns
    -------
    dict
        Segment number -> index on axis 0, by increasing number. Segments without a voxel are left out.
    """
    count = len(result.segments) + 1
    areas = np.array(
        [np.bincount(plane[plane > 0], minlength=count) for plane in result.label_map.array]
    )
    choices = {
        int(number): np.flatnonzero(areas[:, number] >= _NEARLY_LARGEST * areas[:, number].max())
        for number in np.flatnonzero(areas.any(axis=0))
    }
    outlines = np.zeros(len(areas), np.int64)
    chosen = {}
    for number in sorted(choices, key=lambda number: (choices[number].size, number)):
        index = min(choices[number], key=lambda index: (outlines[index], -areas[index, number]))
        outlines[index] += 1
        chosen[number] = int(index)
    return dict(sorted(chosen.items()))


def planar_groups(
    request: EvidenceRequest, images: Sequence[Dataset]
) -> dict[int, PlanarROIMeasurementsAndQualitativeEvaluations]:
    """TID 1410 for each segment that has voxels.

    A segment of several parts is outlined around the part that is largest on that slice; holes are left out.

    Parameters
    ----------
    request
        The result and its source.
    images
        The source's slices, in the order of the label map's first axis.

    Returns
    -------
    dict
        Segment number -> group, by increasing number.
    """
    frames, labels = request.source.frame_numbers, request.result.label_map.array
    groups = {}
    for number, index in outline_slices(request.result).items():
        segment = request.result.segments[number - 1]
        image = SourceImageForRegion(
            referenced_sop_class_uid=images[index].SOPClassUID,
            referenced_sop_instance_uid=images[index].SOPInstanceUID,
            referenced_frame_numbers=[frames[index]] if frames else None,
        )
        outer = [lines[0] for lines in polygons(labels[index] == number)]
        groups[number] = PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=request.tracking_uid(number), identifier=segment.label
            ),
            referenced_region=ImageRegion(
                graphic_type=GraphicTypeValues.POLYLINE,
                # PS3.3 C.18.6.1.2: the corner of the first pixel is (0, 0), its centre (0.5, 0.5).
                graphic_data=_drawable(max(outer, key=_area)) + 0.5,
                source_image=image,
            ),
            finding_category=segment.spec.category.to_code(),
            finding_type=segment.spec.type.to_code(),
        )
    return groups


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
