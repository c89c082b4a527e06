"""Planes in space -> one regular grid, or the reason why there is none (PS3.3 C.7.6.2).

A network sees an array; a result is true only if the array is the patient. So a series whose planes do not lie on
a regular, unsheared grid is refused here by name, and never resampled in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipelines.errors import InputError, shown

#: Difference of direction cosines up to which planes are parallel (0.06 degrees).
ORIENTATION_TOLERANCE = 1e-3
#: Share of the slice spacing by which a plane may miss its place on the regular grid: headers round to 0.1 mm.
PLACE_TOLERANCE = 0.1
#: Pixels by which a plane may be shifted within itself against the normal through the first plane.
SHIFT_TOLERANCE = 0.25
#: Relative difference of Pixel Spacing.
SPACING_TOLERANCE = 1e-3
#: Millimetres apart at which two planes are the same plane.
SAME_PLACE_MM = 0.01

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the planes lie.

    Attributes
    ----------
    order
        Indices of the given data sets by increasing position along the normal (row cosines x column cosines).
    affine
        Shape (4, 4), float64: indices (slice, row, column) of the ordered planes -> LPS mm.
    """

    order: tuple[int, ...]
    affine: Vectors


def fit_grid(datasets: Sequence[Dataset]) -> Grid:
    """Find the regular grid of single-frame images of one series.

    Parameters
    ----------
    datasets
        At least two, in any order, with Rows, Columns and the Image Plane module.

    Raises
    ------
    InputError
        `input-no-geometry`, `input-mixed-orientation`, `input-mixed-spacing`, `input-duplicate-positions`,
        `input-gantry-tilt`, `input-shifted-slices`, `input-missing-slices` or `input-irregular-spacing`, naming the
        instance.
    """
    orientations = np.array([_orientation(ds) for ds in datasets])
    spacings = np.array([_pixel_spacing(ds) for ds in datasets])
    positions = np.array([decimals(ds, "ImagePositionPatient", 3) for ds in datasets])
    _demand_equal(datasets, orientations, spacings)

    normal = np.cross(orientations[0, :3], orientations[0, 3:])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    uids = [str(datasets[index].SOPInstanceUID) for index in order]
    _demand_distinct(uids, along[order])
    _demand_upright(uids, positions[order], normal, float(spacings[0].min()))
    _demand_regular(uids, along[order])

    step = (along[order[-1]] - along[order[0]]) / (len(order) - 1)
    affine = np.eye(4)
    first = order[0]
    row_cosines, column_cosines = orientations[first, :3], orientations[first, 3:]
    affine[:3, 0] = np.cross(row_cosines, column_cosines) * step
    # PS3.3 10.7.1.3: the first value of Pixel Spacing is between rows, so along the column direction.
    affine[:3, 1] = column_cosines * spacings[first, 0]
    affine[:3, 2] = row_cosines * spacings[first, 1]
    affine[:3, 3] = positions[first]
    return Grid(order=tuple(int(index) for index in order), affine=affine)


def decimals(ds: Dataset, keyword: str, count: int) -> Vectors:
    """`count` finite numbers of an attribute; InputError `input-no-geometry` names instance and tag."""
    try:
        values = np.array(ds[keyword].value, dtype=np.float64).ravel()
    except (KeyError, TypeError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)} has no usable {keyword}: it cannot be placed in space.",
            code="input-no-geometry",
        )
    return values


def _orientation(ds: Dataset) -> Vectors:
    """Row and column cosines, made orthonormal; shape (6,)."""
    values = decimals(ds, "ImageOrientationPatient", 6)
    row, column = values[:3], values[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column), 1 + abs(row @ column)])
    # PS3.3 C.7.6.2.1.1: "The row and column direction cosine vectors shall be orthogonal ... and normal".
    if np.abs(lengths - 1).max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: ImageOrientationPatient is not a pair of "
            "perpendicular unit vectors.",
            code="input-no-geometry",
        )
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    return np.concatenate([row, column / np.linalg.norm(column)])


