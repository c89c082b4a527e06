"""One grid for both images: slices of one of them, pixels of the network; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from pipelines.inference.grid import put_back, resample

Floats = NDArray[np.float32]

#: Pixels the networks were trained with, mm: half of a usual SPECT voxel.
PIXEL_MM = 2.2
#: Slices closer than the first or farther apart than the second are resampled to the one between, mm.
_NEAREST_MM, SLICE_MM, _FARTHEST_MM = 3.0, 4.4, 6.5
#: Slices run to the feet, rows to the back, columns to the left.
UPRIGHT = "FPL"
AIR_HU = -1000.0


def to_network(reference: hd.Volume) -> hd.Volume:
    """Return an image on the network's grid.

    Parameters
    ----------
    reference
        Axes (slice, row, column) in any orientation, affine LPS in mm.

    Returns
    -------
    highdicom.Volume
        float32; slices run to the feet, rows to the back, columns to the left, as nearly as the image's own axes do;
        `PIXEL_MM` apart in the plane.
    """
    upright = reference.to_patient_orientation(UPRIGHT)
    own = float(upright.spacing[0])
    apart = own if _NEAREST_MM <= own <= _FARTHEST_MM else SLICE_MM
    return resample(upright, (apart, PIXEL_MM, PIXEL_MM))


def onto(grid: hd.VolumeGeometry | hd.Volume, partner: hd.Volume, outside: float) -> hd.Volume:
    """Return another image of the same patient on a grid, by geometry; `outside` is what lies beyond it.

    Parameters
    ----------
    grid
        Where to.
    partner
        Axes (slice, row, column) in any orientation, affine LPS in mm, the same frame of reference.
    outside
        Value beyond the partner.

    Returns
    -------
    highdicom.Volume
        float32, linear; what is finer than the grid is smoothed before.
    """
    upright = partner.to_patient_orientation(UPRIGHT)
    coarse = [
        max(float(own), float(wanted))
        for own, wanted in zip(upright.spacing, grid.spacing, strict=True)
    ]
    near = resample(upright, coarse)
    to_partner = np.linalg.inv(near.affine) @ grid.affine
    array = ndimage.affine_transform(
        near.array,
        to_partner[:3, :3],
        offset=to_partner[:3, 3],
        output_shape=tuple(grid.spatial_shape),
        order=1,
        mode="constant",
        cval=outside,
    )
    return hd.Volume(array=array, affine=grid.affine, coordinate_system="PATIENT")


def overlap_share(reference: hd.Volume, partner: hd.Volume) -> float:
    """Return the share of an image's voxels that lie within another one; every fourth is asked, edges included."""
    lines = [np.unique(np.r_[0:length:4, length - 1]) for length in reference.spatial_shape]
    indices = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.asarray(reference.map_indices_to_reference(indices))
    at = np.asarray(partner.map_reference_to_indices(points))
    inside = ((at > -0.51) & (at < np.asarray(partner.spatial_shape) - 0.49)).all(axis=1)
    return float(inside.mean())


def to_source(
    found: hd.Volume, source: hd.Volume, threshold: float, lesions: hd.Volume
) -> hd.Volume:
    """Bring numbered lesions from the network's grid back to the image they were found in.

    Parameters
    ----------
    found
        float32, how likely each voxel is of a lesion, on the network's grid.
    source
        The image that `to_network` got.
    threshold
        Of `found`, interpolated linearly.
    lesions
        Numbers of lesions on the network's grid, 0 none.

    Returns
    -------
    highdicom.Volume
        Numbers on the grid of `source`, uint8 or uint16 as there are.
    """
    upright = source.to_patient_orientation(UPRIGHT)
    shape = upright.spatial_shape
    inside = _enlarge(found.array, shape) >= threshold
    # A voxel that is partly of a lesion takes the number of the one beside it.
    numbers = np.where(
        lesions.array > 0, lesions.array, ndimage.grey_dilation(lesions.array, (3, 3, 3))
    )
    picked = [
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(shape, numbers.shape, strict=True)
    ]
    labels = np.where(inside, numbers[np.ix_(*picked)], 0).astype(lesions.array.dtype)
    return put_back(upright.with_array(labels), source)


def score_on_source(score: hd.Volume, source: hd.Volume) -> hd.Volume:
    """Return a score (float32) of the network's grid on that of the image that `to_network` got, linearly."""
    upright = source.to_patient_orientation(UPRIGHT)
    scored = upright.with_array(_enlarge(score.array, upright.spatial_shape))
    return put_back(scored, source)


def _enlarge(array: NDArray[Any], shape: Sequence[int]) -> Floats:
    """Interpolate linearly to another number of voxels; edges stay."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
    made: Floats = functional.interpolate(
        tensor, tuple(int(n) for n in shape), mode="trilinear", align_corners=False
    )[0, 0].numpy()
    return made
