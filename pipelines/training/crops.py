"""Random training crops of whole labelled studies."""

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.training.case import Case

#: How often a crop lies near a labelled voxel, and not anywhere.
LABELLED_SHARE = 0.8
#: Slices run to the feet, rows to the back, columns to the left.
UPRIGHT = "FPL"

Floats = NDArray[np.float32]


def slice_crop(case: Case, rng: np.random.Generator, *, pixel_spacing: float, size: int) -> Case:
    """Return a square piece of a random slice, resampled in the plane.

    Parameters
    ----------
    case
        Axial, in any row and column order.
    rng
        Source of chance.
    pixel_spacing
        Of the crop, mm (as near as whole pixels allow).
    size
        Rows and columns of the crop. What lies outside of the slice has its lowest value and no label.

    Returns
    -------
    Case
        float32 image and uint8 labels of shape (1, size, size), front up and right on the left.
    """
    image, labels = (volume.to_patient_orientation(UPRIGHT) for volume in (case.image, case.labels))
    near = rng.random() < LABELLED_SHARE
    index = _draw_slice(labels.array, rng, near=near)
    plane, truth = (
        np.ascontiguousarray(volume.array[index], np.float32) for volume in (image, labels)
    )
    grid = np.array(
        [
            max(1, round(length * float(spacing) / pixel_spacing))
            for length, spacing in zip(plane.shape, image.spacing[1:], strict=True)
        ]
    )
    fine, coded = _resample(plane, grid, "bilinear"), _resample(truth, grid, "nearest-exact")
    first = _draw_corner(coded, size, rng, near=near)
    affine = _affine(image.affine, index, first, np.array(plane.shape) / grid)
    return Case(
        name=case.name,
        image=_volume(_cut(fine, first, size, float(plane.min())), affine),
        labels=_volume(_cut(coded, first, size, 0).astype(np.uint8), affine),
        group=case.group,
    )


def _draw_slice(labels: NDArray[np.uint8], rng: np.random.Generator, *, near: bool) -> int:
    labelled = np.flatnonzero(labels.any(axis=(1, 2))) if near else np.empty(0, int)
    return int(rng.choice(labelled)) if labelled.size else int(rng.integers(labels.shape[0]))


def _draw_corner(
    labels: Floats, size: int, rng: np.random.Generator, *, near: bool
) -> NDArray[np.int64]:
    """First row and column of the crop; negative where it begins outside."""
    points = np.argwhere(labels) if near else np.empty((0, 2))
    if points.size:
        centre = points[rng.integers(len(points))] + rng.normal(0, size / 8, 2)
    else:
        centre = rng.uniform(0, labels.shape)
    corner: NDArray[np.int64] = np.round(centre - size / 2).astype(np.int64)
    return corner


def _resample(plane: Floats, grid: NDArray[np.int64], mode: str) -> Floats:
    smooth = {"antialias": True, "align_corners": False} if mode == "bilinear" else {}
    tensor = torch.from_numpy(plane)[None, None]
    size = (int(grid[0]), int(grid[1]))
    resampled: Floats = functional.interpolate(tensor, size, mode=mode, **smooth)[0, 0].numpy()
    return resampled


def _cut(plane: Floats, first: NDArray[np.int64], size: int, outside: float) -> Floats:
    cut = np.full((size, size), outside, np.float32)
    start, stop = np.maximum(first, 0), np.minimum(first + size, plane.shape)
    if (stop > start).all():
        into = tuple(slice(a, b) for a, b in zip(start - first, stop - first, strict=True))
        cut[into] = plane[start[0] : stop[0], start[1] : stop[1]]
    return cut


def _affine(
    affine: NDArray[np.float64], index: int, first: NDArray[np.int64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the crop lies; `scale` is source pixels per pixel of the resampled plane."""
    moved = affine.copy()
    moved[:3, 1:3] *= scale
    # Pixels are areas: the centre of the first new one is not that of the first old one.
    corner = (first + 0.5) * scale - 0.5
    moved[:3, 3] = (affine @ (index, *corner, 1.0))[:3]
    return moved


def _volume(plane: Floats, affine: NDArray[np.float64]) -> hd.Volume:
    return hd.Volume(array=plane[None], affine=affine, coordinate_system="PATIENT")
