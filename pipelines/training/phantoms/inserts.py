"""Things put into a body that are not in its label map and never are bone."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from pipelines.training.phantoms.tissues import FIRST_BONE, Tissue

Floats = NDArray[np.float32]

_SPARED = (Tissue.AIR, Tissue.LUNG, Tissue.SKIN, Tissue.CANAL, Tissue.METAL)
_LARGE_MM = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """An ellipsoid of one density: a mass, a vessel cut across, a calcification, a clip."""

    centre: tuple[float, float, float]  #: x, y, z in mm, LPS
    radii: tuple[float, float, float]  #: mm
    hounsfield: float


def draw_inserts(
    rng: np.random.Generator, geometry: hd.VolumeGeometry, *, enhanced: bool
) -> tuple[Insert, ...]:
    """Draw masses, vessels, calcifications and clips for a region of the body."""
    kinds: list[tuple[int, tuple[float, float], tuple[float, float]]] = []
    if rng.random() < 0.15:
        kinds.append((1, (20, 75), (-10, 70)))  # mass, cyst
    if enhanced and rng.random() < 0.7:
        kinds.append((int(rng.integers(2, 12)), (2, 6), (90, 350)))  # vessels
    if rng.random() < 0.4:
        kinds.append((int(rng.integers(1, 10)), (0.7, 3.5), (200, 1300)))  # calcifications
    if rng.random() < 0.1:
        kinds.append((int(rng.integers(1, 5)), (0.7, 4), (1500, 3000)))  # clips
    return tuple(
        _draw_insert(rng, geometry, size, hounsfield)
        for count, size, hounsfield in kinds
        for _ in range(count)
    )


def paint_inserts(
    image: Floats,
    tissues: NDArray[np.uint8],
    inserts: tuple[Insert, ...],
    origin: Floats,
    pixel: float,
) -> None:
    """Paint what the slice cuts of each insert over soft tissue, in place.

    Parameters
    ----------
    image
        float32, shape (rows, columns), HU.
    tissues
        `Tissue` codes, same shape. Bone, lung, skin and air are left alone.
    inserts
        What to paint.
    origin
        x, y, z of the first pixel's centre, mm.
    pixel
        Pixel spacing, mm.
    """
    rows, columns = image.shape
    for insert in inserts:
        (cx, cy, cz), (rx, ry, rz) = insert.centre, insert.radii
        height = 1 - ((origin[2] - cz) / rz) ** 2
        if height <= 0:
            continue
        x = origin[0] + np.arange(columns) * pixel - cx
        y = origin[1] + np.arange(rows) * pixel - cy
        at_x, at_y = np.flatnonzero(np.abs(x) < rx), np.flatnonzero(np.abs(y) < ry)
        if at_x.size == 0 or at_y.size == 0:
            continue
        window = (slice(at_y[0], at_y[-1] + 1), slice(at_x[0], at_x[-1] + 1))
        inside = (x[at_x] / rx)[None, :] ** 2 + (y[at_y] / ry)[:, None] ** 2 < height
        here = tissues[window]
        spared = (here >= FIRST_BONE) | np.isin(here, _SPARED)
        if min(insert.radii) > _LARGE_MM:  # a mass pushes muscle aside
            spared |= here == Tissue.MUSCLE
        image[window][inside & ~spared] = insert.hounsfield


def _draw_insert(
    rng: np.random.Generator,
    geometry: hd.VolumeGeometry,
    size: tuple[float, float],
    hounsfield: tuple[float, float],
) -> Insert:
    shape = np.asarray(geometry.spatial_shape) - 1
    place = rng.uniform(0.25, 0.75, 3) * shape
    place[0] = rng.uniform(0, 1) * shape[0]
    x, y, z = (geometry.affine @ (*place, 1))[:3]
    radius = rng.uniform(*size)
    rx, ry, rz = radius * rng.uniform(0.7, 1.4, 3)
    return Insert(
        centre=(float(x), float(y), float(z)),
        radii=(float(rx), float(ry), float(rz * rng.uniform(1, 4))),
        hounsfield=float(rng.uniform(*hounsfield)),
    )
