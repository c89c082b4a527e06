"""Finding the rods of a calibration phantom: a block under the patient with rods along the table.

What does not change along the table is seen best in the median of many slices: rods and table stay, the patient
blurs. Rods are round, even, of one size and equally far apart in a row across the table. Rows that could be so are
tried, and the one on which stated densities and Hounsfield units agree best is taken.
"""

from collections.abc import Iterator
from itertools import permutations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.qct_femur.grids import patient_grid, resample

Floats = NDArray[np.float64]

_PIXEL_MM = 1.5
#: Of the patient, above and below the heads, mm.
_LENGTH_MM = 120.0
#: Between neighbouring rods, mm.
_PITCH_MM = (16.0, 80.0)
#: Of a rod within which its density is read, mm: the smallest rods have about 8.
_READ_MM = 3.5
#: Rods differ from what is around them by this, at least where they are found by; HU.
_CONTRAST_HU = 25.0
#: Within a rod, along it and across, HU.
_EVEN_HU = 60.0
#: From the row to the last place that counts as one, mm.
_OFF_ROW_MM = 6.0
_MOST_SPOTS = 24


def read_rods(
    volume: hd.Volume, heads: Floats, densities: tuple[float, ...]
) -> tuple[float, ...] | None:
    """Return the Hounsfield units of a phantom's rods, in the order of their densities; None if there is none.

    Parameters
    ----------
    volume
        HU, axes (slice, row, column) in any orientation.
    heads
        x, y, z of the femoral heads, LPS, mm, shape (n, 3).
    densities
        mg/cm3 of the rods, from the patient's right to the left.
    """
    if heads.size == 0:
        return None
    middle, spread = _along_table(volume, heads)
    spots = _spots(middle, spread)
    best: tuple[float, tuple[float, ...]] | None = None
    stated = np.asarray(densities)
    for row in _rows(spots, len(densities)):
        values = _read(middle, spread, row)
        if values is None:
            continue
        r2 = float(np.corrcoef(stated, values)[0, 1])
        if best is None or r2 > best[0]:
            best = (r2, tuple(float(value) for value in values))
    return None if best is None else best[1]


def _along_table(volume: hd.Volume, heads: Floats) -> tuple[Floats, Floats]:
    """Median and spread (HU) over the slices beside the heads; rows to the back from there, columns to the left."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.spatial_shape) - 1)
    points = np.asarray(volume.map_indices_to_reference(corners))
    lowest, highest = points.min(axis=0), points.max(axis=0)
    lowest[1] = heads[:, 1].mean()
    lowest[2] = max(lowest[2], heads[:, 2].mean() - _LENGTH_MM / 2)
    highest[2] = min(highest[2], heads[:, 2].mean() + _LENGTH_MM / 2)
    x, y, z = (max(2, int(n)) for n in np.ceil((highest - lowest) / _PIXEL_MM))
    part = resample(volume, patient_grid((lowest + highest) / 2, (z, y, x), _PIXEL_MM)).array
    low, middle, high = np.percentile(part[:: max(1, z // 24)], [20, 50, 80], axis=0)
    return middle, high - low


def _spots(middle: Floats, spread: Floats) -> list[tuple[int, int]]:
    """Row and column of what is round, brighter or darker than around, and even along the table."""
    blurred = ndimage.gaussian_filter(middle, 4.0 / _PIXEL_MM)
    contrast = np.abs(ndimage.gaussian_filter(middle, 2.0 / _PIXEL_MM) - _around(middle))
    contrast[(blurred < -300) | (blurred > 1500) | (spread > _EVEN_HU)] = 0
    peaks = contrast == ndimage.maximum_filter(contrast, size=int(10 / _PIXEL_MM) | 1)
    places = np.argwhere(peaks & (contrast > _CONTRAST_HU))
    order = np.argsort([-contrast[row, column] for row, column in places])
    return [(int(places[i][0]), int(places[i][1])) for i in order[:_MOST_SPOTS]]


def _around(middle: Floats) -> Floats:
    """Mean over a ring of 13 to 18 mm."""
    reach = int(np.ceil(18 / _PIXEL_MM))
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    radius = np.hypot(y, x) * _PIXEL_MM
    ring = ((radius >= 13) & (radius <= 18)).astype(float)
    clipped = np.clip(middle, -300, 1500)
    return np.asarray(ndimage.convolve(clipped, ring / ring.sum(), mode="nearest"))


def _rows(spots: list[tuple[int, int]], count: int) -> Iterator[Floats]:
    """Rows of `count` places that pass through two spots: row and column of each, shape (count, 2)."""
    steps = np.arange(count)[:, None]
    for one, two in permutations(spots, 2):
        first, second = np.asarray(one, float), np.asarray(two, float)
        across = second - first
        if across[1] <= 0 or abs(across[0]) * _PIXEL_MM > max(_OFF_ROW_MM, 0.2 * abs(across[1])):
            continue
        for apart in range(1, count):
            pitch = across / apart
            if not _PITCH_MM[0] <= float(np.hypot(*pitch)) * _PIXEL_MM <= _PITCH_MM[1]:
                continue
            for before in range(count - apart):
                yield first + (steps - before) * pitch


def _read(middle: Floats, spread: Floats, row: Floats) -> Floats | None:
    """HU at each place of a row; None where one is outside of the image or not even."""
    reach = int(_READ_MM / _PIXEL_MM)
    values = []
    for place in row:
        i, j = (int(n) for n in np.rint(place))
        if not (reach <= i < middle.shape[0] - reach and reach <= j < middle.shape[1] - reach):
            return None
        window = (slice(i - reach, i + reach + 1), slice(j - reach, j + reach + 1))
        if np.ptp(middle[window]) > 2 * _EVEN_HU or spread[window].max() > 2 * _EVEN_HU:
            return None
        values.append(float(np.median(middle[window])))
    return np.asarray(values) if np.ptp(values) > _CONTRAST_HU else None
