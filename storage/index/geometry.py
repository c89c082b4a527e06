"""Slice spacing of a series, from the positions its instances declare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TypeAlias

#: Numbers of one attribute as JSON has them, or None when the instance lacks it.
Numbers: TypeAlias = Sequence[float | int | str | None] | None

#: Positions closer than this along the normal are one slice, mm.
_SAME_SLICE_MM = 0.01
#: Direction cosines that differ by more are another orientation.
_SAME_DIRECTION = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceGeometry:
    """Distances between neighbouring slices along their common normal, mm.

    Attributes
    ----------
    slices
        Different positions; several instances may share one.
    gap_mm, irregular_mm
        Median distance of neighbours, and the largest less the smallest; None for one slice.
    """

    slices: int
    gap_mm: float | None
    irregular_mm: float | None


def measure_slices(geometries: Iterable[tuple[Numbers, Numbers]]) -> SliceGeometry | None:
    """Project Image Position (Patient) on the normal of Image Orientation (Patient), PS3.3 C.7.6.2.1.1.

    Parameters
    ----------
    geometries
        Position (three values, mm, LPS) and orientation (six direction cosines) of each instance.

    Returns
    -------
    SliceGeometry or None
        None when an instance has no geometry, or when orientations differ: such a series has no slice spacing.
    """
    first: tuple[float, ...] | None = None
    distances: list[float] = []
    for position, orientation in geometries:
        place, direction = _numbers(position, 3), _numbers(orientation, 6)
        if place is None or direction is None:
            return None
        first = first or direction
        if any(abs(a - b) > _SAME_DIRECTION for a, b in zip(first, direction, strict=True)):
            return None
        normal = _cross(first[:3], first[3:])
        distances.append(sum(a * b for a, b in zip(place, normal, strict=True)))
    if not distances:
        return None
    distances.sort()
    slices = [distances[0]]
    slices += [b for a, b in pairwise(distances) if b - a > _SAME_SLICE_MM]
    gaps = [b - a for a, b in pairwise(slices)]
    if not gaps:
        return SliceGeometry(slices=1, gap_mm=None, irregular_mm=None)
    # Micrometres are what a scanner writes; more digits would make `slice_gap_mm = 1.5` fail.
    return SliceGeometry(
        slices=len(slices),
        gap_mm=round(median(gaps), 3),
        irregular_mm=round(max(gaps) - min(gaps), 3),
    )


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
