"""Smooth random fields: what makes two bodies, and two places in one body, differ."""

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]

#: A field is evaluated on every STRIDE-th pixel and interpolated: it is smooth.
STRIDE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothField:
    """A periodic random field of zero mean and unit variance."""

    nodes: Floats  #: shape (n, n, n), values on a regular lattice
    spacing: float  #: of the nodes, mm: the field's correlation length


def draw_field(rng: np.random.Generator, spacing: float, size: int = 24) -> SmoothField:
    """Draw a field of the given correlation length (mm)."""
    nodes = ndimage.gaussian_filter(rng.standard_normal((size, size, size)), 0.7, mode="wrap")
    return SmoothField(nodes=(nodes / nodes.std()).astype(np.float32), spacing=spacing)


def evaluate(field: SmoothField, points: Floats) -> Floats:
    """Evaluate a field at points.

    Parameters
    ----------
    field
        The field.
    points
        float32, shape (..., 3), mm.

    Returns
    -------
    numpy.ndarray
        float32, shape (...).
    """
    at = np.moveaxis(points / field.spacing, -1, 0)
    return ndimage.map_coordinates(field.nodes, at, order=1, mode="grid-wrap", output=np.float32)


def coarse_indices(length: int) -> Floats:
    """Return the pixel indices at which a smooth field is evaluated, ends included."""
    return np.linspace(0, length - 1, max(2, -(-length // STRIDE) + 1), dtype=np.float32)


def coarse_points(geometry: hd.VolumeGeometry, index: float) -> Floats:
    """Return the points of a (fractional) slice at which smooth fields are evaluated.

    Returns
    -------
    numpy.ndarray
        float32, shape (coarse rows, coarse columns, 3), LPS, mm.
    """
    rows, columns = (coarse_indices(n) for n in geometry.spatial_shape[1:])
    grid = np.stack(
        np.broadcast_arrays(np.float32(index), rows[:, None], columns[None, :]), axis=-1
    )
    return np.asarray(grid @ geometry.affine[:3, :3].T + geometry.affine[:3, 3], np.float32)


def upsample(coarse: Floats, rows: int, columns: int) -> Floats:
    """Interpolate linearly from `coarse_indices` to every pixel.

    Parameters
    ----------
    coarse
        float32, shape (coarse rows, coarse columns, ...).
    rows, columns
        Size of the result.

    Returns
    -------
    numpy.ndarray
        float32, shape (rows, columns, ...).
    """
    along_rows = np.tensordot(_spread(coarse.shape[0], rows), coarse, axes=(1, 0))
    both = np.tensordot(_spread(coarse.shape[1], columns), along_rows, axes=(1, 1))
    return np.ascontiguousarray(both.swapaxes(0, 1), dtype=np.float32)


def interpolate(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """Interpolate a plane linearly at fractional indices; beyond its edge it goes on unchanged.

    Returns
    -------
    numpy.ndarray
        float32, shape (rows.size, columns.size).
    """
    return np.asarray(_weights(rows, image.shape[0]) @ image @ _weights(columns, image.shape[1]).T)


def _spread(coarse: int, fine: int) -> Floats:
    return _weights(np.linspace(0, coarse - 1, fine), coarse)


def _weights(at: NDArray[np.floating], nodes: int) -> Floats:
    inside = np.clip(at, 0, nodes - 1)
    made = np.clip(1 - np.abs(inside[:, None] - np.arange(nodes)[None, :]), 0, 1)
    return np.asarray(made, np.float32)