def _pixel_spacing(ds: Dataset) -> Vectors:
    values = decimals(ds, "PixelSpacing", 2)
    if (values <= 0).any():
        raise InputError(
            f"Instance {shown(ds.SOPInstanceUID)}: PixelSpacing is not positive.",
            code="input-no-geometry",
        )
    return values


def _demand_equal(datasets: Sequence[Dataset], orientations: Vectors, spacings: Vectors) -> None:
    turned = np.abs(orientations - orientations[0]).max(axis=1)
    if turned.max() > ORIENTATION_TOLERANCE:
        raise InputError(
            f"Instance {shown(datasets[int(turned.argmax())].SOPInstanceUID)} is not parallel to instance "
            f"{shown(datasets[0].SOPInstanceUID)} (ImageOrientationPatient): this is no stack of slices.",
            code="input-mixed-orientation",
        )
    scaled = np.abs(spacings / spacings[0] - 1).max(axis=1)
    if scaled.max() > SPACING_TOLERANCE:
        raise InputError(
            f"Instance {shown(datasets[int(scaled.argmax())].SOPInstanceUID)} has another PixelSpacing than instance "
            f"{shown(datasets[0].SOPInstanceUID)}.",
            code="input-mixed-spacing",
        )


def _demand_distinct(uids: Sequence[str], along: Vectors) -> None:
    gaps = np.diff(along)
    nearest = int(gaps.argmin())
    if gaps[nearest] < SAME_PLACE_MM:
        raise InputError(
            f"Instances {uids[nearest]} and {uids[nearest + 1]} lie at the same position: several acquisitions in "
            f"one series, or a time series ({int((gaps < SAME_PLACE_MM).sum())} such pairs).",
            code="input-duplicate-positions",
        )


def _demand_upright(uids: Sequence[str], positions: Vectors, normal: Vectors, pixel: float) -> None:
    """The planes must follow each other along their normal, else the grid is sheared."""
    offsets = positions - positions[0]
    along = offsets @ normal
    shifts = offsets - np.outer(along, normal)
    worst = int(np.linalg.norm(shifts, axis=1).argmax())
    shift = float(np.linalg.norm(shifts[worst]))
    if shift <= SHIFT_TOLERANCE * pixel:
        return
    slope = (along @ shifts) / (along @ along)
    rest = np.linalg.norm(shifts - np.outer(along, slope), axis=1).max()
    if rest <= SHIFT_TOLERANCE * pixel:
        tilt = np.degrees(np.arctan(np.linalg.norm(slope)))
        raise InputError(
            f"The slices are not stacked along their normal but {tilt:.1f} degrees off it (gantry tilt): the volume "
            "is sheared; send a reconstruction without tilt.",
            code="input-gantry-tilt",
        )
    raise InputError(
        f"Instance {uids[worst]} is shifted {shift:.2f} mm within its plane (ImagePositionPatient): the slices do "
        "not lie on top of each other.",
        code="input-shifted-slices",
    )


def _demand_regular(uids: Sequence[str], along: Vectors) -> None:
    count = len(along)
    step = (along[-1] - along[0]) / (count - 1)
    misses = np.abs(along - (along[0] + step * np.arange(count)))
    if misses.max() <= PLACE_TOLERANCE * step:
        return
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    widest = int(gaps.argmax())
    between = f"between instances {uids[widest]} and {uids[widest + 1]}"
    multiple = gaps / usual
    whole = np.abs(multiple - np.rint(multiple)) <= PLACE_TOLERANCE
    if whole.all() and multiple.max() > 1.5:
        raise InputError(
            f"{int(np.rint(multiple - 1).sum())} slice(s) are missing, the widest gap ({gaps[widest]:.2f} mm instead "
            f"of {usual:.2f} mm) {between}.",
            code="input-missing-slices",
        )
    raise InputError(
        f"Slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart, the widest gap {between}; a slice may miss its "
        f"place on a regular grid by {PLACE_TOLERANCE:.0%} of the spacing.",
        code="input-irregular-spacing",
    )
