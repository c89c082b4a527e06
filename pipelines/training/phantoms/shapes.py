"""Distances to simple shapes, in mm: negative inside, positive outside.

Points are given as three float32 arrays x, y, z that broadcast against each other (LPS).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
Points = tuple[Floats, Floats, Floats]


def ellipsoid(at: Points, centre: Point, radii: Point) -> Floats:
    """Return about the distance to an ellipsoid (exact on its surface)."""
    scaled = [
        (axis - middle) / radius for axis, middle, radius in zip(at, centre, radii, strict=True)
    ]
    norm = np.sqrt(sum(np.square(part) for part in scaled))
    return np.asarray((norm - 1) * min(radii), np.float32)


def capsule(at: Points, ends: tuple[Point, Point], radius: float) -> Floats:
    """Return the distance to a rod with round ends."""
    return cone(at, ends, (radius, radius))


def cylinder(at: Points, centre: Point, radii: tuple[float, float], half: float) -> Floats:
    """Return about the distance to an upright elliptical cylinder of half height `half`."""
    x, y, z = at
    norm = np.hypot((x - centre[0]) / radii[0], (y - centre[1]) / radii[1])
    distance = np.maximum((norm - 1) * min(radii), np.abs(z - centre[2]) - half)
    return np.asarray(distance, np.float32)


def cone(at: Points, ends: tuple[Point, Point], radii: tuple[float, float]) -> Floats:
    """Return about the distance to a rod with round ends that tapers from end to end."""
    x, y, z = at
    start, end = (np.asarray(point, np.float32) for point in ends)
    axis = end - start
    along = (x - start[0]) * axis[0] + (y - start[1]) * axis[1] + (z - start[2]) * axis[2]
    share = np.clip(along / max(float(axis @ axis), 1e-6), 0, 1)
    away = np.sqrt(
        np.square(x - start[0] - share * axis[0])
        + np.square(y - start[1] - share * axis[1])
        + np.square(z - start[2] - share * axis[2])
    )
    return np.asarray(away - (radii[0] + share * (radii[1] - radii[0])), np.float32)
