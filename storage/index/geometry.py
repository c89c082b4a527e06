"""Where the slices of a series lie, from the positions its instances declare: their spacing, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import TypeAlias

#: Numbers of one attribute as JSON has them, or None when the instance lacks it.
Numbers: TypeAlias = Sequence[float | int | str | None] | None

#: Positions closer than this along the normal are one slice, mm.
_SAME_SLICE_MM = 0.01
#: Direction cosines that differ by more are another orientation.
_SAME_DIRECTION = 0.01
#: Share of the step by which a slice may miss its place on a regular grid; the pipelines' door allows the same.
_PLACE_TOLERANCE = 0.1
#: Millimetres by which headers that say tenths miss a place.
_ROUNDING_MM = 0.06
#: Share of a step by which a gap may differ from a whole number of steps before places are counted.
_GAP_TOLERANCE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceGeometry:
    """Slices along their common normal.

    Attributes
    ----------
    orientations
        Different orientations; all that is measured where there are several.
    slices
        Different positions; several instances may share one.
    duplicates
        Instances at a position that another has.
    missing
        Places on the regular grid that have no slice; None where the slices lie on no regular grid.
    gap_mm, irregular_mm
        Median distance of neighbours, and the largest less the smallest, mm; None for one slice.
    """

    orientations: int
    slices: int | None = None
    duplicates: int | None = None
    missing: int | None = None
    gap_mm: float | None = None
    irregular_mm: float | None = None


def measure_slices(geometries: Iterable[tuple[Numbers, Numbers]]) -> SliceGeometry | None:
    """Project Image Position (Patient) on the normal of Image Orientation (Patient), PS3.3 C.7.6.2.1.1.

    Parameters
    ----------
    geometries
        Position (three values, mm, LPS) and orientation (six direction cosines) of each instance.

    Returns
    -------
    SliceGeometry or None
        None when there is no instance, or when one has no geometry.
    """
    directions: list[tuple[float, ...]] = []
    distances: list[float] = []
    for position, orientation in geometries:
        place, direction = _numbers(position, 3), _numbers(orientation, 6)
        if place is None or direction is None:
            return None
        if not any(_is_same(direction, known) for known in directions):
            directions.append(direction)
        normal = _cross(direction[:3], direction[3:])
        distances.append(sum(a * b for a, b in zip(place, normal, strict=True)))
    if not distances:
        return None
    if len(directions) > 1:
        return SliceGeometry(orientations=len(directions))
    distances.sort()
    slices = [distances[0]]
    slices += [b for a, b in pairwise(distances) if b - a > _SAME_SLICE_MM]
    gaps = [b - a for a, b in pairwise(slices)]
    return SliceGeometry(
        orientations=1,
        slices=len(slices),
        duplicates=len(distances) - len(slices),
        missing=_count_missing(slices, gaps),
        # Micrometres are what a scanner writes; more digits would make `slice_gap_mm = 1.5` fail.
        gap_mm=round(median(gaps), 3) if gaps else None,
        irregular_mm=round(max(gaps) - min(gaps), 3) if gaps else None,
    )


def _count_missing(slices: Sequence[float], gaps: Sequence[float]) -> int | None:
    """Places without a slice, on the grid whose step is the usual gap or, where many are missing, the smallest."""
    if not gaps:
        return None
    for step in (median(gaps), min(gaps)):
        steps = [round(gap / step) for gap in gaps]
        if any(
            n < 1 or abs(gap / step - n) > _GAP_TOLERANCE
            for n, gap in zip(steps, gaps, strict=True)
        ):
            continue
        places = [0, *accumulate(steps)]
        exact = (slices[-1] - slices[0]) / places[-1]
        off = [at - slices[0] - n * exact for n, at in zip(places, slices, strict=True)]
        missing = places[-1] + 1 - len(slices)
        # On a grid fine enough every slice has a place: one that is mostly empty is none.
        is_near = max(map(abs, off)) <= _PLACE_TOLERANCE * exact
        is_rounded = max(off) - min(off) <= 2 * _ROUNDING_MM
        if (is_near or is_rounded) and missing <= len(slices):
            return missing
    return None


def _is_same(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= _SAME_DIRECTION for a, b in zip(one, other, strict=True))


def _numbers(values: Numbers, count: int) -> tuple[float, ...] | None:
    if values is None or len(values) != count or None in values:
        return None
    try:
        numbers = tuple(float(value) for value in values if value is not None)
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
