"""The procedural skeleton: distances to vertebrae, ribs, pelvis and femora, in mm.

The origin lies between the hip joints; LPS, so x grows to the left, y to the back, z to the head.
Each function takes broadcastable float32 x, y, z and returns the signed distance to the bone,
negative inside.
"""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.shapes import Floats, Point, capsule, cylinder, ellipsoid

#: Height of a vertebra with its disc, mm, from L5 to T1, and the middle of L5.
_PITCH = (35, 35, 34, 33, 32, 29, 28, 27, 26, 25, 25, 24, 24, 23, 22, 21, 20)
_FIRST = 105.0
#: Middles of L5, L4 ... T1, mm.
VERTEBRAE = tuple(_FIRST + sum(_PITCH[:level]) for level in range(len(_PITCH)))
_LUMBAR = 5
SPINE_Y = 38.0  #: middle of the vertebral bodies
_DISC = 4.0  #: half the height of a disc


def nearest_vertebra(z: float) -> int:
    """Return the index into `VERTEBRAE` of the level at height z."""
    return int(np.argmin([abs(z - middle) for middle in VERTEBRAE]))


def vertebral_body(x: Floats, y: Floats, z: Floats, level: int) -> Floats:
    """Return the distance to a vertebral body."""
    size = 1.0 - 0.02 * level
    half = _PITCH[level] / 2 - _DISC / 2
    return cylinder((x, y, z), (0, SPINE_Y, VERTEBRAE[level]), (25 * size, 18 * size), half)


def spinal_canal(x: Floats, y: Floats) -> Floats:
    """Return the distance to the spinal canal, an upright tube behind the bodies."""
    norm = np.hypot(x / 11, (y - SPINE_Y - 27) / 9)
    return np.asarray((norm - 1) * 9, np.float32)


def vertebral_arch(x: Floats, y: Floats, z: Floats, level: int) -> Floats:
    """Return the distance to arch, spinous, transverse and articular processes."""
    middle = VERTEBRAE[level]
    ring = cylinder((x, y, z), (0, SPINE_Y + 25, middle), (17, 15), 10)
    tip: Point = (0, SPINE_Y + 66, middle - (6 if level < _LUMBAR else 18))
    spinous = capsule((x, y, z), ((0, SPINE_Y + 38, middle), tip), 4)
    reach = 38.0 if level < _LUMBAR else 30.0
    processes = [
        capsule((x, y, z), ((12 * s, SPINE_Y + 26, middle), (reach * s, SPINE_Y + 32, middle)), 4.5)
        for s in (-1, 1)
    ]
    facets = [
        ellipsoid((x, y, z), (16 * s, SPINE_Y + 36, middle - 12), (7, 7, 12)) for s in (-1, 1)
    ]
    return _union([ring, spinous, *processes, *facets])


def ribs(
    x: Floats, y: Floats, z: Floats, half_width: float, half_depth: float
) -> list[tuple[int, Floats]]:
    """Return number and distance of the twelve pairs of ribs, on an elliptical chest wall."""
    centre_y = SPINE_Y + 34 - half_depth
    around = np.hypot(x / half_width, (y - centre_y) / half_depth)
    # 0 at the back, pi at the front, the same on both sides.
    angle = np.arctan2(np.abs(x), y - centre_y)
    across = (around - 1) * min(half_width, half_depth)
    distances = []
    for level in range(_LUMBAR, len(VERTEBRAE)):
        rib = len(VERTEBRAE) - level  # 12 is the lowest
        length = {12: 1.1, 11: 1.5}.get(rib, 2.5)
        height = VERTEBRAE[level] - 45 * (1 - np.cos(np.minimum(angle, 2.2)))
        tube = np.hypot(across / 0.62, z - height) - 6.5
        end = (angle - length) * half_depth
        distances.append((rib, np.asarray(np.maximum(tube * 0.62, end), np.float32)))
    return distances


def sternum(x: Floats, y: Floats, z: Floats, front: float) -> Floats:
    """Return the distance to the sternum, whose front lies at y = front."""
    return ellipsoid((x, y, z), (0, front + 10, 420), (19, 6, 85))


def sacrum(x: Floats, y: Floats, z: Floats) -> Floats:
    """Return the distance to sacrum and coccyx."""
    upper = ellipsoid((x, y, z), (0, SPINE_Y + 22, 62), (50, 22, 36))
    lower = ellipsoid((x, y, z), (0, SPINE_Y + 38, 25), (24, 10, 30))
    tail = capsule((x, y, z), ((0, SPINE_Y + 42, 0), (0, SPINE_Y + 32, -25)), 6)
    return _union([upper, lower, tail])


def hip_bone(x: Floats, y: Floats, z: Floats, side: int) -> Floats:
    """Return the distance to the hip bone of a side (+1 left, -1 right)."""
    s = float(side)
    wing_middle: Point = (62 * s, 12, 92)
    wing = np.abs(ellipsoid((x, y, z), wing_middle, (66, 78, 68))) - 5.5
    outer = np.maximum(np.maximum(wing, 30 - z), 82 - s * x)
    pillar = capsule((x, y, z), ((88 * s, 8, 30), (105 * s, 20, 80)), 11)
    joint = ellipsoid((x, y, z), (88 * s, 0, 0), (34, 34, 34))
    socket = np.maximum(np.maximum(joint, -femoral_head(x, y, z, side, gap=3)), s * x - 92)
    tubes: list[tuple[Point, Point, float]] = [
        ((74 * s, -22, 4), (10 * s, -45, -12), 9),  # superior pubic ramus
        ((72 * s, 26, -8), (58 * s, 34, -52), 14),  # ischium
        ((58 * s, 22, -54), (12 * s, -40, -24), 7),  # inferior ramus
        ((78 * s, 45, 60), (70 * s, 20, 14), 10),  # posterior column
    ]
    return _union([outer, pillar, socket, *(capsule((x, y, z), (a, b), r) for a, b, r in tubes)])


def femoral_head(x: Floats, y: Floats, z: Floats, side: int, gap: float = 0.0) -> Floats:
    """Return the distance to the femoral head, enlarged by `gap` mm."""
    return ellipsoid((x, y, z), (90.0 * side, 0, 0), (24 + gap, 24 + gap, 24 + gap))


def femur(x: Floats, y: Floats, z: Floats, side: int) -> Floats:
    """Return the distance to the femur of a side (+1 left, -1 right)."""
    s = float(side)
    neck = capsule((x, y, z), ((90 * s, 0, 0), (128 * s, 8, -32)), 15)
    trochanter = ellipsoid((x, y, z), (143 * s, 14, -22), (15, 18, 24))
    lesser = ellipsoid((x, y, z), (116 * s, 22, -62), (11, 10, 13))
    shaft = capsule((x, y, z), ((130 * s, 10, -45), (100 * s, 0, -420)), 15)
    return _union([femoral_head(x, y, z, side), neck, trochanter, lesser, shaft])


def _union(distances: list[NDArray[np.float32]]) -> Floats:
    return np.asarray(reduce(np.minimum, distances), np.float32)
