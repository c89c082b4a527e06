"""Joints between the arches of vertebrae, where a label map lets one run into the next."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.training.phantoms.labels import LabelMap

_VERTEBRA = re.compile(r"[CTL]\d+")
#: Half the space of a facet joint in images, cartilage on both sides included: 2 to 4 mm wide.
_HALF_MM = 1.5


def part_facets(labels: LabelMap) -> LabelMap:
    """Return the map with cartilage where two vertebrae touch: both give what is less than 1.5 mm from the other.

    At least the voxels whose faces touch: a joint is there, however coarse the map.
    """
    vertebrae = [code for code, name in labels.names.items() if _VERTEBRA.fullmatch(name)]
    parted, cartilage = labels.with_name("facet_cartilage")
    made = labels.codes.copy()
    for code, box in enumerate(ndimage.find_objects(labels.codes), start=1):
        if code not in vertebrae:
            continue
        window = tuple(slice(max(0, part.start - 3), part.stop + 3) for part in box)
        part = labels.codes[window]
        others = np.isin(part, [one for one in vertebrae if one != code])
        if others.any():
            made[window][(part == code) & _near(others, labels.grid.GetSpacing()[::-1])] = cartilage
    return replace(parted, codes=made)


def _near(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.bool_]:
    # From voxel to voxel half a voxel of the way lies in the other.
    away = ndimage.distance_transform_edt(~mask, sampling=spacing)
    return ndimage.binary_dilation(mask) | (away < _HALF_MM + min(spacing) / 2)
