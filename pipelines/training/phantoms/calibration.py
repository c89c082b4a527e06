"""A density calibration phantom: rods of known mineral in a block under the patient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Mineral of the rods, mg hydroxyapatite per cm3, from the patient's right to left.
RODS_MG = (0.0, 50.0, 100.0, 200.0, 400.0)
BLOCK_MM = (130.0, 28.0)  #: half width and height of the block
ROD_RADIUS_MM = 9.0
ROD_SPACING_MM = 48.0
BLOCK_HU = -20.0  #: water-like plastic, darker than the rod without mineral


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRod:
    """One rod, parallel to the table."""

    x: float  #: LPS, mm
    y: float
    radius: float  #: mm
    density: float  #: mg hydroxyapatite per cm3


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The rods in an image and what is true of it: HU = slope x density + intercept."""

    rods: tuple[CalibrationRod, ...]
    slope: float  #: HU per mg/cm3
    intercept: float  #: HU


def place_calibration(x: float, top: float, slope: float, intercept: float) -> Calibration:
    """Return the phantom of which the block's top is at a height.

    Parameters
    ----------
    x
        Middle of the block, LPS, mm.
    top
        Its upper surface, on which the patient lies; LPS, mm.
    slope, intercept
        What the scanner makes of a density: HU per mg/cm3, and HU.
    """
    first = x - ROD_SPACING_MM * (len(RODS_MG) - 1) / 2
    rods = tuple(
        CalibrationRod(
            x=first + ROD_SPACING_MM * number,
            y=top + BLOCK_MM[1] / 2,
            radius=ROD_RADIUS_MM,
            density=density,
        )
        for number, density in enumerate(RODS_MG)
    )
    return Calibration(rods=rods, slope=slope, intercept=intercept)


def paint_calibration(image: Floats, calibration: Calibration, x: Floats, y: Floats) -> None:
    """Paint block and rods over a plane, in place.

    Parameters
    ----------
    image
        HU, shape (rows, columns).
    calibration
        Where the rods are.
    x
        Of the columns, LPS, mm, shape (columns,).
    y
        Of the rows, LPS, mm, shape (rows,).
    """
    pixel = float(abs(x[1] - x[0]))
    middle = calibration.rods[len(calibration.rods) // 2]
    outside = np.maximum(
        np.abs(x[None, :] - middle.x) - BLOCK_MM[0], np.abs(y[:, None] - middle.y) - BLOCK_MM[1] / 2
    )
    share = np.clip(0.5 - outside / pixel, 0, 1)
    image += share * (BLOCK_HU - image)
    for rod in calibration.rods:
        away = np.hypot(x[None, :] - rod.x, y[:, None] - rod.y) - rod.radius
        share = np.clip(0.5 - away / pixel, 0, 1)
        hounsfield = calibration.slope * rod.density + calibration.intercept
        image += share * (hounsfield - image)
