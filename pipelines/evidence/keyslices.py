"""Where to look, and the outlines there: what key objects, key-slice contours, captures and RT contours share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.result import AnalysisResult

#: A closed line, float64, shape (points + 1, 2): (column, row), (0, 0) the centre of the first pixel, the last point
#: equal to the first.
Contour: TypeAlias = NDArray[np.float64]

#: Between a mask's 0 and 1: lines run half way between the centres of pixels.
_HALF_WAY = 0.5


def key_slices(result: AnalysisResult) -> dict[int, int]:
    """The slice on which each segment is largest.

    Parameters
    ----------
    result
        Segments and their label map, axes (slice, row, column).

    Returns
    -------
    dict
        Segment number -> index on axis 0, by increasing number; of equals the lowest index. Segments without a voxel
        are left out.
    """
    labels = result.label_map.array
    count = len(result.segments) + 1
    largest, where = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for index, plane in enumerate(labels):
        areas = np.bincount(plane[plane > 0], minlength=count)
        larger = areas > largest
        largest[larger], where[larger] = areas[larger], index
    return {int(number): int(where[number]) for number in np.flatnonzero(largest)}


def contours(mask: NDArray[np.bool_]) -> list[Contour]:
    """The outlines of a mask: one line for each outer boundary and one for each hole.

    Lines run half way between a pixel inside and one outside, so every centre inside lies within an odd number of
    lines and every other within an even one (the rule by which holes are cut out). A corner is cut from edge
    midpoint to edge midpoint: a line encloses half a pixel less than its pixels (a hole half a pixel less than its
    own), whatever its shape. Pixels that touch at a corner only are apart.

    Parameters
    ----------
    mask
        Shape (rows, columns).

    Returns
    -------
    list of array
        float64, shape (points + 1, 2), (column, row) in pixels, (0, 0) the centre of the first pixel; closed (the
        last point is the first), no three points in line. Add 0.5 for coordinates that begin at the first pixel's
        corner (SCOORD, PS3.3 C.18.6.1.2). Empty for an empty mask.
    """
    return [line for polygon in polygons(mask) for line in polygon]


def polygons(mask: NDArray[np.bool_]) -> list[list[Contour]]:
    """The lines of `contours` by region: of each its outer boundary, then its holes."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return []
    rows, columns = box[0]
    # A border of nothing closes what touches the edge of the image.
    inside = np.pad(mask[rows, columns], 1).astype(np.float64)
    generator = contour_generator(z=inside, name="serial", fill_type=FillType.OuterOffset)
    # contourpy's hints do not say which of its forms this is.
    filled: Any = generator.filled(_HALF_WAY, np.inf)
    points, offsets = filled
    corner = np.array([columns.start - 1, rows.start - 1], dtype=np.float64)
    return [
        [_corners(np.asarray(line, np.float64)) + corner for line in np.split(lines, starts[1:-1])]
        for lines, starts in zip(points, offsets, strict=True)
    ]


def plane_polygons(plane: NDArray[np.integer[Any]]) -> dict[int, list[list[Contour]]]:
    """`polygons` of each segment on one slice of a label map: segment number -> regions, by increasing number."""
    found: dict[int, list[list[Contour]]] = {}
    for number, box in enumerate(ndimage.find_objects(plane), start=1):
        if box is None:
            continue
        corner = np.array([box[1].start, box[0].start], dtype=np.float64)
        regions = polygons(plane[box] == number)
        found[number] = [[line + corner for line in lines] for lines in regions]
    return found


def plane_contours(plane: NDArray[np.integer[Any]]) -> dict[int, list[Contour]]:
    """`contours` of each segment on one slice of a label map: segment number -> lines, by increasing number."""
    return {
        number: [line for lines in regions for line in lines]
        for number, regions in plane_polygons(plane).items()
    }


def _corners(line: Contour) -> Contour:
    """The same closed line without the points that lie in line with their neighbours."""
    points = line[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    corners = points[turns]
    return np.concatenate([corners, corners[:1]])
