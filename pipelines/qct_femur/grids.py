"""Grids in the patient's own axes, and volumes resampled onto them and back."""

from typing import Any, TypeAlias

import highdicom as hd
import numpy as np
import SimpleITK
from numpy.typing import NDArray

# SimpleITK ships no types.
_sitk: Any = SimpleITK

Floats = NDArray[np.float32]
#: Indices of slices, rows and columns.
Window: TypeAlias = tuple[slice, slice, slice]

AIR_HU = -1000


def patient_grid(
    centre: NDArray[np.float64], shape: tuple[int, int, int], spacing: float, *, side: int = 1
) -> hd.VolumeGeometry:
    """Return an isotropic grid along the patient's axes.

    Parameters
    ----------
    centre
        x, y, z of its middle, LPS, mm.
    shape
        Slices to the head, rows to the back, columns to the left.
    spacing
        mm.
    side
        -1: columns run to the right instead, so that a right femur looks like a left one.
    """
    return hd.VolumeGeometry.from_components(
        shape,
        spacing=[spacing] * 3,
        coordinate_system="PATIENT",
        center_position=[float(value) for value in centre],
        patient_orientation="HPL" if side > 0 else "HPR",
    )


def covering_grid(volume: hd.Volume, spacing: float) -> hd.VolumeGeometry:
    """Return the smallest `patient_grid` of a spacing (mm) that holds all of a volume of any orientation."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.spatial_shape) - 1)
    points = np.asarray(volume.map_indices_to_reference(corners))
    lowest, highest = points.min(axis=0), points.max(axis=0)
    x, y, z = (int(n) for n in np.ceil((highest - lowest) / spacing) + 1)
    return patient_grid((lowest + highest) / 2, (z, y, x), spacing)


def resample(
    volume: hd.Volume, geometry: hd.VolumeGeometry, *, outside: float = AIR_HU
) -> hd.Volume:
    """Resample linearly onto a grid; what is much finer than the grid is averaged before.

    Parameters
    ----------
    volume
        Any orientation; numbers of any type.
    geometry
        Where to; axes (slice, row, column).
    outside
        Value beyond the volume.

    Returns
    -------
    highdicom.Volume
        float32, on that grid.
    """
    near = _crop_to(volume, geometry)
    if near is None:
        empty = np.full(geometry.spatial_shape, outside, np.float32)
        return _on(geometry, empty)
    made = _sitk.Resample(
        _image(_averaged(near, float(min(geometry.spacing)))),
        _image(_on(geometry, np.zeros(geometry.spatial_shape, np.uint8))),
        _sitk.Transform(),
        _sitk.sitkLinear,
        outside,
        _sitk.sitkFloat32,
    )
    return _on(geometry, _sitk.GetArrayFromImage(made))


def crop(volume: hd.Volume, window: tuple[slice, ...]) -> hd.Volume:
    """Return the part of a volume that a window cuts out, with its place in space."""
    # highdicom's annotation of an index allows one axis only.
    index: Any = window
    cut: hd.Volume = volume[index]
    return cut


def window_of(volume: hd.Volume, geometry: hd.VolumeGeometry) -> Window | None:
    """Return the indices of a volume that a grid reaches, with a margin of two voxels; None if there are none."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(geometry.spatial_shape) - 1)
    points = geometry.map_indices_to_reference(corners)
    at = np.asarray(volume.map_reference_to_indices(points))
    margin = 2 + np.ceil(max(geometry.spacing) / np.asarray(volume.spacing))
    first = np.maximum(0, np.floor(at.min(axis=0) - margin)).astype(int)
    last = np.minimum(volume.spatial_shape, np.ceil(at.max(axis=0) + margin) + 1).astype(int)
    if (last - first < 1).any():
        return None
    z, y, x = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return z, y, x


def _crop_to(volume: hd.Volume, geometry: hd.VolumeGeometry) -> hd.Volume | None:
    window = window_of(volume, geometry)
    return None if window is None else crop(volume, window)


def _averaged(volume: hd.Volume, spacing: float) -> hd.Volume:
    """Average blocks of voxels where some fit into one of the grid; the borders may lose less than one block."""
    factors = [max(1, int(spacing / own + 0.1)) for own in volume.spacing]
    factors = [min(f, n) for f, n in zip(factors, volume.spatial_shape, strict=True)]
    array = volume.array
    if max(factors) == 1:
        return volume.with_array(array.astype(np.float32))
    for axis, factor in enumerate(factors):
        if factor > 1:
            size = array.shape[axis] // factor * factor
            whole = array.take(range(size), axis=axis) if size < array.shape[axis] else array
            split = (*whole.shape[:axis], size // factor, factor, *whole.shape[axis + 1 :])
            array = whole.reshape(split).mean(axis=axis + 1, dtype=np.float32)
    affine = np.array(volume.affine)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return hd.Volume(array=array.astype(np.float32), affine=affine, coordinate_system="PATIENT")


def _on(geometry: hd.VolumeGeometry, array: NDArray[Any]) -> hd.Volume:
    return hd.Volume(array=array, affine=geometry.affine, coordinate_system="PATIENT")


def _image(volume: hd.Volume) -> Any:
    """The same as a SimpleITK image, whose axes run column, row, slice."""
    image = _sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    axes = np.asarray(volume.unit_vectors()).T[:, ::-1]
    image.SetSpacing([float(value) for value in volume.spacing[::-1]])
    image.SetOrigin([float(value) for value in volume.affine[:3, 3]])
    image.SetDirection([float(value) for value in axes.ravel()])
    return image
