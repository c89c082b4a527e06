"""How deep every point of a body lies under the surface of its bones, and under its skin."""

import re
from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import Box, bounding_box
from pipelines.training.phantoms.images import (
    FAR_OUTSIDE,
    NEAREST,
    image_like,
    resampled,
    to_volume,
)
from pipelines.training.phantoms.labels import LabelMap
from pipelines.training.phantoms.tissues import Tissue

# SimpleITK ships no types.
_sitk: Any = SimpleITK
Mask = NDArray[np.bool_]

#: Millimetres per unit of depth under the surface of a bone.
DEPTH_UNIT = 0.1
_SMOOTH_MM = 0.9
#: Further from bone than this all depths are `FAR_OUTSIDE`: what they can say, and the smoothing.
_REACH_MM = -FAR_OUTSIDE * DEPTH_UNIT + 8 * _SMOOTH_MM
_SKIN_SPACING = 3.0
_SKIN_MM = 1.5  # by which the surface lies outside of the outermost voxels' centres
_ARM = r"(humerus|radius|ulna|upper_arm|forearm|hand)_"
_SHOULDER_MM = 75.0


def bone_depth(inside: Mask, grid: Any) -> Any:
    """Return how deep points lie in bone, as an image of int8, `DEPTH_UNIT` mm.

    Parameters
    ----------
    inside
        Where there is bone, axes (slice, row, column).
    grid
        A SimpleITK image on the same grid.
    """
    depth = np.full(inside.shape, FAR_OUTSIDE, np.int8)
    if inside.any():
        box = _box_to_measure(inside, grid.GetSpacing()[::-1])
        part = _sitk.GetImageFromArray(inside[box].astype(np.uint8))
        part.SetSpacing(grid.GetSpacing())
        depth[box] = _sitk.GetArrayFromImage(_depth_in_box(part))
    return image_like(depth, grid)


def _box_to_measure(inside: Mask, spacing: Sequence[float]) -> Box:
    """Return what is within reach of bone.

    The filter rounds multiples of the spacing. Where they are not exact, distances in a part would
    differ from those in the whole in their last digits: the whole is taken.
    """
    if not all((8 * one).is_integer() for one in spacing):
        return tuple(slice(None) for _ in spacing)
    return bounding_box(inside, tuple(int(np.ceil(_REACH_MM / one)) for one in spacing))


def _depth_in_box(inside: Any) -> Any:
    depth = -_sitk.SignedMaurerDistanceMap(inside, squaredDistance=False, useImageSpacing=True)
    # The filter's zero is the centres of the outermost bone voxels; the surface is further out.
    depth = depth + 0.5 * min(inside.GetSpacing())
    depth = _sitk.SmoothingRecursiveGaussian(depth, _SMOOTH_MM)
    return _sitk.Clamp(depth / DEPTH_UNIT, _sitk.sitkInt8, FAR_OUTSIDE, -FAR_OUTSIDE)


def skin_depth(labels: LabelMap) -> hd.Volume:
    """Return how deep points lie under the skin of trunk and legs: int8, mm, on a coarse grid."""
    body = labels.codes > 0
    pixel = float(labels.grid.GetSpacing()[0])
    for plane in body:
        plane[_apart(plane, pixel)] = False
    body &= ~_named_arms(labels)
    coarse = resampled(image_like(body.astype(np.uint8), labels.grid), NEAREST, _SKIN_SPACING)
    depth = -_sitk.SignedMaurerDistanceMap(coarse, squaredDistance=False, useImageSpacing=True)
    return to_volume(_sitk.Clamp(depth + _SKIN_MM, _sitk.sitkInt8, FAR_OUTSIDE, -FAR_OUTSIDE))


def _named_arms(labels: LabelMap) -> Mask:
    """Return the arms below the shoulders, of an atlas that names what is in them.

    Flesh without a name belongs to the arm if the nearest thing with a name does.
    """
    codes = labels.codes
    arm = [code for code, name in labels.names.items() if re.match(_ARM, name)]
    found = np.zeros(codes.shape, bool)
    if not arm:
        return found
    loose = labels.codes_of(Tissue.FAT)
    heights = np.flatnonzero(np.isin(codes, arm).any(axis=(1, 2)))
    top = heights[-1] - round(_SHOULDER_MM / labels.grid.GetSpacing()[2])
    for index in range(heights[0], top):
        plane = codes[index, ::2, ::2]
        known = (plane > 0) & ~np.isin(plane, loose)
        if not known.any():
            continue
        nearest = ndimage.distance_transform_edt(
            ~known, return_distances=False, return_indices=True
        )
        part = np.isin(plane[tuple(nearest)], arm)
        whole = np.repeat(np.repeat(part, 2, axis=0), 2, axis=1)
        found[index] = whole[: codes.shape[1], : codes.shape[2]]
    return found


def _apart(body: Mask, pixel: float) -> Mask:
    """Return parts of an axial slice that lie apart from the trunk, to its sides: arms."""
    parts, count = ndimage.label(body)
    if count < 2:
        return np.zeros(body.shape, bool)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    centres = ndimage.center_of_mass(body, parts, range(1, count + 1))
    middle = centres[int(np.argmax(sizes))][1]
    numbers = [
        number
        for number, (size, centre) in enumerate(zip(sizes, centres, strict=True), start=1)
        if size < 0.3 * sizes.max() and abs(centre[1] - middle) * pixel > 100
    ]
    return np.isin(parts, numbers)
