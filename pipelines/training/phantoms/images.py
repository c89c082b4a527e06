"""From arrays to SimpleITK images and highdicom volumes, on one isotropic lattice."""

from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK
from numpy.typing import NDArray

# SimpleITK ships no types.
_sitk: Any = SimpleITK

NEAREST: int = _sitk.sitkNearestNeighbor
LINEAR: int = _sitk.sitkLinear

#: What lies beyond an image of signed bytes: as far outside as they can say.
FAR_OUTSIDE = -127


def image_like(array: NDArray[Any], grid: Any) -> Any:
    """Return an array, axes (slice, row, column), as an image on the grid of another."""
    made = _sitk.GetImageFromArray(array)
    made.CopyInformation(grid)
    return made


def resampled(image: Any, interpolator: int, spacing: float) -> Any:
    """Return an image with isotropic voxels (mm) that begins at the same point."""
    size, now = np.asarray(image.GetSize()), np.asarray(image.GetSpacing())
    if np.allclose(now, spacing):
        return image
    return _sitk.Resample(
        image,
        [int(n) for n in np.ceil(size * now / spacing)],
        _sitk.Transform(),
        interpolator,
        image.GetOrigin(),
        [spacing] * 3,
        image.GetDirection(),
        FAR_OUTSIDE if image.GetPixelID() == _sitk.sitkInt8 else 0,
    )


def to_volume(image: Any) -> hd.Volume:
    """Return an image as a volume, axes (slice, row, column)."""
    volume = hd.Volume.from_simpleitk(image, coordinate_system="PATIENT")
    volume = volume.permute_spatial_axes([2, 1, 0])
    return volume.with_array(np.ascontiguousarray(volume.array))
