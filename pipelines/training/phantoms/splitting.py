"""Parting labels that are one in an atlas and several in a body."""

from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.boxes import bounding_box

Mask = NDArray[np.bool_]

# SimpleITK ships no types.
_sitk: Any = SimpleITK

#: Height of the hip joints as a share of stature, with room for other bodies.
_HIP_SHARE = (0.46, 0.60)
_HEAD_RADIUS = (18.0, 30.0)  # mm


def split_femora(skeleton: Mask, spacing: float) -> tuple[Mask, Mask] | None:
    """Part the femora off a whole skeleton.

    The head is the largest ball in the joint. What of the skeleton lies outside of it falls into
    femur and pelvis, and a watershed of the distance to the surface, flooded from both, draws the
    line in between.

    Parameters
    ----------
    skeleton
        Shape (slices, rows, columns), from feet to head, rows to the back, columns to the left.
    spacing
        mm, isotropic.

    Returns
    -------
    tuple or None
        Left and right femur; None where there is no pair of hip joints.
    """
    heights = np.flatnonzero(skeleton.any(axis=(1, 2)))
    if heights.size == 0:
        return None
    low, high = (round(heights[0] + share * np.ptp(heights)) for share in _HIP_SHARE)
    bottom = max(0, low - round(300 / spacing))  # short of the knee, where femur meets tibia
    part = skeleton[bottom:high]
    middle = _middle(skeleton[low:high])
    found = []
    for side in (np.s_[middle:], np.s_[:middle]):
        half = np.zeros_like(part)
        half[..., side] = part[..., side]
        if not half.any():
            return None
        box = bounding_box(half, (1, 1, 1))  # what is next to bone, for it to have a surface
        femur = _split_one(half[box], low - bottom - box[0].start, spacing)
        if femur is None:
            return None
        whole = np.zeros_like(skeleton)
        whole[bottom:high][box] = femur
        found.append(whole)
    return found[0], found[1]


def _middle(skeleton: Mask) -> int:
    columns = np.flatnonzero(skeleton.any(axis=(0, 1)))
    return int((columns[0] + columns[-1] + 1) // 2)


def _split_one(half: Mask, low: int, spacing: float) -> Mask | None:
    """Return the femur of one side; the joint lies above the slice `low`."""
    depth = ndimage.distance_transform_edt(half) * spacing
    joint = depth[low:]
    head = np.unravel_index(int(joint.argmax()), joint.shape)
    radius = float(joint[head])
    if not _HEAD_RADIUS[0] < radius < _HEAD_RADIUS[1]:
        return None
    centre = (int(head[0]) + low, int(head[1]), int(head[2]))
    axes = np.ogrid[tuple(slice(length) for length in half.shape)]
    away = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))) * spacing
    parts, count = ndimage.label(half & (away > radius + 2 * spacing))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    below = parts[: max(0, low - round(60 / spacing))]
    shafts = np.bincount(below.ravel(), minlength=count + 1)[1:]
    if shafts.size == 0 or shafts.max() == 0:
        return None
    shaft = int(shafts.argmax()) + 1
    markers = np.zeros(half.shape, np.uint8)
    markers[(parts > 0) & (parts != shaft) & (sizes[parts] > 200)] = 2
    markers[parts == shaft] = 1
    markers[half & (away < 0.9 * radius)] = 1
    return _flood(half, depth, markers)


def _flood(half: Mask, depth: NDArray[np.float64], markers: NDArray[np.uint8]) -> Mask:
    flooded = _sitk.MorphologicalWatershedFromMarkers(
        _sitk.GetImageFromArray(-depth.astype(np.float32)),
        _sitk.GetImageFromArray(markers),
        markWatershedLine=False,
        fullyConnected=False,
    )
    femur = half & (_sitk.GetArrayFromImage(flooded) == 1)
    parts, count = ndimage.label(femur)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())
